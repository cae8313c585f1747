"""What a cache that is intact still lacks to be fit to fly, and what mends it."""

import math
from dataclasses import replace
from datetime import date, timedelta

import pytest

from store.errors import ErrorKind, NoGoError
from store.formats.area_shape import AreaShape
from store.formats.capture_dates import CaptureDates, parse_capture_column
from store.trust.readiness import MAX_AGE_DAYS, judge
from store.trust.readiness_facts import Resolution, Signature, facts_of_inputs, facts_of_manifest
from tests.cache_facts import FIGURES, TODAY, a_level, a_reading, make_facts, some_counts, some_dates


def kinds(facts, *, today=TODAY, origin=None):
    return [each.kind for each in judge(facts, today=today, origin=origin).warnings]


def the_warning(facts, *, today=TODAY):
    (found,) = judge(facts, today=today).warnings
    assert found.hint
    assert found.hint not in found.message
    return found


def test_of_a_cache_that_is_fit_to_fly_nothing_is_said():
    found = judge(make_facts(), today=TODAY)
    assert found.warnings == ()
    assert found.to_document() == {
        "coverage": 1.0,
        "holes": 0,
        "featureless": 0,
        "oldest": "2026-03-01",
        "age_days": 273,
        "age_limit_days": 365,
        "origin_inside": True,
        "metres_per_pixel": {"asked": 0.5, "available": 0.4},
        "read": "full",
        "loaded": True,
        "proof": FIGURES,
        "signed_by": "ab" * 8,
    }


def test_what_is_not_known_is_not_judged():
    unknown = dict.fromkeys(
        (
            "sector",
            "area",
            "origin",
            "counts",
            "dates",
            "proof",
            "committed",
            "reading",
            "signature",
            "signed_by",
        )
    )
    found = judge(make_facts(resolutions=(), **unknown), today=TODAY)
    assert found.warnings == ()
    assert set(found.to_document().values()) == {None}
    assert judge(make_facts(counts=some_counts(wanted=0, present=0)), today=TODAY).coverage is None


class TestArea:
    def test_holes_of_ground_and_of_tiles(self):
        counts = some_counts(present=150)
        assert the_warning(make_facts(counts=counts)).message.startswith(
            "25.0 % of the area is under no chunk"
        )
        tiles = judge(make_facts(counts=counts, chunks=False), today=TODAY)
        assert (tiles.coverage, tiles.holes) == (0.75, 50)
        assert tiles.warnings[0].message == "50 of 200 wanted tiles are missing from the source or left out"

    def test_however_small_a_part_is_it_is_not_nothing(self):
        counts = some_counts(wanted=100_000, present=99_999)
        assert the_warning(make_facts(counts=counts)).message.startswith("less than 0.1 % of the area")
        found = judge(make_facts(counts=counts), today=TODAY)
        assert found.shortfalls(min_coverage=1, max_age_days=None, min_proof=None)

    def test_numbers_that_no_build_records_are_no_crash(self):
        for chunks in (True, False):
            counts = some_counts(wanted=0, present=0, featureless=1, skipped=1)
            assert kinds(make_facts(counts=counts, chunks=chunks))[:2] == ["skipped-tiles", "featureless"]

    @pytest.mark.parametrize("west", [100_000_000, 1_799_997_000])
    @pytest.mark.parametrize("north", [600_000_000, -600_000_000])
    def test_an_area_no_larger_than_a_chunk_gives_answers_without_a_margin(self, west, north):
        """At 60 degrees 0.0014 of longitude and 0.0007 of latitude are about 78 m each: 110 m across."""

        def of(wide, tall, *sides):
            area = (west, north - tall, west + wide - (3_600_000_000 if west > 10**9 else 0), north)
            levels = tuple(replace(a_level(0.4), side_m=side) for side in sides)
            return make_facts(area=area, resolutions=levels, origin=None)

        found = the_warning(of(14_000, 7_000, 120.0, 240.0))
        assert found.kind == "no-margin"
        assert found.message.startswith("the area is 110 m across, and one chunk 120 m")
        for facts in (of(14_000, 7_000, 100.0, 240.0), of(20_000, 7_000, 120.0), of(14_000, 12_000, 120.0)):
            assert kinds(facts) == []

    def test_a_band_around_the_globe_is_no_small_area(self):
        band = make_facts(area=(-1_800_000_000, 0, 1_800_000_000, 5_000), resolutions=(a_level(0.4),))
        assert "no-margin" not in kinds(band)

    @pytest.mark.parametrize(
        ("skipped", "chunks", "said", "coverage"),
        [
            (1, True, "1 tile could not be used", 1.0),
            (2, True, "2 tiles could not", 1.0),
            (1, False, "1 of 200 tiles (1 %)", 0.995),
            (120, False, "skipped: most of the area is not covered", 0.4),
        ],
    )
    def test_skipped_tiles_are_no_steps_of_ground(self, skipped, chunks, said, coverage):
        found = judge(make_facts(counts=some_counts(skipped=skipped), chunks=chunks), today=TODAY)
        assert found.warnings[0].kind == "skipped-tiles"
        assert said in found.warnings[0].message
        assert found.coverage == coverage

    @pytest.mark.parametrize(
        ("featureless", "chunks", "said"),
        [(3, True, "1.5 % of the area is featureless"), (1, False, "1 tile is"), (3, False, "3 tiles are")],
    )
    def test_featureless_ground(self, featureless, chunks, said):
        found = judge(make_facts(counts=some_counts(featureless=featureless), chunks=chunks), today=TODAY)
        assert found.warnings[0].kind == "featureless"
        assert said in found.warnings[0].message
        assert found.coverage == pytest.approx(1 - featureless / 200)


