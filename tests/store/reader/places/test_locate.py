"""A cache of chunks is asked where frames were taken; what it answers is compared with all its vectors."""

import datetime as dt
import json
import shutil

import numpy as np
import pytest

from pipeline.request.options import (
    ChunkLevelOptions,
    ChunkOptions,
    CoverageOptions,
    IndexKind,
    IndexOptions,
    SectorClassification,
    Storage,
)
from store.base.geometry.camera import Camera, cut_square
from store.base.geometry.distances import distance_m
from store.base.geometry.lattice import chunk_id, chunk_of, footprint, middle
from store.base.geometry.level import side_m, tile_side_m
from store.base.identity import descriptor_id
from store.errors import (
    ArgumentError,
    CacheUnusableError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    StoreError,
)
from store.formats.tables import decode_blocks, decode_tiles, encode_tiles
from store.manifest.manifest import parse
from store.reader import ALLOW_UNSIGNED, Answer, FlightCache, flight_cache
from store.reader.loading import level_tables
from store.reader.places.black_bars import black_bars
from store.reader.places.level_table import LevelTable
from store.reader.places.locate import Locator
from store.reader.places.question import parse_question
from store.runtime import ExecutionError
from store.trust.readiness import MAX_AGE_DAYS
from tests.ground import (
    ALTITUDE_M,
    CAMERA,
    COLUMN,
    GROUND,
    LEVEL,
    PIXEL_M,
    ROW,
    TILES,
    ZOOM,
    GroundSite,
    chunk_middle,
    frame_at,
    picture_of,
)
from tests.small_builds import Site, spread

KINDS = {
    "flat": IndexOptions(kind=IndexKind.FLAT),
    "flat, fp16": IndexOptions(kind=IndexKind.FLAT, storage=Storage.FP16),
    "hnsw": IndexOptions(kind=IndexKind.HNSW),
    "hnsw, fp16": IndexOptions(kind=IndexKind.HNSW, storage=Storage.FP16),
    "ivf-pq": IndexOptions(kind=IndexKind.IVF_PQ),
}
EXTENDED = (
    "hnsw, fp16",
    *(pytest.param(each, marks=pytest.mark.deep) for each in ("flat", "flat, fp16", "hnsw")),
)
LONG = 10**5000
PLACE = (9, 7)
"""A chunk, by its first steps from those of the ground."""
X, Y = chunk_middle(*PLACE)


RANK_FEW = Locator._rank_few


def few_settle(monkeypatch, few):
    """Let caches that are opened search rounded vectors first, and then compare so many exactly."""
    for name, value in {"_MANY_CHUNKS": 1, "_FEW_OF_MANY": 1, "_FEW_CHUNKS": few}.items():
        monkeypatch.setattr(f"store.reader.places.level_table.{name}", value)


