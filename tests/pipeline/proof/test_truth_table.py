"""A table of true places: what is read from it, and the line that mends what is wrong."""

import pytest

from pipeline.errors import RequestError
from pipeline.proof import truth_table
from pipeline.proof.truth_table import Photograph, parse_truth

HEADER = "file,lon,lat,altitude_m,gsd_m,heading_deg\n"


def test_rows_of_every_kind_in_their_order():
    found = parse_truth(
        "note, lat ,lon,file,heading_deg,gsd_m,altitude_m\r\n"
        '"a, b",24.26,120.72,photos/b.jpg,152.1,,119.7\r\n'
        "\r\n"
        "x,-90,-180, a.jpg ,, 0.16 ,\r\n"
        ",,,,,,\r\n"
        "x,0,180,c.jpg,-30,1e-1\r\n",
        "truth.csv",
    )
    assert found == (
        Photograph(
            file="photos/b.jpg",
            place=(120.72, 24.26),
            altitude_m=119.7,
            metres_per_pixel=None,
            heading_deg=152.1,
        ),
        Photograph(file="a.jpg", place=(-180, -90), altitude_m=None, metres_per_pixel=0.16, heading_deg=None),
        Photograph(file="c.jpg", place=(180, 0), altitude_m=None, metres_per_pixel=0.1, heading_deg=-30),
    )


@pytest.mark.parametrize("scale", ["altitude_m", "gsd_m"])
def test_one_scale_and_no_heading_is_enough(scale):
    (row,) = parse_truth(f"file,lon,lat,{scale}\na.jpg,1,2,3", "t")
    assert (row.altitude_m, row.metres_per_pixel) == ((3, None) if scale == "altitude_m" else (None, 3))


WRONG = {
    "nothing": ("", "columns file, lon, lat, altitude_m or gsd_m"),
    "no rows": (HEADER, "1 to 10,000 photographs, found 0"),
    "rows of nothing": (HEADER + ",,,,,\n\n", "found 0"),
    "no file column": ("lon,lat,altitude_m\n1,2,3\n", "the column file"),
    "no place": ("file,altitude_m\na,2\n", "the columns lon, lat"),
    "no scale": ("file,lon,lat,heading_deg\na,1,2,3\n", "the column altitude_m or gsd_m"),
    "another separator": ("file;lon;lat;altitude_m\na;1;2;3\n", "found file;lon;lat;altitude_m"),
    "a column twice": ("file,lon,lat,lat,gsd_m\na,1,2,2,3\n", "the column lat once"),
    "a file twice": (HEADER + "a,1,2,3\nb,1,2,3\na,1,2,3\n", "line 4: expected each photograph once"),
    "no file": (HEADER + ",1,2,3,,\n", "line 2: expected a file"),
    "no lon": (HEADER + "a,,2,3,,\n", "line 2: expected lon and lat"),
    "a short row": (HEADER + "a,1\n", "line 2: expected lon and lat"),
    "words": (HEADER + "a,1,2,3,,\nb,east,2,3,,\n", "line 3: expected lon as a number from -180 to 180"),
    "a decimal comma": (HEADER + 'a,"1,5",2,3,,\n', "expected lon as a number"),
    "lon too large": (HEADER + "a,180.1,2,3,,\n", "found '180.1'"),
    "lat too small": (HEADER + "a,1,-90.1,3,,\n", "lat as a number from -90 to 90"),
    "a heading of nan": (HEADER + "a,1,2,3,,nan\n", "heading_deg as a number from -360 to 360, found 'nan'"),
    "more than a turn": (HEADER + "a,1,2,3,,400\n", "heading_deg as a number from -360 to 360, found '400'"),
    "less than a turn": (HEADER + "a,1,2,3,,-360.5\n", "heading_deg as a number from -360 to 360"),
    "tabs": (HEADER.replace(",", "\t") + "a\t1\t2\t3\t\t\n", "the columns file, lon, lat"),
    "no end of altitude": (HEADER + "a,1,2,inf,,\n", "altitude_m as a number, found"),
    "both scales": (HEADER + "a,1,2,3,4,\n", "exactly one of altitude_m and gsd_m, found both"),
    "neither scale": (HEADER + "a,1,2,,,5\n", "exactly one of altitude_m and gsd_m, found neither"),
    "a decimal comma that shifts the heading": (HEADER + "a,1,2,216,5,,53.3\n", "expected 6 values"),
    "altitude 0": (HEADER + "a,1,2,0,,\n", "altitude_m above 0, found 0"),
    "gsd below 0": (HEADER + "a,1,2,,-1,\n", "gsd_m above 0, found -1"),
    "an open quote": (HEADER + 'a,1,2,3,,\n"b,1,2,3,,\n', "expected CSV"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_how_to_mend_it(name):
    text, said = WRONG[name]
    with pytest.raises(RequestError) as caught:
        parse_truth(text, "truth.csv")
    assert said in caught.value.message
    assert caught.value.message.startswith("truth.csv")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "mends"),
    [
        ("file;lon;lat;altitude_m\n", "separate the columns with commas"),
        ("file\tlon\tlat\taltitude_m\n", "separate the columns with commas"),
        ("file,lon,lat\n", "the columns are file"),
        (HEADER + "a,24.2,120.7,3,,\n", "whether lon and lat are exchanged"),
        (HEADER + "a,24.2,north,3,,\n", "in degrees, with a decimal point"),
        (HEADER + "a,1,2,3,,south\n", "clockwise from true north"),
    ],
)
def test_the_hint_fits_what_is_wrong(text, mends):
    with pytest.raises(RequestError) as caught:
        parse_truth(text, "truth.csv")
    assert mends in caught.value.hint


def test_empty_cells_behind_the_last_column_do_not_matter():
    assert parse_truth(HEADER + "a.jpg,1,2,3,,360, ,\n", "t") == parse_truth(
        HEADER + "a.jpg,1,2,3,,360\n", "t"
    )


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_ends_of_lines_do_not_matter(end):
    text = HEADER + "a.jpg,1,2,3,,360\n"
    assert parse_truth(text.replace("\n", end), "t") == parse_truth(text, "t")


def test_too_many_photographs(monkeypatch):
    monkeypatch.setattr(truth_table, "MAX_PHOTOGRAPHS", 1)
    with pytest.raises(RequestError, match="1 to 1 photographs, found 2"):
        parse_truth(HEADER + "a,1,2,3\nb,1,2,3\n", "truth.csv")
