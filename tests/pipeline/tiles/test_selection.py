from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.options import ModelSpec, TileOptions
from pipeline.request.request import BuildRequest
from pipeline.tiles.capture_dates import parse_capture_dates
from pipeline.tiles.grid import wanted_tiles
from pipeline.tiles.selection import select_tiles
from pipeline.tiles.tile import Extent, Place, SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.formats.capture_dates import CaptureDates

TODAY = date(2026, 11, 23)
WANTED = 43


class FakeSource:
    """Tiles that exist only in a list."""

    name = "fake"

    def __init__(self, places, box=(0, 0, 1, 1)):
        self.places = sorted(places)
        self.box = box

    def query_by_bbox(self, bbox_e7, zoom):
        wanted = set(wanted_tiles(bbox_e7, zoom))
        return [
            SourceTile(z=z, x=x, y=y, sha256="00" * 32, size=1, captured=None, locator=("file", "x"))
            for z, x, y in self.places
            if (z, x, y) in wanted
        ]

    def extent(self):
        return Extent(zoom=(3, 9), box_e7=self.box)


@pytest.fixture
def whole(archives):
    return FakeSource(wanted_tiles(archives.WHITNEY_E7, (13, 15)))


@pytest.fixture
def make(request_text, tmp_path):
    def make(tiles="", *changes):
        text = request_text(('source = "whitney.pmtiles"', f'source = "whitney.pmtiles"\n{tiles}'), *changes)
        return BuildRequest.parse(text, base=tmp_path)

    return make


def test_everything_is_there(make, whole):
    selection = select_tiles(make("captured = 2026-11-01"), whole, today=TODAY)
    assert selection.wanted == len(selection.tiles) == WANTED
    assert selection.holes.tolist() == []
    assert selection.warnings == ()
    assert {tile.captured for tile in selection.tiles} == {date(2026, 11, 1)}


@given(st.data())
def test_holes_are_what_is_wanted_and_absent(data):
    box = (-1_183_198_000, 365_611_000, -1_182_607_000, 365_930_000)
    wanted = list(wanted_tiles(box, (13, 15)))
    present = data.draw(st.lists(st.sampled_from(wanted), min_size=1, unique=True))
    request = BuildRequest(
        flight_id="f",
        sector="stable_rear",
        bbox=[edge / 1e7 for edge in box],
        zoom=(13, 15),
        origin=(0, 0, 0),
        calibration="c",
        tiles=TileOptions(source="x.pmtiles"),
        models=[ModelSpec(name="m", role="descriptor", onnx="m.onnx")],
    )
    selection = select_tiles(request, FakeSource(present), today=TODAY)
    assert [tuple(hole) for hole in selection.holes.tolist()] == sorted(set(wanted) - set(present))
    assert [tile.place for tile in selection.tiles] == sorted(present)
    assert selection.wanted == WANTED


def test_holes_on_both_sides_of_the_antimeridian(make):
    request = make(
        "",
        ("bbox = [-118.3198, 36.5611, -118.2607, 36.5930]", "bbox = [179, -1, -179, 1]"),
        ("zoom = [13, 15]", "zoom = [0, 3]"),
    )
    selection = select_tiles(request, FakeSource([(0, 0, 0), (3, 7, 3)]), today=TODAY)
    assert selection.holes[-3:].tolist() == [[3, 0, 3], [3, 0, 4], [3, 7, 4]]


def test_nothing_in_the_area(make):
    with pytest.raises(RequestError) as caught:
        select_tiles(
            make(), FakeSource([(13, 0, 0)], box=(10_000_000, 0, 20_000_000, 5_000_000)), today=TODAY
        )
    assert caught.value.kind is ErrorKind.NO_TILES
    message = str(caught.value)
    assert "fake holds zooms 3 to 9 in [1.0000000, 0.0000000, 2.0000000, 0.5000000]" in message
    assert "zooms 13 to 15 in [-118.3198000, 36.5611000, -118.2607000, 36.5930000]" in message