def build(site, **fields):
    report = site.build(**fields)
    assert report.error is None, report.error
    return report


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A site with a generation for each kind of index, and the vectors of its chunks."""
    site = GroundSite(tmp_path_factory.mktemp("kinds"))
    for number, index in enumerate(KINDS.values()):
        build(site, index=index, flight_id=f"f{number}", tiles={"captured": dt.date(2026, 3, 1)})
    return site, site.rows()


@pytest.fixture(params=KINDS)
def each_kind(request, kinds):
    number = [*KINDS].index(request.param) + 1
    with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=number) as cache:
        assert cache.manifest.index.kind == request.param.partition(",")[0]
        yield cache


@pytest.fixture
def cache(kinds):
    with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
        yield cache


def expected_scores(cache, rows, frame, *, heading=0.0):
    """The score of every chunk, by its id, reckoned from the vectors as they were embedded."""
    picture = cut_square(
        frame,
        metres_per_pixel=PIXEL_M,
        side_m=side_m(LEVEL, 0),
        heading_deg=heading,
        size=cache.preprocessing.size,
        camera=Camera.from_document(json.loads(CAMERA)),
    )
    query = cache.engine("place").run(cache.preprocessing.apply(picture)[None])[0]
    return {identifier: float(vector @ query) for identifier, vector in rows.items()}


def place_of(identifier):
    return middle(*chunk_of(identifier))


def expected_margin(scores):
    best = max(scores, key=scores.get)
    side = side_m(LEVEL, place_of(best)[1])
    far = [score for each, score in scores.items() if distance_m(place_of(each), place_of(best)) > side]
    return scores[best] - max(far) if far else None


def require_answer(answer, scores, k, *, tolerance):
    """Require the best k chunks with their scores, and the margin over all chunks."""
    order = sorted(scores, key=scores.get, reverse=True)[:k]
    assert len(answer.candidates) == len(order)
    assert answer.searched == len(scores)
    for found, wanted in zip(answer.candidates, order, strict=True):
        assert found.score == pytest.approx(scores[found.descriptor_id], abs=tolerance)
        assert found.score == pytest.approx(scores[wanted], abs=tolerance)
    margin = expected_margin(scores)
    if margin is None:
        assert answer.margin is None
    else:
        assert answer.margin == pytest.approx(margin, abs=2 * tolerance)


class TestEveryKindOfIndex:
    def test_answers_with_the_best_of_all_chunks(self, each_kind, kinds):
        frame = frame_at(X + 5, Y - 3)
        scores = expected_scores(each_kind, kinds[1], frame)
        assert len(scores) == 17 * 17
        for k in (1, 10, 1000):
            answer = each_kind.locate(frame, altitude_m=ALTITUDE_M, heading_deg=0, k=k)
            require_answer(answer, scores, k, tolerance=2e-3)

    @pytest.mark.parametrize("radius_tiles", [0.01, 0.8, 2.3, 5])
    def test_near_a_place_those_within_the_radius_alone(self, each_kind, kinds, radius_tiles):
        frame = frame_at(X + 5, Y - 3)
        lon, lat = place_of(sorted(kinds[1])[100])
        radius = radius_tiles * tile_side_m(ZOOM, 0)
        scores = expected_scores(each_kind, kinds[1], frame)
        inside = {
            each: score for each, score in scores.items() if distance_m(place_of(each), (lon, lat)) <= radius
        }
        assert 1 <= len(inside) < len(scores)
        answer = each_kind.locate(
            frame, altitude_m=ALTITUDE_M, heading_deg=0, near=(lon, lat, radius), k=1000
        )
        require_answer(answer, inside, 1000, tolerance=2e-3)
        assert {each.descriptor_id for each in answer.candidates} == {*inside}

    def test_all_is_loaded_before_take_off(self, kinds, each_kind, tmp_path):
        copy = shutil.copytree(kinds[0].cache, tmp_path / "cache")
        generation = each_kind.manifest.envelope.generation
        with FlightCache.open(copy, trusted_keys=ALLOW_UNSIGNED, generation=generation) as cache:
            cache.load_all()
            shutil.rmtree(copy)
            answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M)
        assert answer.candidates[0].score == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("kind", EXTENDED)
def test_an_index_with_a_delta_answers_with_the_changed_chunks(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.index.plan.FLAT_BELOW", 100)
    monkeypatch.setattr("pipeline.index.plan.MAX_CHANGED_DIVISOR", 2)
    site = GroundSite(tmp_path)
    build(site, index=KINDS[kind])
    changed = GROUND.copy()
    changed[160:192, 192:224] = picture_of(7, 32)
    site.write_ground(changed, [(6, 5)])
    build(site, index=KINDS[kind])
    rows = site.rows()
    frame = frame_at(X, Y, ground=changed)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.index.delta is not None
        answer = cache.locate(frame, altitude_m=ALTITUDE_M, heading_deg=0, k=1000)
        require_answer(answer, expected_scores(cache, rows, frame), 1000, tolerance=2e-3)


class TestAnswer:
    def test_a_candidate_says_where_its_chunk_is(self, cache):
        answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, heading_deg=0)
        best = answer.candidates[0]
        level, x, y = chunk_of(best.descriptor_id)
        assert (level, x, y) == (LEVEL, 2 * COLUMN + PLACE[0], 2 * ROW + PLACE[1])
        assert (best.longitude, best.latitude) == pytest.approx(middle(level, x, y))
        assert best.footprint == footprint(level, x, y)
        assert best.side_m == pytest.approx(side_m(level, best.latitude))
        assert (best.level, answer.level) == (1, 1)
        assert best.score == pytest.approx(1, abs=1e-2)
        assert answer.metres_per_pixel == pytest.approx(PIXEL_M)
        assert [each.score for each in answer.candidates] == sorted(
            (each.score for each in answer.candidates), reverse=True
        )
        assert answer.warnings == ()

    def test_the_time_of_each_part_is_told(self, cache):
        timings = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M).timings
        assert timings.decode == timings.undistortion == 0
        assert min(timings.cut, timings.network, timings.search) > 0

    def test_the_camera_is_read_once_for_all_frames(self, cache, monkeypatch):
        first = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M)
        monkeypatch.setattr(Camera, "from_document", lambda document: pytest.fail("read again"))
        assert cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, threads=1).margin == first.margin

    @pytest.mark.parametrize("number", range(1, 1 + len(KINDS)))
    @pytest.mark.parametrize("k", [1, 10, 60, 1000])
    def test_a_search_of_rounded_vectors_first_changes_no_answer(self, kinds, number, k, monkeypatch):
        few_settle(monkeypatch, 100)
        settled = []

        def rank_few(*given):
            settled.append(RANK_FEW(*given))
            return settled[-1]

        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=number) as cache:
            asked = {"altitude_m": ALTITUDE_M, "heading_deg": 0, "k": k}
            frames = [frame_at(X + 5 * at, Y - 3 * at) for at in range(-3, 4)]
            monkeypatch.setattr(Locator, "_rank_few", lambda *_: None)
            plain = [cache.locate(frame, **asked) for frame in frames]
            monkeypatch.setattr(Locator, "_rank_few", rank_few)
            for frame, wanted in zip(frames, plain, strict=True):
                found = cache.locate(frame, **asked)
                assert (found.candidates, found.margin) == (wanted.candidates, wanted.margin)
                assert found.searched == 17 * 17
        assert len(settled) == len(frames)
        assert sum(found is not None for found in settled) == (0 if k == 1000 else len(frames))

    @pytest.mark.parametrize(("many", "few", "rounds"), [(289, 9, True), (290, 9, False), (1, 10, False)])
    def test_rounded_vectors_are_made_where_they_save_time(self, kinds, many, few, rounds, monkeypatch):
        monkeypatch.setattr("store.reader.places.level_table._MANY_CHUNKS", many)
        monkeypatch.setattr("store.reader.places.level_table._few_of", lambda _: few)
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
            (table,) = cache.locator().tables
            assert (table.rounded is not None) is rounds

    @pytest.mark.parametrize("k", [1, 3])
    def test_few_chunks_settle_it_or_all_are_compared(self, kinds, k, monkeypatch):
        few_settle(monkeypatch, 10)
        dropped, frame = [0], frame_at(X + 5, Y - 3)
        asked = {"altitude_m": ALTITUDE_M, "heading_deg": 0, "k": k}
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
            monkeypatch.setattr(Locator, "_rank_few", lambda *_: None)
            plain = cache.locate(frame, **asked)
            monkeypatch.setattr(Locator, "_rank_few", RANK_FEW)
            (table,) = cache.locator().tables

            def best(_, query, count):
                scores = table.vectors @ query
                lost = np.argsort(-scores)[dropped]
                return np.delete(np.arange(len(scores)), lost), float(scores[lost].max())

            monkeypatch.setattr("store.runtime.rounded_vectors.RoundedVectors.best", best)
            for rank in range(60):
                dropped[:] = [rank, 17 * 17 - 1]
                found = cache.locate(frame, **asked)
                assert (found.candidates, found.margin) == (plain.candidates, plain.margin), rank

    def test_the_scale_may_be_told_instead_of_the_altitude(self, cache):
        one = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, heading_deg=0)
        other = cache.locate(frame_at(X, Y), metres_per_pixel=PIXEL_M, heading_deg=0)
        assert one.candidates == other.candidates
        assert one.margin == other.margin

    def test_the_margin_does_not_depend_on_how_many_are_asked_for(self, cache):
        margins = {cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, k=k).margin for k in (1, 7, 400)}
        assert len(margins) == 1

    def test_a_frame_of_another_size_and_the_same_aspect(self, cache):
        large = np.repeat(np.repeat(frame_at(X, Y), 3, axis=0), 3, axis=1)
        answer = cache.locate(large, altitude_m=ALTITUDE_M, heading_deg=0)
        assert answer.candidates[0].score > 0.98
        assert answer.metres_per_pixel == pytest.approx(PIXEL_M / 3)
        told = cache.locate(large, metres_per_pixel=PIXEL_M / 3, heading_deg=0)
        assert told.candidates == answer.candidates

    def test_days_of_the_tiles_under_a_chunk(self, cache):
        best = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M).candidates[0]
        assert best.captured == (dt.date(2026, 3, 1), dt.date(2026, 3, 1))
        assert best.too_old == (
            dt.datetime.now(dt.timezone.utc).date() - dt.date(2026, 3, 1) > dt.timedelta(365)
        )

    @pytest.mark.parametrize(
        ("days", "captured", "too_old"),
        [
            ((-1, -2, -3, None), None, None),
            ((-1, -200, None, -3), None, True),
            ((None, None, None, None), None, None),
            ((-1, -2, -3, -4), (-4, -1), False),
            ((-181, -2, -3, -4), (-181, -1), True),
        ],
    )
    def test_a_tile_of_an_unknown_day_under_a_chunk(self, kinds, days, captured, too_old):
        """Nobody may take ground for new because the day of a part of it is known."""
        today = dt.datetime.now(dt.timezone.utc).date()
        level, x, y = LEVEL, 2 * COLUMN, 2 * ROW
        dates = [None if each is None else today + dt.timedelta(each) for each in days]
        under = ((level.zoom, COLUMN + at % 2, ROW + at // 2) for at in range(4))
        tiles = [(descriptor_id(*place), "00" * 32, day) for place, day in zip(under, dates, strict=True)]
        ids = np.array([chunk_id(level, x, y)])
        table = LevelTable.of(
            1, level, ids, np.eye(1, 4, dtype=np.float32), decode_tiles(encode_tiles(tiles))
        )
        locator = Locator(sector="active_conflict", built_ns=0, networks=[], calibration={}, tables=[])
        found = locator._candidate(table, 0, 1.0)
        known = None if captured is None else (min(dates), max(dates))
        assert (found.captured, found.too_old) == (known, too_old)

    def test_who_changes_the_calibration_that_was_handed_out_changes_no_answer(self, kinds):
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
            cache.load_all().calibration["fx"] = 1
            answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, threads=2)
        assert answer.metres_per_pixel == pytest.approx(PIXEL_M)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_threads_change_no_answer(self, cache, threads):
        answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M)
        again = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, threads=threads)
        assert again.candidates == answer.candidates

    @pytest.mark.parametrize("threads", [1, 2])
    def test_by_default_what_was_loaded_is_used(self, kinds, threads, monkeypatch):
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
            loaded = cache.load_all(threads=threads)
            load, others = flight_cache.load_entry, []
            monkeypatch.setattr(flight_cache, "load_descriptor_index", lambda *_, **__: pytest.fail("loaded"))
            monkeypatch.setattr(
                flight_cache, "load_entry", lambda *given, **more: others.append(more) or load(*given, **more)
            )
            asked = {"altitude_m": ALTITUDE_M}
            answer = cache.locate(frame_at(X, Y), **asked)
            assert cache.engine("place") is loaded.engines["place"]
            assert cache.descriptor_index() is loaded.index
            assert cache.describe(frame_at(X, Y)).shape == (1, loaded.index.dimensions)
            assert cache.locator().networks[0].engine is loaded.engines["place"]
            assert others == []
            # Another number loads the network once, however often the two alternate.
            for number in (3, threads, None, 3):
                assert cache.locate(frame_at(X, Y), **asked, threads=number).candidates == answer.candidates
            assert others == [{"threads": 3}]

    @pytest.mark.parametrize("error", [MemoryError, RuntimeError])
    @pytest.mark.parametrize(
        "place", ["store.reader.places.level_table.RoundedVectors", "store.reader.places.locate.cut_square"]
    )
    def test_a_load_that_lacks_memory_is_a_shortage_and_no_load(self, kinds, error, place, monkeypatch):
        def fails(*_, **__):
            raise error("Error in void faiss::IndexFlatCodes::add: std::bad_alloc")

        few_settle(monkeypatch, 100)
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
            with monkeypatch.context() as short:
                short.setattr(place, fails)
                with pytest.raises(CacheUnusableError, match="expected enough memory"):
                    cache.load_all(threads=2)
            assert cache.engine("place") is not cache.engine("place"), "nothing counts as loaded"
            loaded = cache.load_all()
            assert cache.engine("place") is loaded.engines["place"]

    def test_near_a_place_without_chunks_nothing_is_found(self, cache):
        for lon, lat in ((100, 50), (0, 90), (-180, -90)):
            answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, near=(lon, lat, 1000))
            assert isinstance(answer, Answer)
            assert (answer.candidates, answer.margin, answer.searched) == ((), None, 0)

    def test_chunks_that_are_all_close_have_no_margin(self, cache):
        lon, lat = middle(LEVEL, 2 * COLUMN + PLACE[0], 2 * ROW + PLACE[1])
        near = (lon, lat, 0.6 * tile_side_m(ZOOM, 0))
        answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, near=near)
        assert len(answer.candidates) == 5
        assert answer.margin is None


def ask(cache, frame, **wanted):
    """Ask without a camera, so that a frame may have any aspect; a pixel of it shows one of the ground."""
    asked = dict.fromkeys(("altitude_m", "heading_deg", "near", "pitch_deg", "roll_deg"))
    asked |= {"metres_per_pixel": PIXEL_M, "headings": 1, "k": 10}
    return cache.locator(calibration={}).locate(frame, parse_question(**asked | wanted))


class TestHeading:
    @pytest.mark.parametrize("turns", [0, 1, 2, 3])
    def test_a_frame_is_turned_north(self, cache, turns):
        """Turned to the left, a frame has its eastern edge above."""
        frame = np.rot90(frame_at(X, Y), turns)
        best = ask(cache, frame, heading_deg=90 * turns).candidates[0]
        assert best.score == pytest.approx(1, abs=1e-2)
        assert chunk_of(best.descriptor_id)[1:] == (2 * COLUMN + PLACE[0], 2 * ROW + PLACE[1])

    def test_unknown_headings_are_tried_and_the_best_one_answers(self, cache):
        frame = np.rot90(frame_at(X, Y), 3)
        north_up, tried, told = (
            ask(cache, frame, **wanted) for wanted in ({}, {"headings": 4}, {"heading_deg": -90})
        )
        assert (north_up.heading_deg, tried.heading_deg, told.heading_deg) == (0, 270, 270)
        assert [each.descriptor_id for each in tried.candidates] == [
            each.descriptor_id for each in told.candidates
        ]
        assert tried.margin == pytest.approx(told.margin, abs=1e-6)
        assert tried.candidates[0].score > north_up.candidates[0].score


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Levels of one spacing of the lattice, and of another."""
    site = GroundSite(tmp_path_factory.mktemp("levels"))
    tile = tile_side_m(ZOOM, 0)
    sides = ((3.5 * tile, 0.85), (2 * tile, 0.75), (3 * tile, 0.85))
    build(
        site,
        chunks=ChunkOptions(
            level=tuple(ChunkLevelOptions(side_m=side, overlap=overlap) for side, overlap in sides)
        ),
        coverage=CoverageOptions(min_fraction=0),
    )
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        yield cache


