"""`c10 prove`: photographs of known places on a cache of chunks, and every table that is refused."""

import hashlib
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.planning.proof import read_truth
from pipeline.request.area import Area
from pipeline.request.proof_options import ProofOptions
from store.base.geometry.distances import distance_m
from store.base.geometry.level import tile_side_m
from tests.ground import (
    ALTITUDE_M,
    EDGE,
    GROUND,
    PIXEL_M,
    PLACES,
    ZOOM,
    GroundSite,
    chunk_middle,
    frame_at,
    place_at,
)
from tools.cli import cli

HEADER = "file,lon,lat,altitude_m,gsd_m,heading_deg,remark\n"


def row(name, place, *, scale=f"{ALTITUDE_M},", heading="0"):
    return f"{name},{place[0]:.7f},{place[1]:.7f},{scale},{heading},a remark\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("prove"))
    report = site.build()
    assert report.error is None
    for name, place in PLACES.items():
        (site.root / "photos").mkdir(exist_ok=True)
        Image.fromarray(frame_at(*chunk_middle(*place))).save(site.root / "photos" / name)
    whole = (site.root / "photos" / "one.png").read_bytes()
    site.write("photos/cut.png", whole[: len(whole) // 2])
    site.write("photos/empty.png", b"")
    Image.new("RGB", (80, 64)).save(site.root / "photos" / "one.gif")
    return site


@pytest.fixture
def rows():
    return [row(f"photos/{name}", place_at(*chunk_middle(*place))) for name, place in PLACES.items()]


def prove(site, text, *options, json=True, code=0):
    truth = site.write("truth.csv", text if isinstance(text, bytes) else text.encode())
    words = ["prove", truth, "--cache", site.cache, *options, *(["--json"] if json else [])]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def document(site, text, *options):
    return json.loads(prove(site, text, *options).stdout)


def test_photographs_of_chunks_are_found(site, rows):
    found = document(site, HEADER + "".join(rows))
    assert found["pictures"] == 3
    assert found["within"] == {metres: dict.fromkeys(("1", "5", "10"), 1.0) for metres in ("20", "50", "100")}
    assert found["median_m"] < 1
    assert found["margin"]["better_half_right"] == 1.0
    assert [share for _, share in found["margin"]["table"]] == [1.0] * 3
    assert [each["file"] for each in found["answers"]] == [f"photos/{name}" for name in PLACES]
    for each, place in zip(found["answers"], PLACES.values(), strict=True):
        assert each.keys() == {"file", "outside", "error_m", "margin", "candidates"}
        best = each["candidates"][0]
        assert best.keys() == {"lon", "lat", "score", "level", "side_m", "error_m"}
        assert each["error_m"] == best["error_m"] < 1
        assert (best["lon"], best["lat"]) == pytest.approx(place_at(*chunk_middle(*place)), abs=1e-6)
        assert each["margin"] > 0
        assert len(each["candidates"]) == 10


def test_a_scale_in_place_of_an_altitude_is_the_same(site, rows):
    by_pixel = [each.replace(f",{ALTITUDE_M},,", f",,{PIXEL_M},") for each in rows]
    assert by_pixel != rows
    found, expected = (document(site, HEADER + "".join(each))["answers"] for each in (by_pixel, rows))
    assert [each["error_m"] for each in found] == [each["error_m"] for each in expected]


def test_a_wrong_place_is_a_wrong_answer(site, rows):
    moved = place_at(*chunk_middle(12, 7))
    found = document(site, HEADER + row("photos/one.png", moved) + "".join(rows[1:]))
    assert found["within"]["100"]["1"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["answers"][0]["error_m"] == pytest.approx(1.5 * tile_side_m(ZOOM, 0), rel=0.01)


def test_outside_of_the_area_is_wrong_and_told(site, rows):
    west, _ = place_at(2 * EDGE, 0)
    edge = (west - 1e-7, place_at(*chunk_middle(3, 7))[1])
    Image.fromarray(frame_at(2 * EDGE, chunk_middle(3, 7)[1])).save(site.root / "photos" / "edge.png")
    result = prove(site, HEADER + row("photos/edge.png", edge) + "".join(rows))
    found = json.loads(result.stdout)
    assert [each["outside"] for each in found["answers"]] == [True, False, False, False]
    assert found["within"]["100"]["10"] == 0.75
    assert "warning: photos/edge.png: outside of the area" in result.stderr
    assert [each["kind"] for each in found["warnings"]] == ["photographs-outside"]
    shown = prove(site, HEADER + row("photos/edge.png", edge) + "".join(rows), json=False)
    assert "outside of the area" in shown.stdout


def test_exchanged_columns_are_suspected_where_both_are_possible(site):
    table = read_truth(site.write("truth.csv", (HEADER + row("photos/one.png", (24.2, 10.1))).encode()))
    here, there = Area((100_000_000, 240_000_000, 110_000_000, 250_000_000)), Area((0, 0, 1, 1))
    assert table.outside_warning(here).endswith("no answer is right; lon and lat may be exchanged")
    assert table.outside_warning(there).endswith("no answer is right")
    assert table.outside_warning(Area((0, 0, 300_000_000, 300_000_000))) is None


def test_a_table_of_windows_is_read(site, rows):
    text = HEADER + "".join(rows)
    plain = document(site, text)
    assert document(site, ("\ufeff" + text.replace("\n", "\r\n")).encode()) == plain


def test_near_a_guess_those_around_it_alone(site, rows):
    radius = 3 * tile_side_m(ZOOM, 0)
    found = document(site, HEADER + "".join(rows), "--near", radius)
    for each, place in zip(found["answers"], PLACES.values(), strict=True):
        assert each["error_m"] < 1
        data = (site.root / each["file"]).read_bytes()
        drawn = hashlib.sha256(b"c10/prior/1" + hashlib.sha256(data).digest()).digest()
        off = 0.7 * radius * (int.from_bytes(drawn[:8], "big") / 2**64) ** 0.5
        true = place_at(*chunk_middle(*place))
        for candidate in each["candidates"]:
            assert distance_m(true, (candidate["lon"], candidate["lat"])) <= radius + off + 1
    # Where no chunk is near the guess there is no answer, which is wrong and no error.
    elsewhere = HEADER + row("photos/one.png", (90, 0))
    nothing = document(site, elsewhere, "--near", radius)
    assert [each["error_m"] for each in nothing["answers"]] == [None]
    assert nothing["within"]["100"]["10"] == 0
    assert (nothing["median_m"], nothing["margin"]) == (None, {"better_half_right": None, "table": []})
    shown = prove(site, elsewhere, "--near", radius, json=False).stdout
    assert "no answer has one" in shown


def test_text_for_people(site, rows):
    result = prove(site, HEADER + "".join(rows), json=False)
    for said in (
        "photos/one.png",
        "within 20 m",
        "100 %",
        "margin at least",
        "of the 2 with the larger margin 2",
    ):
        assert said in result.stdout
    assert "3 photographs" in result.stderr
    many = HEADER
    for number in range(45):
        Image.fromarray(frame_at(*chunk_middle(6 + number % 9, 6 + number // 9))).save(
            site.root / "photos" / f"{number}.png"
        )
        many += row(f"photos/{number}.png", place_at(*chunk_middle(6 + number % 9, 6 + number // 9)))
    assert "and 5 more; --json has them" in prove(site, many, json=False).stdout


def test_an_altitude_that_does_not_fit_is_a_warning(site, rows):
    result = prove(site, HEADER + rows[0].replace(f",{ALTITUDE_M},,", f",{2 * ALTITUDE_M},,"))
    assert "c10: warning: photos/one.png: the frame is best compared" in result.stderr
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning["kind"] == "doubtful-answer"
    assert f"c10: warning: {warning['message']}\n" in result.stderr


REFUSED = {
    "an empty table": ("", "column"),
    "no rows": (HEADER, "photographs, found 0"),
    "missing columns": ("file,lon,lat\nphotos/one.png,1,2\n", "altitude_m or gsd_m"),
    "not a number": (HEADER + "photos/one.png,1,north,3,,\n", "line 2: expected lat"),
    "both scales": (HEADER + "photos/one.png,0,0,3,4,\n", "found both"),
    "neither scale": (HEADER + "photos/one.png,0,0,,,\n", "found neither"),
    "altitude 0": (HEADER + "photos/one.png,0,0,0,,\n", "altitude_m above 0"),
    "a missing photograph": (HEADER + "photos/none.png,0,0,3,,\n", "photos/none.png"),
    "a folder": (HEADER + "photos,0,0,3,,\n", "photos"),
    "a name with a null": (HEADER + "pho\0to,0,0,3,,\n", "expected"),
    "no picture": (HEADER + f"camera.json,0,0,{ALTITUDE_M},,\n", "camera.json: expected a JPEG, PNG or WebP"),
    "not UTF-8": (b"\xff\xfe", "UTF-8"),
    "an empty picture": (
        HEADER + f"photos/empty.png,0,0,{ALTITUDE_M},,\n",
        "empty.png: expected a JPEG, PNG or WebP",
    ),
    "another format": (
        HEADER + f"photos/one.gif,0,0,{ALTITUDE_M},,\n",
        "one.gif: expected a JPEG, PNG or WebP",
    ),
    "a picture cut short": (
        HEADER + f"photos/cut.png,0,0,{ALTITUDE_M},,\n",
        "photos/cut.png: expected a whole",
    ),
    "one twice": (
        HEADER + f"photos/one.png,0,0,{ALTITUDE_M},,\nphotos/../photos/one.png,0,0,{ALTITUDE_M},,\n",
        "expected each photograph once",
    ),
    "semicolons": (HEADER.replace(",", ";"), "found file;lon;lat"),
    "more than a turn": (HEADER + "photos/one.png,0,0,3,,400\n", "from -360 to 360, found '400'"),
    "lon and lat exchanged": (HEADER + "photos/one.png,0,120.7,3,,\n", "lat as a number from -90 to 90"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_how_to_mend_it(site, name):
    text, said = REFUSED[name]
    result = prove(site, text, code=2)
    assert said in result.stderr
    assert "\n  -> " in result.stderr


@pytest.mark.parametrize("radius", ["0", "-3", "nan", "inf"])
def test_a_radius_that_is_none(site, rows, radius):
    assert "--near" in prove(site, HEADER + rows[0], f"--near={radius}", code=2).stderr


def test_a_table_that_is_not_there(site):
    result = CliRunner().invoke(
        cli, ["prove", str(site.root / "none.csv"), "--cache", str(site.cache), "--json"]
    )
    assert result.exit_code == 2
    assert "none.csv" in result.stderr


def test_a_photograph_of_another_camera_is_named(site):
    Image.fromarray(GROUND[:64, :64]).save(site.root / "photos" / "square.png")
    result = prove(site, HEADER + row("photos/square.png", (0, 0)), code=2)
    assert "photos/square.png: expected a frame of the camera" in result.stderr
    assert "\n  -> " in result.stderr


def test_a_photograph_of_nothing_is_named(site):
    Image.new("RGB", (80, 64)).save(site.root / "photos" / "black.png")
    result = CliRunner().invoke(
        cli,
        [
            "prove",
            str(site.write("truth.csv", (HEADER + row("photos/black.png", (0, 0))).encode())),
            "--cache",
            str(site.cache),
        ],
    )
    assert result.exit_code == 6
    assert "photos/black.png: expected a descriptor" in result.stderr


def test_a_photograph_that_changes_meanwhile_is_named(site, rows, monkeypatch):
    def read_early(path):
        table = read_truth(path)
        return replace(table, digests=(b"another",) * len(table.digests))

    monkeypatch.setattr("tools.commands.prove.read_truth", read_early)
    assert "photos/one.png to stay as it is" in prove(site, HEADER + rows[0], code=2).stderr


def test_without_a_camera_altitudes_are_refused_and_scales_are_not(tmp_path, site):
    blind = GroundSite(tmp_path / "blind")
    blind.write("camera.json", b'{"focal": 35}')
    report = blind.build()
    assert report.error is None
    photo = site.root / "photos" / "one.png"
    place = place_at(*chunk_middle(*PLACES["one.png"]))
    result = prove(blind, HEADER + row(photo, place), code=2)
    assert "expected a camera in the calibration" in result.stderr
    assert "gsd_m" in result.stderr
    found = document(blind, HEADER + row(photo, place, scale=f",{PIXEL_M}"))
    assert found["answers"][0]["error_m"] < 1


def test_a_cache_of_tiles_is_refused(built):
    truth = built.folder / "truth.csv"
    truth.write_text(HEADER + f"{built.tile()},0,0,3,,\n")
    result = built.run("prove", str(truth), "--json")
    assert result.exit_code == 2
    assert "[chunks]" in result.stderr


def test_what_a_proof_showed_is_in_status_verify_and_replay(tmp_path):
    site = GroundSite(tmp_path)
    text = "file,lon,lat,altitude_m,heading_deg\n"
    for number, name in enumerate(("a.png", "b.png")):
        x, y = chunk_middle(9, 7)
        Image.fromarray(frame_at(x, y)).save(site.root / name)
        lon, lat = place_at(x + 2 * EDGE * number, y)
        text += f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0\n"
    site.write("truth.csv", text.encode())
    options = ProofOptions(pictures="truth.csv", min=0.5, within_m=5000)

    def run(*words):
        return CliRunner().invoke(cli, [*words, "--cache", str(site.cache)])

    assert site.build().error is None
    assert json.loads(run("status", "--json").stdout)["proof"] is None
    assert "nobody has shown that this cache finds a place" in " ".join(run("verify").stdout.split())
    assert site.build(proof=options).error is None
    assert json.loads(run("status", "--json").stdout)["proof"] == {
        "pictures": 2,
        "right": 1,
        "within_m": 5000,
        "at": 1,
        "min": 0.5,
        "near_m": None,
        "better_half_right": 1.0,
    }
    assert "1 of 2 photographs found" in run("status").stdout
    assert "1 of 2 photographs found" in run("verify").stdout
    assert site.build(proof=replace(options, min=1)).error is not None
    again = " ".join(run("replay", "3", "--rerun").stdout.split())
    assert "only 1 of 2 within 5000 m, below 1" in again
    assert "_ppm" not in again
    assert "proof of photographs passed: 1 of 2 photographs found" in " ".join(
        run("replay", "2", "--all").stdout.split()
    )
    assert "asked for again by c10 prove" in again
    digest = json.loads(run("manifest").stdout)["body"]["proof"]["sha256"]
    assert "proof" in run("why", digest).stdout
    assert "proof" in run("diff", "1", "2").stdout