class TestAge:
    @pytest.mark.parametrize(("sector", "limit"), MAX_AGE_DAYS.items())
    def test_the_age_is_that_of_today(self, sector, limit):
        facts = make_facts(sector=sector)
        last = date(2026, 3, 1) + timedelta(days=limit)
        assert kinds(facts, today=last) == []
        found = the_warning(facts, today=last + timedelta(days=1))
        assert found.kind == "imagery-old"
        for part in ("2026-03-01", f"{limit + 1} days", str(limit), sector):
            assert part in found.message

    def test_an_unknown_sector_has_no_limit(self):
        assert kinds(make_facts(sector="the moon"), today=date(2090, 1, 1)) == []

    def test_tiles_without_a_date(self):
        assert the_warning(make_facts(dates=some_dates(undated=1))).message == "1 tile is of unknown age"
        none = judge(make_facts(dates=some_dates(None, None, undated=7)), today=TODAY)
        assert (none.age_days, none.oldest) == (None, None)
        assert [each.message for each in none.warnings] == ["7 tiles are of unknown age"]

    def test_tiles_from_the_future(self):
        found = the_warning(make_facts(dates=some_dates(newest=date(2027, 1, 1))))
        assert (found.kind, "2027-01-01" in found.message) == ("imagery-from-future", True)
        future = some_dates(date(2027, 1, 1), date(2027, 1, 1))
        assert judge(make_facts(dates=future), today=TODAY).age_days == 0

    def test_a_clock_behind_the_commit_is_said_and_ages_are_those_of_the_commit(self):
        found = judge(make_facts(committed=TODAY), today=date(1970, 1, 1))
        assert [each.kind for each in found.warnings] == ["clock"]
        assert found.age_days == 273
        assert kinds(make_facts(committed=TODAY), today=TODAY) == []

    def test_a_demanded_age_needs_a_clock(self):
        demands = {"min_coverage": None, "max_age_days": 999, "min_proof": None}
        wrong = judge(make_facts(committed=TODAY), today=date(1970, 1, 1))
        assert wrong.shortfalls(**demands) == (
            "imagery: expected a clock that tells its age, found one behind the commit",
        )
        assert judge(make_facts(committed=TODAY), today=TODAY).shortfalls(**demands) == ()