class TestLevels:
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_the_nearest_level_answers_alone(self, levels, number):
        manifest = levels.manifest
        assert len(manifest.levels) == 3
        level = manifest.levels[number - 1].level
        side = side_m(level, 0)
        pixel = side / 64
        answer = ask(levels, frame_at(X, Y, width=64), metres_per_pixel=pixel, k=5000)
        assert answer.level == number
        assert {chunk_of(each.descriptor_id)[0] for each in answer.candidates} == {level}
        assert {each.level for each in answer.candidates} == {number}
        assert answer.searched == len(answer.candidates) > 1
        assert answer.warnings == ()

    def test_sides_far_from_all_levels_are_a_warning(self, levels):
        smallest = side_m(levels.manifest.levels[0].level, 0)
        for times, warned in ((0.7, True), (0.85, False), (2.3, True)):
            answer = ask(levels, frame_at(X, Y, width=64), metres_per_pixel=times * smallest / 64)
            assert len(answer.warnings) == warned, (times, answer.warnings)
            assert answer.candidates


@pytest.fixture(scope="module")
def across(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("across"), column=2**ZOOM - TILES // 2)
    build(site)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        yield cache


class TestAntimeridian:
    def test_chunks_on_both_sides_are_found(self, across):
        for column in (3, 8, 14):
            frame = frame_at(*chunk_middle(column, 7))
            best = across.locate(frame, altitude_m=ALTITUDE_M, heading_deg=0).candidates[0]
            around = 2 * 2**ZOOM
            assert chunk_of(best.descriptor_id)[1] == (around - TILES + column) % around
            assert -180 <= best.longitude < 180
            assert all(-180 <= lon <= 180 for lon, _ in best.footprint)

    @pytest.mark.parametrize("lon", [179.999, -179.999, 180, -180])
    def test_near_reaches_across(self, across, lon):
        radius = 1.1 * tile_side_m(ZOOM, 0)
        answer = across.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, near=(lon, 0, radius), k=1000)
        longitudes = [each.longitude for each in answer.candidates]
        assert min(longitudes) < -179 < 179 < max(longitudes)
        assert all(
            distance_m((each.longitude, each.latitude), (lon, 0)) <= radius for each in answer.candidates
        )


