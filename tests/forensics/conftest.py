"""Tests of whole builds share the engines of networks that are the same."""

import pytest

from tests.shared_engines import shared_engines


@pytest.fixture(autouse=True)
def engines_are_shared():
    with shared_engines():
        yield
