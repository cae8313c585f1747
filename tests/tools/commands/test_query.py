"""`c10 query`: on a cache of chunks, which needs a scale, and on one of tiles, which takes none."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.ground import ALTITUDE_M, LEVEL, PIXEL_M, GroundSite, chunk_middle, frame_at
from tools.cli import cli

KEYS = {"hits", "candidates", "margin", "metres_per_pixel", "seconds"}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("query"))
    report = site.build()
    assert report.error is None
    Image.fromarray(frame_at(*chunk_middle(9, 7))).save(site.root / "photo.png")
    return site


def query(site, *options, json=True, photo="photo.png"):
    words = ["query", site.root / photo, "--cache", site.cache, *options, *(["--json"] if json else [])]
    return CliRunner().invoke(cli, [str(word) for word in words])


def found(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_place_of_a_picture(chunks):
    answer = found(query(chunks, "--altitude", ALTITUDE_M, "--heading", 0, "--top", 3))
    assert answer.keys() >= KEYS
    assert answer["hits"] == []
    assert len(answer["candidates"]) == 3
    assert answer["metres_per_pixel"] == pytest.approx(PIXEL_M, abs=1e-6)
    assert 0 < answer["seconds"] < 60
    best = answer["candidates"][0]
    assert best.keys() == {"lon", "lat", "score", "level", "side_m", "footprint", "captured", "descriptor_id"}
    assert best["score"] == pytest.approx(1, abs=1e-2)
    (west, north), (east, _), (_, south), _ = best["footprint"]
    assert west < best["lon"] < east
    assert south < best["lat"] < north
    assert (best["level"], best["captured"]) == (1, None)
    assert best["side_m"] == pytest.approx(LEVEL.m * 16 * PIXEL_M, rel=1e-3)
    again = found(query(chunks, "--gsd", PIXEL_M, "--top", 3, "--heading", 0))
    assert again["candidates"] == answer["candidates"]
    assert again["margin"] == answer["margin"] > 0
    assert answer["warnings"] == []
    far = found(query(chunks, "--altitude", 2 * ALTITUDE_M))
    assert [(each["kind"], "best compared" in each["message"]) for each in far["warnings"]] == [
        ("doubtful-answer", True)
    ]
    explained = CliRunner().invoke(cli, ["why", str(best["descriptor_id"]), "--cache", str(chunks.cache)])
    assert explained.exit_code == 0, explained.output


def test_near_a_place(chunks):
    best = found(query(chunks, "--altitude", ALTITUDE_M))["candidates"][0]
    near = f"{best['lon']},{best['lat']},5500"
    answer = found(query(chunks, "--altitude", ALTITUDE_M, "--near", near))
    assert len(answer["candidates"]) == 5
    assert answer["margin"] is None
    nothing = found(query(chunks, "--altitude", ALTITUDE_M, "--near=-100,0,5"))
    assert nothing["candidates"] == []


def test_a_camera_of_another_file(chunks):
    chunks.write("wide.json", b'{"width": 80, "height": 64, "fx": 25, "fy": 25, "cx": 39.5, "cy": 31.5}')
    answer = found(query(chunks, "--altitude", ALTITUDE_M / 2, "--camera", chunks.root / "wide.json"))
    assert answer["metres_per_pixel"] == pytest.approx(PIXEL_M, abs=1e-6)


def test_text_for_people(chunks):
    shown = query(chunks, "--altitude", ALTITUDE_M, json=False).stdout
    assert "m from #1" in shown
    assert "margin: " in shown
    assert "the surer" in shown
    far = query(chunks, "--altitude", 2 * ALTITUDE_M, json=False)
    assert "c10: warning: " in far.stderr
    assert far.exit_code == 0
    nowhere = query(chunks, "--gsd", 300, "--near", "9,9,9", json=False).stdout
    assert "no chunk of ground" in nowhere
    west, south, east, north = chunks.request().bbox
    assert f"[{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]; --near takes longitude, latitude" in nowhere


REFUSED = {
    "no scale": ((), "--altitude and --gsd"),
    "a heading alone": (("--heading", 3), "--altitude and --gsd"),
    "two scales": (("--altitude", 3, "--gsd", 3), "--altitude and --gsd"),
    **{f"{name} {value}": ((name, value), name) for name in ("--altitude", "--gsd") for value in ("0", "-1")},
    **{
        f"{name} {value}": (
            (name, value),
            f"'{name}': expected a number with a decimal point, found '{value}'",
        )
        for name in ("--altitude", "--gsd", "--heading")
        for value in ("nan", "inf", "high")
    },
    "more than a turn": (("--gsd", 300, "--heading", 400), "--heading from -360 to 360, found 400"),
    **{
        f"near {value}": (("--gsd", 300, "--near", value), "near")
        for value in ("here", "1,2", "1,2,3,4", "1,2,0", "1,99,3", "nan,2,3")
    },
    "no camera": (("--altitude", 300, "--camera", "/dev/null/none"), "calibration"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_how_to_mend_it(chunks, name):
    options, said = REFUSED[name]
    result = query(chunks, *options)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    if "near" in name or "turn" in name:
        assert "\n  -> " in result.stderr


def test_a_picture_of_another_camera_or_none_at_all(chunks):
    Image.new("RGB", (90, 30)).save(chunks.root / "wide.png")
    wide = query(chunks, "--altitude", 300, photo="wide.png").stderr
    assert wide.count("expected") == wide.count("found") == 1
    assert "--gsd" in wide
    assert "check the path" in query(chunks, "--altitude", 300, photo="none.png").stderr


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"width": 80}'])
def test_a_camera_file_that_is_none(chunks, content):
    chunks.write("odd.json", content.encode())
    result = query(chunks, "--altitude", 300, "--camera", chunks.root / "odd.json")
    assert result.exit_code == 2, result.output
    assert "->" in result.stderr


@pytest.mark.parametrize(
    "options",
    [("--altitude", 3), ("--gsd", 3), ("--heading", 3), ("--near", "1,2,3"), ("--camera", "camera.json")],
)
def test_a_cache_of_tiles_takes_no_scale(built, options):
    result = built.run("query", str(built.tile()), *map(str, options), "--json")
    assert result.exit_code == 2
    assert "[chunks]" in result.stderr
    assert options[0] in result.stderr


def test_a_cache_of_tiles_answers_with_tiles(built):
    answer = json.loads(built.run("query", str(built.tile()), "--json").stdout)
    assert answer.keys() >= KEYS
    assert len(answer["hits"]) == 5
    assert (answer["candidates"], answer["margin"], answer["metres_per_pixel"]) == ([], None, None)