@pytest.mark.parametrize(
    ("extent", "change", "hint"),
    [
        (Extent(zoom=(3, 9), box_e7=None), (), "set zoom = [3, 9]"),
        (Extent(zoom=(3, 14), box_e7=None), (), "change bbox, zoom or tiles.source"),
        (Extent(zoom=None, box_e7=None), (), "put tiles there"),
        (
            Extent(zoom=(3, 14), box_e7=(360_000_000, -1_190_000_000, 370_000_000, -1_170_000_000)),
            (),
            "exchange longitude and latitude",
        ),
        # Bounds that an archive announces for want of better ones show nothing.
        (
            Extent(zoom=(3, 14), box_e7=(-1_800_000_000, -1_800_000_000, 1_800_000_000, 900_000_000)),
            (),
            "change bbox, zoom or tiles.source",
        ),
        (
            Extent(zoom=(3, 14), box_e7=None),
            (("zoom = [13, 15]", "zoom = [0, 5]"), ("[-118.3198, ", "[-118.0, ")),
            "exchange west and east in bbox",
        ),
    ],
)
def test_an_area_without_tiles_has_a_hint_that_mends_it(extent, change, hint, make):
    source = FakeSource([])
    source.extent = lambda: extent
    with pytest.raises(RequestError) as caught:
        select_tiles(make("", *change), source, today=TODAY)
    assert caught.value.hint.startswith(hint)


def test_what_a_source_says_is_a_warning_or_the_hint(make, whole):
    class Saying(FakeSource):
        def query_by_bbox(self, bbox_e7, zoom):
            return replace(TileColumns.of(super().query_by_bbox(bbox_e7, zoom)), warnings=("it is odd",))

    assert select_tiles(make(), Saying(whole.places), today=TODAY).warnings[0].message == "it is odd"
    with pytest.raises(RequestError) as caught:
        select_tiles(make(), Saying([]), today=TODAY)
    assert caught.value.hint == "it is odd"


def test_an_area_of_too_many_tiles(make, whole):
    with pytest.raises(RequestError) as caught:
        select_tiles(make("", ("zoom = [13, 15]", "zoom = [13, 25]")), whole, today=TODAY)
    assert caught.value.kind is ErrorKind.TOO_MANY_TILES


