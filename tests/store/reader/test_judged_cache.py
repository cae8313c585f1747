"""`FlightCache` judges whether it is fit to fly as the ground does, and refuses what falls short of a demand."""

import gc
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone

import numpy as np
import pytest
from PIL import Image

from pipeline.request.proof_options import ProofOptions
from store.base.geometry.level import tile_side_m
from store.disk.artifacts import Artifacts
from store.disk.capture_dates import stored_capture_dates
from store.errors import ErrorKind, NoGoError, RequestRefusedError
from store.manifest.manifest import parse
from store.reader import ALLOW_UNSIGNED, FlightCache, Readiness
from store.trust.key_files import read_trusted, write_key_pair
from store.verify.verify import Depth, verify
from tests.fixed_day import TODAY, fixed_day
from tests.ground import ALTITUDE_M, PLACES, ZOOM, GroundSite, chunk_middle, frame_at, place_at

CAPTURED = TODAY - timedelta(days=100)
PROOF = ProofOptions(pictures="truth.csv", min=0.5, within_m=tile_side_m(ZOOM, 0) / 2)


@pytest.fixture(scope="module", autouse=True)
def _clock():
    with fixed_day():
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A signed cache that found two of three photographs, with imagery of 100 days ago."""
    site = GroundSite(tmp_path_factory.mktemp("judged"))
    rows = ["file,lon,lat,altitude_m,heading_deg"]
    for name, place in PLACES.items():
        x, y = chunk_middle(*place)
        Image.fromarray(frame_at(x, y)).save(site.root / name)
        lon, lat = place_at(x + (64 if name == "two.png" else 0), y)
        rows.append(f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0")
    site.write("truth.csv", "\n".join(rows).encode())
    write_key_pair(site.root / "key")
    provisioner = site.provisioner(signing_key=site.root / "key")
    request = site.request(proof=PROOF, tiles={"captured": CAPTURED})
    assert provisioner.build_cache_artifacts(request).error is None
    return site


def fly(site, **demands):
    keys = read_trusted((str(site.root / "key.pub"),), cache=site.cache)
    return FlightCache.open(site.cache, trusted_keys=keys, **demands)


def kinds(found):
    return [each.kind for each in found.warnings]


def test_it_says_nothing_of_a_cache_that_was_read_and_loaded(site):
    with fly(site) as cache:
        assert kinds(cache.readiness()) == ["content-not-read"]
        cache.verify()
        assert kinds(cache.readiness()) == ["not-loaded"]
        cache.load_all()
        found = cache.readiness()
    assert isinstance(found, Readiness)
    assert found.warnings == ()
    assert (found.read, found.loaded, found.age_days) == ("full", True, 100)
    # In the words and numbers of the ground.
    report = verify(
        site.layout,
        depth=Depth.FULL,
        trusted_keys=read_trusted((str(site.root / "key.pub"),), cache=site.cache),
    )
    assert report.readiness(TODAY) == found


def test_without_keys_signatures_were_not_checked(site):
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        found = cache.readiness()
    assert "signature-unchecked" in kinds(found)
    assert found.signed_by is None


def test_day_and_place_of_the_flight(site):
    with fly(site) as cache:
        assert cache.readiness(today=CAPTURED + timedelta(days=366)).age_days == 366
        assert cache.readiness(today=datetime.combine(TODAY, time(23), timezone.utc)).age_days == 100
        behind = cache.readiness(today=date(1970, 1, 1))
        assert (behind.age_days, "clock" in kinds(behind)) == (100, True)
        for origin in ((30.03, 44.99), [30.03, 44.99, 10.0], np.array([30.03, 44.99]).tolist()):
            assert "origin-outside" in kinds(cache.readiness(origin=origin))
        assert cache.readiness(origin=place_at(*chunk_middle(9, 7))).origin_inside
        for today in ("2026-01-01", 20_000):
            with pytest.raises(TypeError, match="expected a date"):
                cache.readiness(today=today)
        for origin in ("30, 44", 30.0, (30.0,), ("30", "44")):
            with pytest.raises(TypeError, match="longitude and latitude"):
                cache.readiness(origin=origin)
        for origin in ((181, 0), (0, 91), (float("nan"), 0), (0, float("nan")), (10**400, 0)):
            with pytest.raises(ValueError, match="longitude from -180"):
                cache.readiness(origin=origin)
    with pytest.raises(RequestRefusedError):
        cache.readiness()


@pytest.mark.parametrize(
    ("demands", "found"),
    [
        ({"max_age_days": 99}, "100 days old"),
        ({"proof": 0.7}, "found 2 of 3"),
        ({"proof": 1, "max_age_days": 3}, "at most 3 days"),
    ],
)
def test_what_falls_short_of_a_demand_is_refused_with_the_numbers(site, demands, found):
    with pytest.raises(NoGoError, match=found) as caught:
        fly(site, **demands)
    assert caught.value.kind is ErrorKind.READINESS
    assert len(caught.value.reasons) == len(demands)
    assert caught.value.hint


def test_what_meets_every_demand_flies(site):
    for proof in (True, 0, 0.66, False, None):
        fly(site, min_coverage=1.0, max_age_days=100, proof=proof).close()


@pytest.mark.parametrize(
    ("demands", "error"),
    [
        ({"min_coverage": 1.5}, ValueError),
        ({"min_coverage": float("nan")}, ValueError),
        ({"min_coverage": "1"}, TypeError),
        ({"proof": -0.1}, ValueError),
        ({"proof": 10**400}, ValueError),
        ({"max_age_days": -1}, ValueError),
        ({"max_age_days": 1.5}, TypeError),
    ],
)
def test_a_demand_that_is_none_is_refused_and_no_file_stays_open(site, demands, error, open_files):
    before = open_files()
    with pytest.raises(error):
        fly(site, **demands)
    assert open_files() == before


def test_a_demand_that_is_not_met_leaves_no_file_open(site, open_files):
    before = open_files()
    with pytest.raises(NoGoError):
        fly(site, max_age_days=1)
    assert open_files() == before


@pytest.fixture
def open_files():
    from pathlib import Path

    gc.collect()  # what earlier tests left
    return lambda: len(list(Path("/proc/self/fd").iterdir()))


def test_a_cache_without_holes_proof_or_dates(tmp_path):
    site = GroundSite(tmp_path)
    (tmp_path / f"tiles/{ZOOM}/2047/2047.png").unlink()
    assert site.build().error is None
    opened = FlightCache.open
    with opened(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        found = cache.readiness()
        assert {"holes", "imagery-undated", "no-proof"} <= set(kinds(found))
    for demands, said in (
        ({"min_coverage": 0.999}, "at least 0.999 of the area, found 0.9"),
        ({"proof": True}, "known places, found none"),
        ({"max_age_days": 10_000}, "tiles without"),
    ):
        with pytest.raises(NoGoError, match=said):
            opened(site.cache, trusted_keys=ALLOW_UNSIGNED, **demands)


class TestStoredDates:
    def table(self, site):
        manifest = parse(site.head_bytes())
        return Artifacts(site.layout), manifest.tiles, manifest.tile_count

    def test_they_are_read_without_the_rest(self, site):
        artifacts, table, tiles = self.table(site)
        assert stored_capture_dates(artifacts, table, tiles=tiles).oldest == CAPTURED

    def test_of_a_table_that_cannot_be_read_nothing_is_said(self, tmp_path):
        site = GroundSite(tmp_path)
        assert site.build(tiles={"captured": CAPTURED}).error is None
        artifacts, table, tiles = self.table(site)
        path = site.layout.artifact(table.sha256)
        assert stored_capture_dates(artifacts, replace(table, size=1), tiles=tiles) is None
        assert stored_capture_dates(artifacts, table, tiles=10**9) is None
        data = bytearray(path.read_bytes())
        data[-4:] = b"\x00\x00\x00\x7f"  # a year that no calendar has
        path.unlink()
        path.write_bytes(data)
        assert stored_capture_dates(artifacts, table, tiles=tiles) is None
        path.unlink()
        assert stored_capture_dates(artifacts, table, tiles=tiles) is None
        report = verify(site.layout)
        assert not report.go
        assert report.readiness(TODAY).oldest is None


def test_it_says_from_which_margin_on_to_trust_an_answer(site):
    with fly(site) as cache:
        table = next(each for each in cache.manifest.body["checks"] if each["check"] == "proof")["measured"]
        found = cache.margin_for(0.6)
        assert [round(found.margin * 1e6), found.photographs, found.right] in table["margins"]
        assert (found.right, found.photographs) == (2, 3)
        assert cache.margin_for(0).margin == found.margin
        for wrong, error in ((True, TypeError), ("0.9", TypeError), (None, TypeError), (1.5, ValueError)):
            with pytest.raises(error, match="part"):
                cache.margin_for(wrong)


def test_it_says_where_the_request_takes_off(site):
    with fly(site) as cache:
        assert cache.origin == (0.0, 0.0, 100.0)
        cache.manifest.inputs["origin"] = {"lon_e7": "1"}
        with pytest.raises(NoGoError, match="expected the origin"):
            _ = cache.origin
