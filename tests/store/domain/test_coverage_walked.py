"""The part of an area in which a place can be found."""

import pytest

from store.base.values import ArtifactRef
from store.domain.events import CoverageWalked


@pytest.mark.parametrize(
    ("wanted", "chunks", "localisable"), [(0, False, None), (40, False, 0.625), (40, True, 0.75)]
)
def test_skipped_tiles_are_ground_only_where_tiles_have_the_descriptors(wanted, chunks, localisable):
    walked = CoverageWalked(
        files=1,
        size=1,
        unreferenced=0,
        problems=(),
        geography=ArtifactRef(sha256="0" * 64, size=1),
        wanted=wanted,
        present=36,
        featureless=6,
        skipped=5,
    )
    assert walked.localisable(chunks=chunks) == localisable
