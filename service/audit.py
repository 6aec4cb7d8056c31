"""A line of JSON for each change: who, what, of which collection and item, when, and its outcome.

The lines go into a file of their own, or into the log under the name `tercet.audit`. A key's name
is in them, never the key.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from .jobs import Job

AUDIT = logging.getLogger("tercet.audit")


def record_job(file: Path | None, job: Job) -> None:
    """Write the line of a job that has ended. Who began it is in the line `job.add`."""
    write_line(
        file,
        {
            "action": "job.end",
            "job": job.id,
            "collection": job.collection,
            "path": job.path,
            "outcome": job.state,
            "indexed": job.indexed,
            "failed": job.failed,
        },
    )


def write_line(file: Path | None, entry: dict[str, Any]) -> None:
    """Add a line with the time to a file; to the log where there is none, or where it cannot be
    written.
    """
    now = time.time()
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    entry = {"time": f"{second}.{int(now % 1 * 1000):03d}Z", **entry}
    line = json.dumps(entry, ensure_ascii=False)
    if file is not None:
        try:
            append_line(file, line)
            return
        except OSError as error:
            AUDIT.error("the file of the audit cannot be written: %s", error.strerror)
    AUDIT.info("%s", line, extra={"fields": {"message": entry["action"], **entry}})


def append_line(file: Path, line: str) -> None:
    """Add a line in one write, so that lines of several processes do not mix. The file is opened
    anew for each, so it may be moved away at any time. Raises OSError.
    """
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode("utf-8", "replace"))
    finally:
        os.close(handle)


def check_writable(file: Path) -> None:
    """Raises OSError, with a sentence that says why it cannot be written."""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except OSError as error:
        raise OSError(f"--audit: {file} cannot be written: {error.strerror}") from error