class TestOrigin:
    def test_in_the_box_around_an_area_nobody_knows(self):
        found = judge(make_facts(area_is_box=False), today=TODAY)
        assert found.origin_inside is None
        assert judge(make_facts(area_is_box=False, origin=(0, 0)), today=TODAY).origin_inside is False

    @pytest.mark.parametrize(("longitude", "inside"), [(101_000_000, True), (106_000_000, False)])
    def test_in_the_shape_itself_where_it_is_known(self, longitude, inside):
        west = ((100_000_000, 200_000_000), (105_000_000, 200_000_000), (105_000_000, 210_000_000))
        shape = AreaShape(polygons=[[west], [[(x + 50, y) for x, y in west]]], routes=(), width_mm=0)
        facts = make_facts(area_is_box=False, shape=shape, origin=(longitude, 200_500_000))
        found = judge(facts, today=TODAY)
        assert found.origin_inside is inside
        assert [each.kind for each in found.warnings] == ([] if inside else ["origin-outside"])
        assert all("outside of the area within [10.0," in each.message for each in found.warnings)

    def test_outside_and_elsewhere(self):
        found = the_warning(make_facts(origin=(0, 0)))
        assert found.message == "the take-off [0.0, 0.0] lies outside of the area [10.0, 20.0, 11.0, 21.0]"
        assert found.hint == "correct origin or widen bbox, then c10 build"
        assert "longitude comes first" in the_warning(make_facts(origin=(205_000_000, 105_000_000))).hint
        assert kinds(make_facts(), origin=(0, 0)) == ["origin-outside"]
        assert kinds(make_facts(origin=(0, 0)), origin=(110_000_000, 210_000_000)) == []

    @pytest.mark.parametrize(("longitude", "inside"), [(179, True), (-179, True), (0, False)])
    def test_across_the_antimeridian(self, longitude, inside):
        facts = make_facts(area=(1_780_000_000, 0, -1_780_000_000, 10), origin=(longitude * 10_000_000, 5))
        assert judge(facts, today=TODAY).origin_inside is inside


@pytest.mark.parametrize(
    ("available", "asked", "warned"),
    [
        (0.5, 0.3, False),  # the field asks for no finer imagery
        (0.51, 0.3, True),
        (0.61, 0.3, True),
        (0.45, 0.2, True),  # less than half of the detail
        (1.2, 1.3, False),
        (1.4, 1.3, True),
    ],
)
def test_imagery_that_is_coarser_than_asked(available, asked, warned):
    levels = (a_level(available, asked=asked, number=2), a_level(0.1))
    assert kinds(make_facts(resolutions=levels)) == (["resolution"] if warned else [])
    found = judge(make_facts(resolutions=levels), today=TODAY)
    assert found.resolution == levels[0]
    if warned:
        assert f"level 2: the imagery has {available:.2f} m per pixel" in found.warnings[0].message


def test_tiles_recognise_no_photograph_and_a_proof_is_missed():
    assert kinds(make_facts(chunks=False, has_proof=False)) == ["tile-descriptors", "no-proof"]


class TestReading:
    def test_content_that_nobody_read(self):
        quick = a_reading(depth="quick", hashed=0, loaded=False)
        assert "the content of no file was read, type" in the_warning(make_facts(reading=quick)).message
        part = a_reading(depth="budget", hashed=5, loaded=False)
        assert "the content of 5 of 9 files was read" in the_warning(make_facts(reading=part)).message
        assert judge(make_facts(reading=quick), today=TODAY).loaded is None

    @pytest.mark.parametrize("depth", ["full", "budget"])
    def test_what_was_read_and_not_loaded(self, depth):
        found = the_warning(make_facts(reading=a_reading(depth=depth, loaded=False)))
        assert found.message == "engine and index were not loaded here"

    def test_what_could_not_be_loaded(self):
        facts = make_facts(reading=a_reading(not_loaded={"descriptor index": "expected faiss, found none"}))
        assert (
            the_warning(facts).message == "descriptor index was not loaded here: expected faiss, found none"
        )
        assert judge(facts, today=TODAY).loaded is False

    def test_engines_for_another_device(self):
        facts = make_facts(
            reading=a_reading(loaded=False, elsewhere={"engine place": "it is for tensorrt sm87"})
        )
        assert the_warning(facts).kind == "other-device"
        assert judge(facts, today=TODAY).loaded is False


