"""What pytest is told of this folder."""

import os
from collections.abc import Iterator

import pytest

# No tests: a command of its own (`make mutate`), which needs a package that tests do not, and what
# test_foreign.py runs in another environment.
collect_ignore = ["mutation.py", "foreign"]


@pytest.fixture(autouse=True)
def no_real_time() -> Iterator[None]:
    """A test that leaves a real-time priority would let all later ones starve the machine."""
    yield
    left = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    assert left == os.SCHED_OTHER
