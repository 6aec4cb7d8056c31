"""The HTTP contract, version 1, with a file for each subject. Each route does one thing, and lets
errors pass.

The order is that of the API document. Where two paths match a request, the first answers it.
"""

from __future__ import annotations

from . import (
    admin,
    agreement,
    collections,
    composed,
    embeddings,
    feedback,
    health,
    highlights,
    items,
    jobs,
    models,
    page,
    rank,
    search,
    session,
    tags,
    where,
)

SUBJECTS = (  # those that are asked most come first, because routes are tried in turn
    embeddings,
    search,
    composed,
    page,
    session,
    health,
    models,
    collections,
    tags,
    highlights,
    where,
    agreement,
    items,
    rank,
    feedback,
    jobs,
    admin,
)
ROUTES = [route for subject in SUBJECTS for route in subject.router.routes]
UPLOADS = [route for subject in SUBJECTS for route in subject.router.uploads]


def takes_files(path: str) -> bool:
    """Whether a form that is sent to this path may hold files."""
    without_slash = path.removesuffix("/")
    return any(route.path_regex.match(without_slash) for route in UPLOADS)