def test_signatures():
    assert kinds(make_facts(signature=Signature.ABSENT)) == ["unsigned"]
    assert kinds(make_facts(signature=Signature.UNCHECKED)) == ["signature-unchecked"]


class TestDemands:
    def shortfalls(self, facts, **demands):
        settings = {"min_coverage": None, "max_age_days": None, "min_proof": None} | demands
        return judge(facts, today=TODAY).shortfalls(**settings)

    def test_none_and_met(self):
        assert self.shortfalls(make_facts(counts=None, dates=None, proof=None)) == ()
        assert self.shortfalls(make_facts(), min_coverage=1, max_age_days=273, min_proof=14 / 16) == ()

    def test_coverage(self):
        short = self.shortfalls(make_facts(counts=some_counts(present=150)), min_coverage=0.9)
        assert short == ("coverage: expected a place to be found in at least 0.9 of the area, found 0.75",)
        assert "not known" in self.shortfalls(make_facts(counts=None), min_coverage=0)[0]

    def test_age(self):
        (short,) = self.shortfalls(make_facts(), max_age_days=90)
        assert "at most 90 days" in short
        assert "2026-03-01, 273 days old" in short
        for dates in (None, some_dates(undated=1), some_dates(None, None, undated=2)):
            (short,) = self.shortfalls(make_facts(dates=dates), max_age_days=1000)
            assert "without" in short

    def test_proof(self):
        (short,) = self.shortfalls(make_facts(), min_proof=0.9)
        assert "at least 0.9" in short
        assert "14 of 16" in short
        assert "found none" in self.shortfalls(make_facts(proof=None), min_proof=0)[0]


class TestDates:
    def test_of_a_column(self):
        column = b"".join(day.to_bytes(4, "little", signed=True) for day in (20_000, -(1 << 31), 19_000))
        found = parse_capture_column(column)
        assert found == CaptureDates(oldest=date(2022, 1, 8), newest=date(2024, 10, 4), undated=1)
        assert parse_capture_column(b"") == CaptureDates(oldest=None, newest=None, undated=0)
        assert str(found) == "2022-01-08 to 2024-10-04, unknown for 1"
        assert str(parse_capture_column(column[:4])) == "2024-10-04"
        assert str(parse_capture_column(b"")) == "unknown"

    @pytest.mark.parametrize("column", [b"abc", (1 << 31).to_bytes(4, "little")[:3] + b"\x7f"])
    def test_of_other_bytes(self, column):
        with pytest.raises(ValueError, match=r"days of 4 bytes|ordinal|out of range"):
            parse_capture_column(column)


INPUTS = {
    "sector": "stable_rear",
    "bbox_e7": [0, 0, 10, 10],
    "origin": {"lon_e7": 1, "lat_e7": 2, "altitude_mm": 0},
    "models": [
        {"role": "descriptor", "preprocessing": {"size": [224, 300]}},
        {"role": "descriptor", "preprocessing": {"size": [320, 256]}},
        {"role": "auxiliary", "preprocessing": {}},
    ],
}


