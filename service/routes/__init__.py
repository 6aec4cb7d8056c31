"""The HTTP contract, version 1, with a file for each subject. Each route does one thing, and lets
errors pass.

The order is that of the API document. Where two paths match a request, the first answers it.
"""

from __future__ import annotations

from . import admin, collections, composed, embeddings, health, items, jobs, models, page, search

SUBJECTS = (page, health, models, embeddings, collections, items, composed, jobs, admin, search)
ROUTES = [route for subject in SUBJECTS for route in subject.router.routes]
