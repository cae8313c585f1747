"""Every command's `--json` has the keys that it had, and what it leaves on disk the structure that it had."""

import json
import shutil
from collections import defaultdict

import mercantile
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from journal.lock import BuildLock
from tests.golden import answers
from tests.golden.outward import cache_structure, file_names, keys
from tests.ground import ALTITUDE_M, GroundSite, chunk_middle, frame_at
from tests.tools.conftest import LEFT, TOP, ZOOM, World, picture
from tools.cli import cli

SETTINGS = {"C10_WORKERS": "1", "C10_LOCK_TIMEOUT_S": "0.2"}
CAMERA_TILE = f"{ZOOM}/{LEFT}/{TOP}"
LOCAL = {"doctor": ("packages", "machine.gpus[]"), "replay": ("findings[]",)}
"""Objects whose keys depend on the machine: names of packages, or findings about slowness."""


ANSWERS = defaultdict(list)
"""What each command answered in the test that runs."""


@pytest.fixture(autouse=True)
def shipped_schemas(golden):
    """Hold all answers of a test to the schemas that `c10 schema` prints, or write these anew."""
    ANSWERS.clear()
    yield
    (answers.add if golden.writes else answers.check)(ANSWERS)


class Play:
    """Runs commands on one cache and keeps the keys of what they say, by exit code and what was run."""

    def __init__(self, world):
        self.world = world
        self.found = {}

    def __call__(self, title, *words, code=0, cache=True):
        """Run a command with --json; the title tells what is special about it."""
        place = ["--cache", str(self.world.cache)] if cache else []
        result = CliRunner().invoke(cli, [*map(str, words), *place, "--json"], env=SETTINGS)
        assert result.exit_code == code, (title, result.output)
        (line,) = result.stdout.splitlines()
        document = json.loads(line)
        ANSWERS[str(words[0])].append(_without_local_keys(str(words[0]), document))
        local = LOCAL.get(str(words[0]), ())
        self.found[f"{title}, exit {code}"] = {
            path: names for path, names in keys(document).items() if path not in local
        }
        return document


def _without_local_keys(command, document):
    """Return an answer without keys that another machine has not."""
    if command == "doctor" and document.get("packages"):
        return document | {"packages": {}}
    return document


@pytest.fixture
def play(world):
    return Play(world)


def other_flight(world, name):
    path = world.folder / f"{name}.toml"
    path.write_text((world.folder / "request.toml").read_text().replace('"tiny"', f'"{name}"', 1))
    return path


