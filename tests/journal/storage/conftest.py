"""Fixtures of the tests of what knows LMDB."""

import pytest

from journal import Journal
from journal.testing import sample_record


@pytest.fixture
def path(tmp_path):
    """A journal of 29 records, each with a projection."""
    path = tmp_path / "journal.mdb"
    with Journal.open(path) as journal:
        for number in range(1, 30):
            journal.append([sample_record(number, size=300)], {b"%d" % number: bytes(number * 100)})
    return path