class TestFacts:
    def test_of_inputs(self):
        facts = facts_of_inputs(INPUTS, counts=None, dates=None)
        assert (facts.area, facts.origin, facts.sector) == ((0, 0, 10, 10), (1, 2), "stable_rear")
        assert (facts.chunks, facts.has_proof, facts.resolutions) == (False, False, ())

    def test_a_level_asks_for_what_the_network_that_sees_most_takes_in(self):
        chunks = {"levels": [{"zoom": 18, "k": 1, "m": 3, "tile_edge": 256}]}
        (level,) = facts_of_inputs({**INPUTS, "chunks": chunks}, counts=None, dates=None).resolutions
        assert isinstance(level, Resolution)
        assert level.asked == pytest.approx(level.side_m / 256)
        assert level.available == pytest.approx(level.side_m / 1.5 / 256)

    @pytest.mark.parametrize(
        ("south", "north", "nearest"), [(60, 70, 60), (-70, -60, 60), (-10, 20, 0), (0, 70, 0)]
    )
    def test_metres_are_those_where_the_area_is_nearest_to_the_equator(self, south, north, nearest):
        chunks = {"levels": [{"zoom": 18, "k": 1, "m": 3, "tile_edge": 256}]}
        tall = {**INPUTS, "bbox_e7": [0, south * 10**7, 10, north * 10**7], "chunks": chunks}
        (level,) = facts_of_inputs(tall, counts=None, dates=None).resolutions
        assert level.available == pytest.approx(0.5972 * math.cos(math.radians(nearest)), abs=1e-3)

    def test_imagery_whose_tiles_are_upsampled_has_its_own_detail(self):
        levels = [{"zoom": zoom, "k": 1, "m": 3, "tile_edge": 256} for zoom in (19, 18)]
        inputs = {**INPUTS, "bbox_e7": [0, 600_000_000, 10, 610_000_000], "chunks": {"levels": levels}}
        upsampled = {**inputs, "imagery": {"pixel_mm": [3000, 0]}}
        fine, coarse = facts_of_inputs(upsampled, counts=None, dates=None).resolutions
        assert (fine.available, fine.is_upsampled, fine.is_too_coarse) == (pytest.approx(1.5), True, True)
        assert not coarse.is_upsampled
        assert coarse == facts_of_inputs(inputs, counts=None, dates=None).resolutions[1]
        (warning,) = judge(make_facts(resolutions=(fine,)), today=TODAY).warnings
        assert "the imagery has 1.50 m per pixel" in warning.message
        assert warning.hint.startswith("name finer imagery, of at most 0.45 m per pixel")

    @pytest.mark.parametrize(
        "broken",
        [
            {"sector": None, "models": None},
            {"origin": None},
            {"bbox_e7": [1, 2]},
            {"bbox_e7": ["west", 1, 2, 3]},
            {"origin": {"lon_e7": "1", "lat_e7": 2, "altitude_mm": 3}},
            {"origin": {"lon_e7": 1, "lat_e7": None, "altitude_mm": 3}},
            {"geography": {"wanted": "many"}},
        ],
    )
    def test_a_manifest_that_does_not_say_them(self, a_manifest, broken):
        changed = a_manifest(**broken)
        with pytest.raises(NoGoError, match="expected area, origin and sector") as caught:
            facts_of_manifest(changed, dates=None)
        assert caught.value.kind is ErrorKind.MANIFEST_INVALID

    def test_of_a_manifest(self, a_manifest):
        facts = facts_of_manifest(a_manifest(), dates=some_dates(), signature=Signature.ABSENT)
        assert facts.counts == some_counts(wanted=9, present=8, featureless=1)
        assert facts.committed == date(2026, 11, 29)
        assert facts.proof == FIGURES

    def test_a_time_that_no_calendar_has(self, a_manifest):
        assert facts_of_manifest(a_manifest(wall_ns=1 << 100), dates=None).committed is None


@pytest.fixture
def a_manifest():
    """Make what a manifest says of area and proof."""

    class Envelope:
        wall_ns = 1_795_910_400_000_000_000  # 2026-11-29

    class Stub:
        envelope = Envelope()

    def make(*, wall_ns=Envelope.wall_ns, geography=None, **inputs):
        found = Stub()
        found.envelope = Envelope()
        found.envelope.wall_ns = wall_ns
        found.inputs = {
            **INPUTS,
            "proof": {},
            "chunks": {"levels": [{"zoom": 18, "k": 1, "m": 3, "tile_edge": 256}]},
        }
        found.inputs |= inputs
        measured = {"pictures": 16, "right": 14, "within_mm": 50_000, "at": 1, "min_ppm": 800_000}
        found.body = {
            "geography": geography or {"wanted": 9, "present": 8, "featureless": 1, "skipped": 0},
            "checks": [
                {"check": "engine", "measured": {}},
                {"check": "proof", "measured": {**measured, "better_half_right_ppm": 1_000_000}},
            ],
        }
        return found

    return make