def damage(world, ref):
    path = world.artifact(ref["sha256"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def body(world, generation):
    return json.loads(world.manifest_file(generation).read_bytes())["body"]


def test_commands_that_look(play, golden, tmp_path):
    play("status", "status")
    play("log", "log")
    play("log of failed builds", "log", "--failed", "-n", 1)
    for build, what in ((1, "committed"), (2, "failed"), (3, "rolled back from")):
        play(f"show a build that was {what}", "show", build)
        play(f"replay a build that was {what}", "replay", build)
        play(f"report a build that was {what}", "report", build, "-o", tmp_path / f"{build}.html")
    play("replay in full", "replay", 1, "--all")
    play("replay up to a record", "replay", "--at", 12)
    play("replay --rerun", "replay", 2, "--rerun")
    play("replay --rerun of what did not fail", "replay", 1, "--rerun", code=2)
    play("diff", "diff", 1, 3)
    play("diff with a failed build", "diff", 1, 2)
    shown = body(play.world, 3)
    for subject in ("engine", "cells", "index", CAMERA_TILE, shown["engines"][0]["artifact"]["sha256"]):
        title = "an artifact" if len(subject) == 64 else subject.replace(CAMERA_TILE, "a tile")
        play(f"why {title}", "why", subject)
    play("why a step of a failed build", "why", "cells", "--build", 2)
    play("manifest", "manifest")
    play("query", "query", play.world.tile(), "--top", 2)
    play("doctor", "doctor")
    play("doctor without a cache", "doctor", "--cache", tmp_path / "none", cache=False)
    for depth in (("--quick",), ("--full",), ("--budget", "20s")):
        play(f"verify {depth[0]}", "verify", *depth)
    damage(play.world, shown["engines"][0]["artifact"])
    play("verify a damaged cache", "verify", "--full", code=5)
    play("query a damaged cache", "query", play.world.tile(), code=5)
    golden.check("json_keys", "commands that look", play.found)


def test_commands_on_chunks(golden, tmp_path):
    site = GroundSite(tmp_path)
    assert site.build().error is None
    play = Play(site)
    photo = site.root / "photo.png"
    Image.fromarray(frame_at(*chunk_middle(9, 7))).save(photo)
    truth = site.write("truth.csv", f"file,lon,lat,altitude_m\nphoto.png,0,0,{ALTITUDE_M}\n".encode())
    play("query on chunks", "query", photo, "--altitude", ALTITUDE_M)
    play("prove", "prove", truth)
    play("prove, no such table", "prove", site.root / "none.csv", code=2)
    golden.check("json_keys", "commands on chunks", play.found)


def test_commands_that_build(play, golden):
    world, request = play.world, play.world.request
    play("plan, nothing to do", "plan", request)
    play("build --dry-run, nothing to do", "build", request, "--dry-run")
    assert play("build, reused", "build", request)["outcome"] == "reused"
    sortie = other_flight(world, "sortie")
    play("plan", "plan", sortie)
    play("build --dry-run", "build", sortie, "--dry-run")
    assert play("build, built", "build", sortie)["outcome"] == "built"
    assert play("engines, reused", "engines", request)["engines"]
    with BuildLock(world.cache / "build.lock", command="test"):
        play("build, lock held", "build", other_flight(world, "late"), code=4)
        play("doctor, lock held", "doctor")
    play("rollback", "rollback", "--why", "test")
    play("rollback, nothing to do", "rollback", "--to", 5)
    play("rollback, no such generation", "rollback", "--to", 99, code=2)
    play("build, rolled back from", "build", sortie, code=2)
    play("plan, rolled back from", "plan", sortie)
    assert play("build --again", "build", sortie, "--again")["outcome"] == "built"
    original = world.tile().read_bytes()
    world.tile().write_bytes(original[:50])
    assert play("build, failed", "build", request, code=3)["outcome"] == "failed"
    picture(np.random.default_rng(7)).save(world.tile())
    play("plan, a changed tile", "plan", request)
    wanting = other_flight(world, "wanting")
    asked = wanting.read_text().replace("[tiles]", "[tiles]\nmax_age_days = 1")
    wanting.write_text(asked)
    play("plan, tiles too old", "plan", wanting)
    wanting.write_text(f"{asked}[coverage]\nmin_fraction = 1.0\n")
    world.tile().unlink()
    assert play("build, coverage too low", "build", wanting, code=3)["error"]["kind"] == "coverage-too-low"
    play("plan, coverage too low", "plan", wanting, code=2)
    newest = play("log of failed builds", "log", "--failed")["entries"][0]["build"]
    play("show a build with too low coverage", "show", newest)
    findings = play("replay a build with too low coverage", "replay", newest)["findings"]
    assert {tuple(sorted(each)) for each in findings} == {("kind", "mend", "seq", "severity", "text")}
    (world.folder / "tiny.onnx").write_bytes(b"nothing")
    play("plan, bad network", "plan", request, code=2)
    play("build, bad network", "build", request, code=3)
    play("engines, bad network", "engines", request, code=3)
    (world.folder / "request.toml").write_text("flight = 1")
    play("build, bad request", "build", request, code=2)
    play("engines, bad request", "engines", request, code=2)
    golden.check("json_keys", "commands that build", play.found)
    golden.check("structure", "a cache that was built on", cache_structure(world.cache))


def test_the_first_commands_on_a_new_cache(empty, golden):
    play = Play(empty)
    play("init", "init", empty.folder / "tiles", "-o", empty.folder / "written.toml", cache=False)
    ends = [mercantile.ul(LEFT + x, TOP, ZOOM) for x in (0, 60)]
    route = empty.folder / "route.json"
    line = [[end.lng + 0.01, end.lat - 0.01] for end in ends]
    route.write_text(json.dumps({"type": "LineString", "coordinates": line}))
    there = ("--area", route, "-o", empty.folder / "short.toml")
    assert play("init, a route beyond", "init", empty.folder / "tiles", *there, cache=False)["warnings"]
    play("plan, no cache yet", "plan", empty.request)
    play("engines, compiled", "engines", empty.request)
    play("status, nothing committed", "status")
    play("log, nothing committed", "log")
    play("doctor, nothing committed", "doctor")
    play("verify, nothing committed", "verify", code=5)
    assert play("build", "build", empty.request)["outcome"] == "built"
    play("rollback, nothing before", "rollback", code=2)
    golden.check("json_keys", "the first commands on a new cache", play.found)


def test_commands_that_keep_mend_and_carry(play, golden, tmp_path):
    world = play.world
    play("keygen", "keygen", "-o", tmp_path / "key", cache=False)
    play("sign", "sign", "--key", tmp_path / "key")
    play("sign, nothing to do", "sign", "--key", tmp_path / "key")
    play("verify a signed cache", "verify", "--trusted-key", tmp_path / "key.pub")
    play("accept", "accept", 2)
    play("accept, nothing to do", "accept", 2)
    bundle = tmp_path / "some.bundle"
    play("export", "export", "-o", bundle)
    play("export a failed build", "export", 2, "-o", tmp_path / "failed.bundle")
    play("replay a bundle", "replay", 2, "--bundle", tmp_path / "failed.bundle", cache=False)
    for title in ("imported", "unchanged"):
        new = ("--cache", tmp_path / "new")
        assert play(f"import, {title}", "import", bundle, *new, cache=False)["outcome"] == title
    play("have", "have")
    play("have without a cache", "have", "--cache", tmp_path / "none", cache=False)
    shutil.copytree(world.cache / "artifacts", tmp_path / "left" / "artifacts")
    play("have of what an import left that was killed", "have", "--cache", tmp_path / "left", cache=False)
    play("mirror", "mirror", tmp_path / "card")
    play("mirror, nothing to do", "mirror", tmp_path / "card")
    play("have of a mirror", "have", "--cache", tmp_path / "card", cache=False, code=2)
    play("gc, nothing to do", "gc")
    for name in ("a", "b", "c"):
        play("build", "build", other_flight(world, name))
    play("gc", "gc", "--keep", 1)
    play("gc --yes", "gc", "--keep", 1, "--yes")
    play("log after gc", "log")
    damage(world, body(world, 6)["engines"][0]["artifact"])
    play("have of a damaged cache", "have", "--full")
    play("export a damaged cache", "export", "-o", tmp_path / "less.bundle", code=5)
    play("repair --dry-run", "repair", "--dry-run", code=5)
    play("repair", "repair")
    play("repair, nothing to do", "repair")
    for path in world.cache.glob("journal.mdb*"):
        path.unlink()
    play("rebuild", "rebuild")
    play("show after rebuild", "show", 1)
    golden.check("json_keys", "commands that keep, mend and carry", play.found)
    golden.check("structure", "a cache that was mended", cache_structure(world.cache))
    golden.check("structure", "a cache that was imported", cache_structure(tmp_path / "new"))
    golden.check("structure", "a mirror", {"files": file_names(tmp_path / "card")})


def test_a_refused_command_has_the_keys_of_an_answer(tmp_path, golden):
    """Every command there is, so that one cannot be added without its keys being known."""
    play = Play(World(tmp_path))
    for name in cli.list_commands(None):
        play(name, name, "--no-such-option", code=2, cache=False)
    golden.check("json_keys", "refused commands", play.found)