BAD = {
    "no scale": ({}, "exactly one of altitude_m and metres_per_pixel, found neither"),
    "two scales": ({"altitude_m": 1, "metres_per_pixel": 1}, "exactly one of"),
    **{
        f"{name} {value!r}": ({name: value}, f"expected {name} as a number above 0")
        for name in ("altitude_m", "metres_per_pixel")
        for value in (0, -3, np.nan, np.inf, "120", True, np.bool_(1), [120], 1j, np.array([3.0]), 10**400)
    },
    "heading": ({"altitude_m": 9, "heading_deg": np.nan}, "heading_deg as a number"),
    "pitch": ({"altitude_m": 9, "pitch_deg": "up"}, "pitch_deg as a number"),
    "roll": ({"altitude_m": 9, "roll_deg": np.inf}, "roll_deg as a number"),
    **{
        f"near {value!r}": ({"altitude_m": 9, "near": value}, "near")
        for value in (3, "1,2,3", (1, 2), (1, 2, 3, 4), (1, 2, 0), (1, 2, -1), (181, 0, 1), (0, 91, 1))
    },
    "near nan": ({"altitude_m": 9, "near": (np.nan, 0, 1)}, "the longitude of near"),
    **{
        f"{name} {value!r}": ({"altitude_m": 9, name: value}, f"expected {name}")
        for name in ("k", "headings", "threads")
        for value in (0, -1, 1.5, "2", True, None)
        if (name, value) != ("threads", None)
    },
    **{
        f"{name}, too long to be written, {number}": ({"altitude_m": 9, name: value}, f"expected .*{name}")
        for name, longs in {
            "altitude_m": (LONG, -LONG),
            "near": (LONG, [LONG], (LONG, 2, 3), (1, 2, LONG), (1, 2, 3, LONG), [[LONG], 2, 3]),
            "heading_deg": (LONG, [LONG]),
            "pitch_deg": (LONG,),
            "headings": (LONG, -LONG, (LONG,)),
            "k": (-LONG, {LONG}),
            "threads": (LONG, -LONG, 2**40, [LONG]),
        }.items()
        for number, value in enumerate(longs)
    },
    "headings, too many": ({"altitude_m": 9, "headings": 361}, "headings of at most 360"),
    "no ground": ({"altitude_m": 1e-9}, "shows ground of about"),
    "all ground": ({"altitude_m": 1e300}, "shows ground of about"),
    "least": ({"metres_per_pixel": 5e-324}, "shows ground of about"),
}
FRAMES = {
    "a list": [[[0, 0, 0]]],
    "none": None,
    "grey": np.zeros((64, 80), np.uint8),
    "alpha": np.zeros((64, 80, 4), np.uint8),
    "floats": np.zeros((64, 80, 3), np.float32),
    "16 bits": np.zeros((64, 80, 3), np.uint16),
    "empty": np.zeros((0, 80, 3), np.uint8),
    "too long": np.zeros((1, 20_000, 3), np.uint8),
}


