"""A client of Tercet's HTTP contract: `Client`, and `AsyncClient` with the same methods to be
awaited. Its code is `service/client.py` of Tercet itself.
"""

from .client import AsyncClient, Client, Refused

__all__ = ["AsyncClient", "Client", "Refused"]
