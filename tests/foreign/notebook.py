"""Runs a notebook of our Python client, as Jupyter runs one, and prints what its cells said.

python notebook.py ADDRESS KEY SOUND, in an environment that has nbclient and ipykernel.
"""

import json
import sys

import nbformat
from nbclient import NotebookClient

ADDRESS, KEY, SOUND = sys.argv[1:]
CELLS = [
    "from pathlib import Path\n"
    "from service.client import AsyncClient, Client\n"
    f"tercet = Client({ADDRESS!r}, key={KEY!r})\n"
    f"added = tercet.add('default', Path({SOUND!r}), id='tone')\n"
    "added['id']",
    "[hit['id'] for hit in tercet.search('tone', target='audio')['hits']]",
    # a cell runs inside of the kernel's event loop
    f"async with AsyncClient({ADDRESS!r}, key={KEY!r}) as tercet:\n"
    "    answer = await tercet.search('tone', target='audio')\n"
    "[hit['id'] for hit in answer['hits']]",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([cell.outputs[-1]["data"]["text/plain"] for cell in notebook.cells]))
