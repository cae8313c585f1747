"""What an index is made of, in the journal, in a manifest, and what refuses to be read as one."""

import pytest

from store.domain import index_files
from store.domain.events import IndexBuilt, IndexExtended
from store.domain.manifest_projection import index_document
from store.manifest import index_entry
from tests.played_builds import make, ref_of

WHOLE, DELTA, TABLE = ref_of(b"whole"), ref_of(b"delta"), ref_of(b"table")
BUILT = make(
    IndexBuilt, key="1" * 64, artifact=WHOLE, blocks=TABLE, kind="hnsw", metric="ip", dimensions=4, rows=100
)
EXTENDED = make(
    IndexExtended,
    key="2" * 64,
    artifact=DELTA,
    base=WHOLE,
    blocks=TABLE,
    kind="hnsw",
    metric="ip",
    dimensions=4,
    rows=103,
    added=5,
    dropped=2,
)


def test_files_of_an_index():
    assert [*index_files.named(BUILT)] == [("descriptor index", WHOLE), ("block table", TABLE)]
    assert [*index_files.named(EXTENDED)] == [
        ("descriptor index", WHOLE),
        ("index delta", DELTA),
        ("block table", TABLE),
    ]
    assert index_files.refs_of(EXTENDED) == (WHOLE, DELTA, TABLE)
    assert (index_files.whole_of(BUILT), index_files.delta_of(BUILT)) == (WHOLE, None)
    assert (index_files.whole_of(EXTENDED), index_files.delta_of(EXTENDED)) == (WHOLE, DELTA)
    assert (index_files.whole_rows(BUILT), index_files.whole_rows(EXTENDED)) == (100, 100)


def test_an_entry_says_what_the_event_said():
    plain = index_entry.parse(index_document(BUILT), number=1)
    assert (plain.artifact, plain.delta, plain.blocks, plain.rows, plain.whole_rows) == (
        WHOLE,
        None,
        TABLE,
        100,
        100,
    )
    found = index_entry.parse(index_document(EXTENDED), number=2)
    assert found.delta == index_entry.DeltaEntry(artifact=DELTA, added=5, dropped=2)
    assert (found.artifact, found.rows, found.whole_rows, found.step_key) == (WHOLE, 103, 100, "2" * 64)


@pytest.mark.parametrize(
    ("event", "number", "change", "reason"),
    [
        (BUILT, 2, {}, "format 2 without an index delta"),
        (EXTENDED, 1, {}, "format 1 with an index delta"),
        (EXTENDED, 2, {"rows": 4}, "a delta of 5 rows in an index of 4"),
        (
            EXTENDED,
            2,
            {"delta": {"artifact": {"sha256": "a" * 64, "size": 1}, "added": 5}},
            "index delta holds",
        ),
        (
            EXTENDED,
            2,
            {"delta": {"artifact": {"sha256": "a" * 64, "size": 1}, "added": -5, "dropped": 0}},
            "a count",
        ),
    ],
)
def test_an_entry_that_says_two_things_is_refused(event, number, change, reason):
    with pytest.raises(ValueError, match=reason):
        index_entry.parse({**index_document(event), **change}, number=number)