class TestErrors:
    @pytest.mark.parametrize("name", BAD)
    def test_an_argument_that_is_no_usable_value(self, cache, name):
        asked, expected = BAD[name]
        with pytest.raises(ArgumentError, match=expected) as error:
            cache.locate(frame_at(X, Y), **asked)
        assert "\n" not in error.value.message
        assert isinstance(error.value, ValueError)
        assert isinstance(error.value, StoreError)

    @pytest.mark.parametrize("name", FRAMES)
    def test_a_frame_that_is_no_picture(self, cache, name):
        with pytest.raises(ArgumentError, match="expected a frame"):
            cache.locate(FRAMES[name], altitude_m=ALTITUDE_M)

    def test_numbers_of_numpy_are_numbers(self, cache):
        plain = cache.locate(frame_at(X, Y), altitude_m=3000, heading_deg=3, near=(0, 0, 9e6), k=4)
        numpy = cache.locate(
            frame_at(X, Y),
            altitude_m=np.float32(3000),
            heading_deg=np.int64(3),
            near=np.array([0, 0, 9e6]),
            k=np.int32(4),
            headings=np.uint8(1),
            threads=np.int16(1),
        )
        assert numpy.candidates == plain.candidates

    @pytest.mark.parametrize("how", ["altitude_m", "metres_per_pixel"])
    def test_a_frame_of_another_aspect(self, cache, how):
        with pytest.raises(ArgumentError, match="aspect"):
            cache.locate(frame_at(X, Y, width=64), **{how: 1000})

    def test_an_altitude_without_a_camera(self, cache):
        with pytest.raises(ArgumentError, match="camera in the calibration for altitude_m"):
            ask(cache, frame_at(X, Y), altitude_m=100, metres_per_pixel=None)

    def test_a_calibration_that_is_no_whole_camera_serves_a_scale(self, cache):
        whole = json.loads(CAMERA) | {"distortion": {"model": "fisheye", "coefficients": [0, 0, 0, 0]}}
        for missing, warned in ((["cx"], 1), (["fx", "fy"], 1), (["cx", "distortion"], 0)):
            calibration = {key: value for key, value in whole.items() if key not in missing}
            question = {"metres_per_pixel": PIXEL_M, "headings": 1, "k": 3}
            asked = dict.fromkeys(("altitude_m", "heading_deg", "near", "pitch_deg", "roll_deg")) | question
            answer = cache.locator(calibration=calibration).locate(frame_at(X, Y), parse_question(**asked))
            assert len(answer.warnings) == warned
            assert all("distortion" in warning for warning in answer.warnings)
            assert answer.candidates[0].score == pytest.approx(1, abs=1e-2)

    def test_a_camera_that_looks_aside_is_a_warning(self, cache):
        for angles, count in (
            ({}, 0),
            ({"pitch_deg": 10, "roll_deg": -10}, 0),
            ({"pitch_deg": -11}, 1),
            ({"pitch_deg": 30, "roll_deg": 12}, 2),
        ):
            warnings = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, **angles).warnings
            assert len(warnings) == count
            assert all("looks straight down" in warning for warning in warnings)

    def test_a_frame_without_texture_is_a_warning(self, cache):
        rng, frame = np.random.default_rng(3), frame_at(X, Y)
        blank = np.full_like(frame, 1)
        noisy = np.clip(128 + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)
        for shown, warned in ((frame, 0), (blank, 1), (blank * 128, 1), (blank * 255, 1), (noisy, 1)):
            answer = cache.locate(shown, altitude_m=ALTITUDE_M, headings=3)
            assert ["texture" in warning for warning in answer.warnings] == [True] * warned

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("lines", [range(6), range(-6, 0), range(-3, 3)])
    def test_a_frame_with_black_bars_is_a_warning(self, cache, axis, lines):
        frame = frame_at(X, Y).clip(32)
        frame.swapaxes(0, axis)[list(lines)] = 16
        (warning,) = cache.locate(frame, altitude_m=ALTITUDE_M).warnings
        assert f"along {6 / frame.shape[axis]:.0%} of a side" in warning

    def test_how_much_of_a_frame_is_black_bars(self):
        frame = np.full((600, 1000, 3), 25, np.uint8)
        assert black_bars(frame) == 0
        frame[:30] = frame[-30:] = 24
        assert black_bars(frame) == pytest.approx(0.1, abs=0.01)
        assert black_bars(frame * 0) == 1
        assert black_bars(np.full((1, 1, 3), 24, np.uint8)) == 1

    def test_dark_water_is_no_black_bar(self):
        frame = np.full((600, 1000, 3), 90, np.uint8)
        frame[:200] = np.random.default_rng(5).normal(10, 2, (200, 1000, 3)).clip(0, 24)
        assert black_bars(frame) == 0

    def test_a_frame_without_a_descriptor(self, cache):
        with pytest.raises(ExecutionError, match="descriptor of the frame"):
            cache.locate(np.zeros((64, 80, 3), np.uint8), altitude_m=ALTITUDE_M)

    def test_a_cache_of_tiles(self, tmp_path):
        site = Site(tmp_path)
        site.write_tiles(spread())
        build(site)
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.load_all()
            for asked in ({"altitude_m": 100}, {}):
                with pytest.raises(RequestRefusedError, match="chunks of ground") as error:
                    cache.locate(frame_at(X, Y), **asked)
                assert "altitude_m" in error.value.hint
                assert "[chunks]" in error.value.hint

    def test_the_id_of_a_chunk_is_that_of_no_tile(self, cache):
        best = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M).candidates[0]
        with pytest.raises(KeyError, match="that of a chunk"):
            cache.tile(best.descriptor_id)
        assert cache.tile(ZOOM << 58 | COLUMN + 4 << 25 | ROW + 4).z == ZOOM

    def test_a_cache_that_was_closed(self, kinds):
        with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.load_all()
        with pytest.raises(RequestRefusedError) as error:
            cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M)
        assert error.value.kind is ErrorKind.CLOSED

    @pytest.mark.parametrize("damage", ["missing", "other bytes"])
    def test_a_block_that_an_index_without_vectors_needs(self, kinds, tmp_path, damage):
        site = Site(tmp_path, cache=shutil.copytree(kinds[0].cache, tmp_path / "cache"))
        manifest = parse(site.head_bytes())
        assert manifest.index.kind == "ivf-pq"
        row = decode_blocks(site.artifact(manifest.index.blocks).read_bytes())[0]
        block = site.artifact(row.ref)
        block.chmod(0o644)
        block.unlink() if damage == "missing" else block.write_bytes(bytes(row.ref.size))
        with (
            FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache,
            pytest.raises(
                NoGoError, match=f"block {row.zoom}/{row.cell_x}/{row.cell_y}, which has the vectors"
            ),
        ):
            cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "expected 289 chunks of the levels in the manifest, found 0"),
        ([LEVEL.lattice_zoom << 58 | LEVEL.view << 50 | 2**13 << 25], "chunks of level 1, found"),
        ([5], "chunks of level 1, found ids of other chunks"),
        ([chunk_id(LEVEL, 3, 3)] * 2, "or one of them twice"),
    ],
)
def test_an_index_of_other_rows_than_the_manifest_tells(cache, ids, reason):
    class Index:
        def rows(self, first, last):
            return np.array(ids, np.int64), np.ones((len(ids), 16), np.float32)

    with pytest.raises(NoGoError, match=reason) as error:
        level_tables(
            cache.manifest.levels,
            Index(),
            decode_tiles(encode_tiles([])),
            rows=cache.manifest.index.rows,
            blocks=pytest.fail,
        )
    assert error.value.kind is ErrorKind.ARTIFACT_DAMAGED


