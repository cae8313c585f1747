import csv
import json
import shlex
import shutil
import sys
from importlib.metadata import version

import mercantile
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.conformance import decoder
from tests.conformance.cpp_reader import told_by
from tests.conformance.python_reader import verdict
from tests.golden import answers
from tests.golden.outward import bundle_structure, cache_structure, keys
from tests.tools import tour
from tools.cli import cli
from tools.demo import region as demo_map
from tools.demo.region import make_region


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "kept"
    return CliRunner().invoke(cli, ["demo", "--keep", str(folder), "--json"]), folder


def test_every_promise_is_kept_and_told_in_one_line(played):
    result, _ = played
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert document["broken"] == []
    assert document["tiles"] == 8 * 8
    assert document["build"]["outcome"] == "built"
    assert document["failed"]["error"]["kind"] == "bad-tile"
    # A tile lies under (4 + 7 - 1)² chunks of 7 steps of a quarter of a tile.
    assert document["build"]["chunks_embedded"] == document["build"]["chunks"] == (6 * 4) ** 2
    assert document["changed"]["chunks_embedded"] == 100
    assert document["rollback"]["body_sha256"] == document["build"]["body_sha256"]
    assert (document["warm"]["outcome"], document["warm"]["writes"]) == ("reused", 0)
    query = document["query"]
    assert query["photographs"] == len(query["answers"]) == 24
    for metres, number in query["within"].items():
        assert number == sum(answer["error_m"] <= int(metres) for answer in query["answers"])
    assert query["within"]["50"] > 12
    assert query["better_half_right"] == 12
    assert 0 < query["elsewhere"]["largest_margin"] < max(answer["margin"] for answer in query["answers"])
    assert document["verify"]["go"] is True


def test_what_is_kept_can_be_looked_at(played):
    _, folder = played
    runner = CliRunner()
    cache = ["--cache", str(folder / "cache"), "--json"]
    status = json.loads(runner.invoke(cli, ["status", *cache]).stdout)
    assert (status["generation"], status["build"]) == (3, 1)
    assert [level["side_m"] for level in status["levels"]] == [pytest.approx(189, abs=1)]


def test_photographs_have_the_camera_s_aspect_and_lie_on_no_border(played):
    _, folder = played
    with (folder / "photos" / "truth.csv").open(encoding="utf-8") as lines:
        truth = list(csv.DictReader(lines))
    camera = json.loads((folder / "camera.json").read_text())
    assert len({row["file"] for row in truth}) == 24
    for row in truth:
        with Image.open(folder / "photos" / row["file"]) as picture:
            assert picture.size == (camera["width"], camera["height"])
        # In steps of the lattice, a quarter of a tile: no photograph was taken over a corner of it.
        x, y = steps_at(float(row["lon"]), float(row["lat"]))
        assert min(x % 1, y % 1) > 1e-3
        assert 175 < float(row["altitude_m"]) < 225


def test_query_finds_a_photograph_with_what_is_told_of_it(played):
    result, folder = played
    answers = {each["file"]: each for each in json.loads(result.stdout)["query"]["answers"]}
    with (folder / "photos" / "truth.csv").open(encoding="utf-8") as lines:
        row = next(csv.DictReader(lines))
    told = ["--altitude", row["altitude_m"], "--heading", row["heading_deg"], "--json"]
    words = ["query", str(folder / "photos" / row["file"]), "--cache", str(folder / "cache"), *told]
    found = json.loads(CliRunner().invoke(cli, words).stdout)
    assert found["candidates"][0]["lon"] == answers[row["file"]]["lon"]
    assert found["margin"] == pytest.approx(answers[row["file"]]["margin"], abs=1e-4)


def test_all_that_is_kept_has_the_structure_that_it_had(played, golden, tmp_path):
    result, folder = played
    found = cache_structure(folder / "cache")
    for name, words in {"bundle": (), "bundle of a failed build": ("2",)}.items():
        target = tmp_path / name
        cache = ("--cache", str(folder / "cache"))
        assert CliRunner().invoke(cli, ["export", *words, "-o", str(target), *cache]).exit_code == 0
        found[name] = bundle_structure(target)
    golden.check("structure", "demo", found)
    golden.check("json_keys", "demo", {"demo": keys(json.loads(result.stdout))})
    (answers.add if golden.writes else answers.check)({"demo": [json.loads(result.stdout)]})


