"""Requests for chunks and proofs that cannot be met: each ends with exit code 2 and what mends it, before any work."""

import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from tests.examples_tried import mostly_deep
from tests.ground import ALTITUDE_M, CAMERA, GROUND, PIXEL_M, ZOOM, GroundSite
from tests.pipeline.build.test_proof import HEADER, STEP_M, WITHIN, write_truth
from tools.cli import cli

CAMERA_TEXT = CAMERA.decode()


@pytest.fixture
def site(tmp_path):
    site = GroundSite(tmp_path)
    write_truth(site)
    return site


@pytest.fixture
def text(site):
    """A request for chunks by altitude with a proof."""
    return to_toml(site.request(proof=WITHIN, chunks=None, altitude_m=(ALTITUDE_M, ALTITUDE_M)))


def run(site, text, *, command="plan", code=2):
    request = site.write("request.toml", text.encode())
    words = ["plan", "--no-measure"] if command == "plan" else [command]
    place = ["--cache", str(site.cache)]
    result = CliRunner().invoke(cli, [*words, str(request), *place], env={"C10_WORKERS": "1"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def by_hand(text, *levels):
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("altitude_m"))
    return kept + "".join(f"\n[[chunks.level]]\n{each}\n" for each in levels)


def of_altitude(value):
    return lambda _, text: "\n".join(
        f"altitude_m = {value}" if line.startswith("altitude_m") else line for line in text.splitlines()
    )


def of_box(change):
    def changed(site, text):
        west, south, east, north = site.request().bbox
        old = next(line for line in text.splitlines() if line.startswith("bbox"))
        return text.replace(old, f"bbox = {change(west, south, east, north)}")

    return changed


def of_camera(old, new):
    def change(site, text):
        assert old in CAMERA_TEXT
        site.write("camera.json", CAMERA_TEXT.replace(old, new).encode())
        return text

    return change


def of_table(content):
    def change(site, text):
        site.write("truth.csv", content.encode())
        return text

    return change


def of_photograph(spoil):
    def change(site, text):
        spoil(site.root / "one.png")
        return text

    return change


def with_line(line, table="[proof]"):
    return lambda _, text: text.replace(table, f"{table}\n{line}", 1)


def folder(path):
    path.unlink()
    path.mkdir()


def every_other_column(site, text):
    for path in (site.root / "tiles" / str(ZOOM)).iterdir():
        if int(path.name) % 2:
            shutil.rmtree(path)
    return text


ROW = f"one.png,0,0,{ALTITUDE_M},0\n"
BAD = {
    "no imagery of the zoom": (lambda _, text: text.replace(str(ZOOM), "9"), f"holds zooms {ZOOM} to {ZOOM} in ["),
    "another ending": (lambda _, text: text.replace("{y}.png", "{y}.jpg"), "end in .png"),
    "a box elsewhere": (of_box(lambda *_: [10.0, 10.0, 11.0, 11.0]), f"holds zooms {ZOOM} to {ZOOM} in ["),
    "west and east exchanged": (
        of_box(lambda west, south, east, north: [east, -80.0, west, 80.0]),
        "were they exchanged?",
    ),
    "no fx": (of_camera('"fx": 50, ', ""), '"fx": expected a number of pixels'),
    "fx 0": (of_camera('"fx": 50', '"fx": 0'), "a focal length above 0"),
    "fx below 0": (of_camera('"fx": 50', '"fx": -50'), "a focal length above 0"),
    "fx NaN": (of_camera('"fx": 50', '"fx": NaN'), "a number of pixels, found nan"),
    "fx in millimetres": (of_camera('"fx": 50, "fy": 50', '"fx": 0.024, "fy": 0.024'), "in pixels, not millimetres"),
    "fx endless": (of_camera('"fx": 50', '"fx": 1e999'), "a number of pixels, found inf"),
    **{
        f"altitude {value}": (of_altitude(value), "a height above ground in metres, 1 to 30000")
        for value in ("0", "-5", "nan", "inf", "[0, 120]", "[120, 100]", "[120]", '"120"', "true")
    },
    **{
        f"overlap {value}": (
            lambda _, text, value=value: text + f"\n[chunks]\noverlap = {value}\n",
            "chunks.overlap: expected a finite number from 0 to 0.97",
        )
        for value in ("1", "-0.1", "nan", "inf", "0.98", '"half"')
    },
    "altitude and levels": (lambda _, text: text + "\n[[chunks.level]]\nside_m = 9\n", "found both; remove one"),
    "17 levels": (
        lambda _, text: by_hand(text, *(f"side_m = {100 + each}" for each in range(17))),
        "expected 1 to 16 tables {side_m = ..., overlap = ...}, found 17",
    ),
    "a level twice": (lambda _, text: by_hand(text, "side_m = 9000", "side_m = 9000"), "the same twice; remove one"),
    "a level of 0 m": (lambda _, text: by_hand(text, "side_m = 0"), "side_m: expected a finite number from 1"),
    "a level of many steps": (lambda _, text: by_hand(text, "side_m = 99000\noverlap = 0.97"), "more than 31"),
    "a tile missing under each chunk": (every_other_column, "tiles are missing under every one of a level"),
    "tiles alone": (lambda _, text: by_hand(text), "expected altitude_m or [chunks] beside it"),
    "an empty table": (of_table(""), "found nothing"),
    "no rows": (of_table(HEADER), "photographs, found 0"),
    "no lat": (of_table("file,lon,altitude_m\none.png,0,3\n"), "expected the column lat"),
    "text in lon": (of_table(HEADER + ROW.replace(",0,", ",east,", 1)), "expected lon as a number"),
    "exchanged columns": (of_table(HEADER + ROW.replace(",0,0,", ",0,120,")), "lon and lat are exchanged"),
    "semicolons": (of_table((HEADER + ROW).replace(",", ";")), "separate the columns with commas"),
    "a photograph twice": (of_table(HEADER + ROW * 2), "each photograph once"),
    "a photograph twice, by another name": (of_table(HEADER + ROW + f"./{ROW}"), "each photograph once"),
    "both scales": (of_table("file,lon,lat,altitude_m,gsd_m\none.png,0,0,3,3\n"), "leave the other empty"),
    "altitude 0 of a photograph": (of_table(HEADER + "one.png,0,0,0,0\n"), "altitude_m above 0"),
    "a heading of 400": (of_table(HEADER + ROW.replace(",0\n", ",400\n")), "from -360 to 360"),
    "no photograph": (of_photograph(lambda path: path.unlink()), "one.png: No such file"),
    "a folder": (of_photograph(folder), "one.png is not a regular file"),
    "no picture": (of_photograph(lambda path: path.write_text("none")), "expected a JPEG, PNG or WebP"),
    "nothing": (of_photograph(lambda path: path.write_bytes(b"")), "found an empty file"),
    "another aspect": (of_photograph(lambda path: Image.fromarray(GROUND[:64, :64]).save(path)), "the camera's aspect"),
    "near_m 0": (with_line("near_m = 0"), "proof.near_m: expected a finite number from 0.001"),
    "near_m below 0": (with_line("near_m = -1"), "proof.near_m: expected a finite number from 0.001"),
    "at 0": (lambda _, text: text.replace("at = 1", "at = 0"), "proof.at: expected a whole number from 1 to 10"),
    "min above 1": (lambda _, text: text.replace("min = 1.0", "min = 1.1"), "proof.min: expected a finite number"),
    "no min": (lambda _, text: text.replace("min = 1.0", ""), "proof.min: expected a value, found none; add this key"),
    "within_m that no chunk reaches": (
        lambda _, text: text.replace(f"within_m = {STEP_M}", "within_m = 1"),
        "half the diagonal of the finest chunks' steps",
    ),
    "too few bytes": (lambda _, text: text + "\n[carry]\ntiles = true\nmax_bytes = 1000\n", "raise carry.max_bytes"),
}  # fmt: skip


SAME_RULE = {
    *(f"altitude {value}" for value in ("0", "-5", "inf", "[0, 120]", "[120]", "true")),
    *(f"overlap {value}" for value in ("1", "nan", "inf", "0.98")),
    *("fx 0", "fx endless", "near_m below 0", "a photograph twice", "nothing"),
}
"""Those of which another one breaks the same rule; the deep tests try them, too."""


@pytest.mark.parametrize("name", mostly_deep(BAD, *(BAD.keys() - SAME_RULE)))
def test_what_cannot_be_met_says_what_mends_it(site, text, name):
    change, said = BAD[name]
    changed = change(site, text)
    output = run(site, changed)
    assert said in output
    # A line of its own mends it, or the message says which values there are.
    assert " -> " in output, output
    assert not site.cache.exists()


def test_the_greatest_overlap_is_allowed(site, text):
    # 0.97 as it is written is a little more than the number that a computer keeps.
    request = BuildRequest.parse(text + "\n[chunks]\noverlap = 0.97\n", base=site.root)
    assert request.chunks.overlap == 0.97


@pytest.mark.parametrize("table", ["\ufeff{}", "{}\r\n"])
def test_tables_as_spreadsheets_write_them_are_read(site, text, table):
    rows = (site.root / "truth.csv").read_text()
    site.write("truth.csv", table.format(rows).replace("\n", "\r\n").encode())
    assert "3 photographs of truth.csv" in run(site, text, code=0)


@pytest.mark.parametrize("times", mostly_deep((0.7, 1, 1.4), 1, 1.4))
@pytest.mark.parametrize("scale", ["altitude_m", "gsd_m"])
def test_photographs_that_no_chunk_serves_are_told_before_work(site, text, times, scale):
    value = times * (ALTITUDE_M if scale == "altitude_m" else PIXEL_M)
    site.write("truth.csv", f"file,lon,lat,{scale}\none.png,0,0,{value}\n".encode())
    told = "warning: proof: one.png: best compared by squares of" in run(site, text, code=0)
    assert told == (times != 1)


def test_a_photograph_outside_is_told(site, text):
    site.write("truth.csv", (HEADER + ROW.replace(",0,0,", ",50,50,")).encode())
    assert "warning: proof: one.png: outside of the area of the cache" in run(site, text, code=0)


def test_a_file_that_is_no_network_is_refused_with_the_name_of_its_model(site, text):
    site.write("net.onnx", b"<html>not found</html>")
    lines = (
        f'onnx = "{site.root}/net.onnx"' if line.startswith("onnx =") else line for line in text.split("\n")
    )
    assert "error: model place: expected an ONNX model, found 22 bytes" in run(site, "\n".join(lines))