@pytest.mark.parametrize("length", [15, 17])
def test_networks_whose_vectors_have_another_length_are_refused(cache, length):
    """Products of vectors read memory unchecked."""

    class Other:
        dimensions = length

    with pytest.raises(ExecutionError, match=f"expected vectors of {length} numbers"):
        cache.locator(engines={"place": Other()})


def test_a_lens_is_corrected(kinds):
    """A frame seen through a lens that bends answers as the straight one, if the calibration says how it bends."""
    lens = {**json.loads(CAMERA), "distortion": {"model": "opencv", "coefficients": [-0.4, 0.05, 0, 0]}}
    straight = frame_at(X, Y, width=160, height=128)
    camera = Camera.from_document(lens)
    # Seen through the lens, a pixel shows what a pinhole shows at the place that the lens bends to it.
    columns, rows = np.meshgrid(np.arange(80, dtype=np.float32), np.arange(64, dtype=np.float32))
    x, y = columns.copy(), rows.copy()
    for _ in range(30):
        bent_x, bent_y = camera.distort(x, y)
        x, y = x + columns - bent_x, y + rows - bent_y
    frame = straight[
        np.clip(np.rint(y + 32), 0, 127).astype(int), np.clip(np.rint(x + 40), 0, 159).astype(int)
    ]
    scores = []
    with FlightCache.open(kinds[0].cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
        for calibration in (lens, json.loads(CAMERA)):
            asked = dict.fromkeys(("metres_per_pixel", "near", "pitch_deg", "roll_deg"))
            asked |= {"altitude_m": ALTITUDE_M, "heading_deg": 0, "headings": 1, "k": 1}
            answer = cache.locator(calibration=calibration).locate(frame, parse_question(**asked))
            scores.append(answer.candidates[0].score)
            assert (answer.timings.undistortion > 0) == ("distortion" in calibration)
    assert scores[0] > max(0.97, scores[1] + 0.01)


def test_greatest_ages_are_those_of_the_requests():
    assert {str(each): each.max_age_days for each in SectorClassification} == MAX_AGE_DAYS
