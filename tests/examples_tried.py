"""How many examples of a property, and which cases of a test, a run tries; `tests/conftest.py` chooses the profile."""

import pytest
from hypothesis import settings

USUAL = 100
"""Examples of a property that says nothing else, where all are tried: what Hypothesis does by default."""


def examples(count):
    """Return how many of so many examples this run tries, at least one."""
    return max(1, count * settings.default.max_examples // USUAL)


def mostly_deep(cases, *kept):
    """Cases to parametrise a test with: the default run tries those that are kept, the deep tests all others.

    A case is a value, or a tuple of values for several arguments; one is kept by its first value.
    """
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    first = [row[0] for row in rows]
    assert kept
    assert all(each in first for each in kept), kept
    return [pytest.param(*row, marks=() if row[0] in kept else pytest.mark.deep) for row in rows]
