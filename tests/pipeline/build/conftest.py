"""Whole builds share the engines of networks that are the same."""

import pytest

from tests.shared_engines import shared_engines


@pytest.fixture(autouse=True)
def _shared_engines():
    with shared_engines():
        yield
