"""A recorded build is judged as its cache would be; records from elsewhere may say anything."""

from dataclasses import replace
from datetime import date

import pytest

from store.domain.state import BuildStatus
from store.formats.tables import encode_tiles
from tests.small_builds import FakeSite
from tools.analysis.readiness import readiness_document
from tools.forensics.sources import NoArtifacts

TODAY = date(2026, 11, 29)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = FakeSite(tmp_path_factory.mktemp("judged"))
    assert site.build(tiles={"captured": date(2020, 1, 1)}).error is None
    return site


@pytest.fixture
def build(site):
    return site.state().head_build


class Holding:
    """Artifacts that are all the same bytes."""

    def __init__(self, data):
        self.data = data

    def read(self, ref):
        return self.data


def test_of_a_committed_build(build):
    table = encode_tiles([(1, "00" * 32, date(2020, 1, 1)), (2, "00" * 32, None)])
    held = replace(build, tiles=replace(build.tiles, count=2))
    found = readiness_document(held, Holding(table), TODAY)
    assert (found["oldest"], found["age_limit_days"], found["read"]) == ("2020-01-01", 365, None)
    kinds = [each["kind"] for each in found["warnings"]]
    assert {"imagery-old", "imagery-undated", "holes", "no-proof"} <= set(kinds)


def test_without_its_files_ages_are_not_known(build):
    found = readiness_document(build, NoArtifacts(), TODAY)
    assert found["oldest"] is None
    assert readiness_document(replace(build, tiles=None), NoArtifacts(), TODAY)["oldest"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"status": BuildStatus.FAILED},
        {"coverage": None},
        {"inputs": {}},
        {"inputs": {"origin": 1, "bbox_e7": [1, 2, 3, 4]}},
    ],
)
def test_of_others_nothing_is_said(build, change):
    assert readiness_document(replace(build, **change), NoArtifacts(), TODAY) is None


def test_of_no_build_or_day_nothing_is_said(build):
    assert readiness_document(None, NoArtifacts(), TODAY) is None
    assert readiness_document(build, NoArtifacts(), None) is None
    assert readiness_document(build, Holding(b"abc"), TODAY) is None
