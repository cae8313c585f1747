"""How many examples of a property a run tries: `tests/conftest.py` chooses the profile."""

from hypothesis import settings

USUAL = 100
"""Examples of a property that says nothing else, where all are tried: what Hypothesis does by default."""


def examples(count):
    """Return how many of so many examples this run tries, at least one."""
    return max(1, count * settings.default.max_examples // USUAL)