def test_a_decoder_from_the_documents_projects_its_manifests(played, tmp_path):
    cache = played[1] / "cache"
    manifests = {int(path.stem): path.read_bytes() for path in (cache / "manifests").glob("*.json")}
    assert len(manifests) == 3
    assert decoder.manifests_of_cache(cache) == manifests
    shutil.copytree(cache / "segments", tmp_path / "segments")
    assert decoder.manifests_of_cache(tmp_path) == manifests


def test_the_reader_in_cpp_says_of_it_what_the_reader_of_c10_says(cpp_reader, played, tmp_path):
    with FlightCache.open(played[1] / "cache", trusted_keys=ALLOW_UNSIGNED) as flight:
        chunks = list(flight.descriptor_index().rows(0, 2**63 - 1)[0].tolist())
        tiles = flight._tile_table().ids.tolist()
    libraries = {"onnxruntime": version("onnxruntime")}
    question = {
        "keys": None,
        "floor": 3,
        "generation": None,
        "device": {"libraries": libraries, "gpu": None, "openvino_target": None},
        "find": [str(each) for each in sorted(chunks)[::50] + tiles[::20] + [7]],
    }
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"cases": [{"name": "cache", "ask": question}]}))
    told = told_by(cpp_reader, "cases", cases, played[1])["cache"]
    assert told == verdict(played[1] / "cache", question)
    assert told["go"]
    assert sum(found["row"] is not None for found in told["found"]) > 10


def steps_at(lon, lat):
    """Return a place in columns and rows of quarters of a tile of zoom 18."""
    x, y = mercantile.xy(lon, lat)
    span = 40_075_016.686 / 2**20
    return x / span, y / span


@pytest.fixture(scope="module")
def toured(played, tmp_path_factory):
    """A copy of the demo in which README's tour was run, and the outputs by README and by the tour."""
    folder = shutil.copytree(played[1], tmp_path_factory.mktemp("readme") / "tour")
    blocks = tour.BLOCK.findall(tour.README.read_text())
    shown = [each for block in blocks for each in tour.commands(block)]
    return folder, shown, [(command, tour.run(command, folder)) for command, _ in shown]


def test_readme_shows_what_its_commands_print(toured):
    _, shown, printed = toured
    assert len(shown) > 8
    for (command, by_readme), (_, real) in zip(shown, printed, strict=True):
        assert tour.normalised(by_readme) == tour.normalised(real), f"{command}; python -m tests.tools.tour"


def test_the_python_of_readme_runs(toured):
    folder, _, _ = toured
    ground, on_board = tour.PYTHON.findall(tour.README.read_text())
    python = shlex.quote(sys.executable)
    found = tour.run(f"{python} -c {shlex.quote(ground + 'print(report.outcome.value)')}", folder)
    assert found == "reused\n"
    shown = "print(f'{best.longitude:.6f} {best.latitude:.6f}')"
    found = tour.run(f"{python} -c {shlex.quote(on_board + shown)}", folder)
    assert found == "-30.008984 44.912183\n"


def test_what_varies_is_masked_and_words_are_not():
    first = "built generation 4 in 56 ms\nmanifest  0123456789abcdef\nstored  1.5 MiB"
    other = "built generation 4 in 1.2 s\nmanifest  fedcba9876543210\nstored  916.6 KiB"
    assert tour.normalised(first) == tour.normalised(other)
    assert tour.normalised(first) != tour.normalised(first.replace("built", "made"))
    assert tour.normalised(first) != tour.normalised(first.replace("4", "5"))


def test_an_option_without_its_value_points_to_the_help_of_its_command():
    result = CliRunner().invoke(cli, ["demo", "--keep"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1] == "  -> c10 demo --help"


def test_it_does_not_play_in_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.doc").write_text("hello")
    result = CliRunner().invoke(cli, ["demo", "--keep", str(tmp_path), "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"].endswith(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_pixels_and_places_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_map, "terrain", lambda size, *_: np.zeros((size, size, 3), np.uint8))
    region = make_region(tmp_path)
    for x, y in ((0.5, 0.5), (1000.0, 1500.0), (2047.5, 17.25)):
        lon, lat = region.at_pixel(x, y)
        tile = mercantile.tile(lon, lat, 18)
        assert (tile.z, tile.x, tile.y) == region.tile_at_pixel(x, y)
        assert region.path((tile.z, tile.x, tile.y)).is_file()