class TestAges:
    def test_unknown(self, make, whole):
        found = select_tiles(make(), whole, today=TODAY)
        assert (found.dates.undated, found.dates.oldest) == (43, None)
        with pytest.raises(TileError) as caught:
            select_tiles(make('unknown_age = "fail"'), whole, today=TODAY)
        assert caught.value.kind is ErrorKind.TILE_AGE_UNKNOWN
        assert "43 tiles (13/1403/3200, 13/1403/3201, 13/1404/3200, …) of unknown age" in caught.value.message

    @pytest.mark.parametrize("own", ["max_age_days = 365", f"as_of = {TODAY}", ""])
    @pytest.mark.parametrize(("day", "old"), [("2025-11-23", False), ("2025-11-22", True)])
    def test_the_limit_itself_is_not_too_old(self, day, old, own, make, whole):
        """Of the sector's limit and today speaks readiness."""
        warnings = select_tiles(make(f"captured = {day}\n{own}"), whole, today=TODAY).warnings
        assert [each.kind for each in warnings] == (["imagery-old"] if old and own else [])

    def test_as_of_takes_precedence_over_today(self, make, whole):
        request = make("captured = 2020-01-01\nas_of = 2020-02-01")
        assert select_tiles(request, whole, today=TODAY).warnings == ()
        assert (
            "captured after 2019-02-01"
            in select_tiles(make("captured = 2020-01-01\nas_of = 2019-02-01"), whole, today=TODAY)
            .warnings[0]
            .message
        )

    def test_policies(self, make, whole, tmp_path):
        (tmp_path / "days.csv").write_text(
            "captured,note,z,x,y\n2020-01-01,old,13,1403,3200\n2026-11-01,new,13,1403,3201\n2020-01-02,old,15,5614,12800\n"
        )
        csv = 'captured = "days.csv"\n'
        selection = select_tiles(make(f"{csv}max_age_days = 365"), whole, today=TODAY)
        assert len(selection.tiles) == WANTED
        assert selection.tiles[0].captured == date(2020, 1, 1)
        assert selection.tiles[1].captured == date(2026, 11, 1)
        assert selection.tiles[2].captured is None
        assert selection.dates == CaptureDates(oldest=date(2020, 1, 1), newest=date(2026, 11, 1), undated=40)
        (old,) = selection.warnings
        assert (
            old.message
            == "expected no older tiles, found 2 tiles (13/1403/3200, 15/5614/12800) older than 365 days on 2026-11-23, the oldest of 2020-01-01"
        )
        selection = select_tiles(make(csv + 'too_old = "exclude"'), whole, today=TODAY)
        assert [str(tile.place) for tile in selection.excluded] == ["13/1403/3200", "15/5614/12800"]
        assert len(selection.tiles) == WANTED - 2
        assert len(selection.holes) == 0
        with pytest.raises(TileError) as caught:
            select_tiles(make(csv + 'too_old = "fail"'), whole, today=TODAY)
        assert caught.value.kind is ErrorKind.TILES_TOO_OLD
        assert caught.value.subject == "13/1403/3200"

    def test_all_excluded(self, make, whole):
        with pytest.raises(TileError) as caught:
            select_tiles(make('captured = 2001-01-01\ntoo_old = "exclude"'), whole, today=TODAY)
        assert caught.value.kind is ErrorKind.TILES_TOO_OLD

    def test_a_missing_list(self, make, whole):
        with pytest.raises(RequestError) as caught:
            select_tiles(make('captured = "no.csv"'), whole, today=TODAY)
        assert "a CSV file of capture dates, found no such file" in str(caught.value)


class TestCaptureDates:
    def test_what_is_allowed(self):
        text = 'X , y,Z,Captured,x2\r\n\r\n1,2,3,"2026-01-02",\r\n1,2,3, 2026-01-02 ,again\r\n'
        assert parse_capture_dates(text, name="d") == {Place(3, 1, 2): date(2026, 1, 2)}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "line 1: expected the columns z, x, y, captured, found ''"),
            ("1,2,3,2026-01-01\n", "line 1: expected the columns"),
            ("z,z,x,y,captured\n", "line 1: expected the columns"),
            ("z,x,y,captured\n1,2,3,2026-13-01\n", "line 2: expected z, x, y and an ISO date"),
            ("z,x,y,captured\n1,2,3\n", "line 2: expected z, x, y and an ISO date, found '1,2,3'"),
            ("z,x,y,captured\n1,2.0,3,2026-01-01\n", "line 2:"),
            (
                "z,x,y,captured\n1,2,3,2026-01-01\n\n1,2,3,2026-01-02\n",
                "line 4: expected one date for tile 1/2/3",
            ),
            ('z,x,y,captured\n1,2,3,"2026-01-01\n', "line 2: "),
        ],
    )
    def test_an_error_names_its_line(self, text, said):
        with pytest.raises(TileError) as caught:
            parse_capture_dates(text, name="days.csv")
        assert said in caught.value.message
        assert caught.value.kind is ErrorKind.BAD_CAPTURE_DATES

    def test_many_problems_are_counted(self):
        with pytest.raises(TileError) as caught:
            parse_capture_dates("z,x,y,captured\n" + "junk\n" * 50, name="d")
        assert "50 bad lines" in caught.value.message
        assert "and 40 more" in caught.value.message


def test_the_csv_file_lies_beside_the_request(make, whole, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "days.csv").write_text("\ufeffz,x,y,captured\n")
    selection = select_tiles(make('captured = "sub/days.csv"'), whole, today=TODAY)
    assert selection.dates.undated == 43
