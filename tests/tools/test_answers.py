"""Answers with values where those of other tests have null, so that `c10 schema` tells the types of these."""

from dataclasses import replace
from datetime import date
from itertools import product

import numpy as np
import pytest
from PIL import Image

from journal.lock import BuildLock
from pipeline.request.options import EngineOptions
from tests.ground import ALTITUDE_M, COLUMN, EDGE, ROW, GroundSite, chunk_middle, frame_at
from tests.ground import ZOOM as GROUND_ZOOM
from tests.pipeline.build.test_proof import STEP_M, WITHIN, write_truth
from tests.small_builds import encoded
from tests.tools.analysis.test_replay import append, raw
from tests.tools.conftest import ACROSS, DOWN, LEFT, TOP
from tests.tools.test_json_keys import ANSWERS, Play, body, damage, shipped_schemas  # noqa: F401 - a fixture
from tools.commands.schema import answer_schemas

UNTOLD = {
    **dict.fromkeys(("doctor.machine.gpus[]", "doctor.machine.nvidia"), "machines with a GPU"),
    "init.captured": "GeoTIFF files, which need an extra",
    **dict.fromkeys(
        (
            *("manifest.body.inputs.index.nprobe", "replay.inputs.index.nprobe", "show.inputs.index.nprobe"),
            "replay.keys[].components.index.nprobe",
        ),
        "an index of 256 tiles or more; c10 schema manifest tells its type",
    ),
    **dict.fromkeys(
        (
            *("replay.rerun.compared[]", "replay.rerun.culprit", "replay.rerun.differences[]"),
            *("replay.rerun.suspects[]", "replay.rerun.tries[]", "replay.failure.inputs[].found"),
        ),
        "crashes of a compiler or worker",
    ),
    **dict.fromkeys(
        ("build.map", "demo.build.map", "demo.changed.map", "demo.failed.map", "demo.warm.map"),
        "only plan draws a map",
    ),
    "demo.broken[]": "a demonstration that fails",
    **dict.fromkeys(
        ("rollback.warnings[]", "demo.rollback.warnings[]", "verify.not_loaded[]", "verify.notes[]"),
        "caches that were made for another device or file system",
    ),
    **dict.fromkeys(
        ("rebuild.repairs[].sha256", "rebuild.segments_replaced[]"), "a journal and segments that are damaged"
    ),
    "replay.compare.host[].old": "a host that lost a fact",
    "replay.compare.tiles.runs.added[]": "imagery that grew",
    "show.host.request.precision": "builds of single engines",
}
"""Values of which the schemas say nothing, and who would see them."""


@pytest.fixture
def play(world):
    return Play(world)


def nodes(schema, path):
    """Yield the path of each value of a schema, and the schema."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def test_the_schemas_tell_the_type_of_every_value():
    untold = {
        path
        for name, schema in answer_schemas().items()
        for path, inner in nodes(schema, name)
        if "type" not in inner
    }
    assert sorted(untold ^ UNTOLD.keys()) == []


def test_answers_of_a_build_with_a_proof(tmp_path):
    site = GroundSite(tmp_path)
    write_truth(site)
    play = Play(site)
    proof = replace(WITHIN, near_m=6 * STEP_M)
    request = site.write_request(proof=proof, tiles={"captured": date(2026, 1, 15)})
    assert any(each["why"] for each in play("plan", "plan", request, "--no-measure")["time"])
    assert play("build --dry-run", "build", request, "--dry-run")["proof"]
    play("build", "build", request)
    assert play("plan again", "plan", request)["levels"]
    assert play("status", "status")["proof"]
    for command in ("verify", "manifest"):
        play(command, command)
    for command in ("replay", "show"):
        play(command, command, 1)
    photo = site.root / "photo.png"
    Image.fromarray(frame_at(*chunk_middle(9, 7))).save(photo)
    assert play("query", "query", photo, "--altitude", ALTITUDE_M)["candidates"][0]["captured"]
    play(
        "prove, nothing found",
        "prove",
        site.write("high.csv", f"file,lon,lat,altitude_m\nphoto.png,0,0,{9 * ALTITUDE_M}\n".encode()),
    )
    assert play("query, too high", "query", photo, "--altitude", 10 * ALTITUDE_M)["warnings"]


def test_answers_of_builds_of_chunks_that_lack_ground(tmp_path):
    site = GroundSite(tmp_path)
    assert site.build().error is None
    plain = encoded(np.full((EDGE, EDGE, 3), 90, np.uint8))
    for column, row in product(range(4, 8), range(4, 8)):
        site.write(f"tiles/{GROUND_ZOOM}/{COLUMN + column}/{ROW + row}.png", plain)
    (site.root / f"tiles/{GROUND_ZOOM}/{COLUMN + 9}/{ROW + 9}.png").unlink()
    play = Play(site)
    play("build", "build", site.write_request(engine=EngineOptions(precision="fp32")))
    assert play("diff", "diff", 1, 2)["host"]
    assert play("diff", "diff", 2, 1)["host"]
    for command in ("show", "replay"):
        play(command, command, 2)


def test_answers_of_builds_that_lack_tiles(play):
    world, request = play.world, play.world.folder / "request.toml"
    days = [f"12,{LEFT + x},{TOP + y},2026-01-{10 + x}" for x in range(ACROSS) for y in range(DOWN)]
    (world.folder / "days.csv").write_text(
        "z,x,y,captured\n" + "\n".join(days[1:]) + f"\n12,{LEFT},{TOP},2020-01-01\n"
    )
    text = request.read_text().replace("2026-01-15", '"days.csv"')
    text = text.replace("[tiles]", '[tiles]\ntoo_old = "exclude"\non_bad = "skip"')
    request.write_text(text + "[coverage]\nmin_fraction = 0.5\n")
    world.tile(LEFT + 1).unlink()
    world.tile(LEFT + 2).write_bytes(b"nothing")
    for x in (3, 4):
        Image.new("RGB", (64, 64), (9, 99, 9)).save(world.tile(LEFT + x))
    play("build --dry-run", "build", request, "--dry-run")
    play("build", "build", request)
    found = play("show", "show", 4)["area"]
    assert all(found[name] for name in ("excluded", "featureless", "holes", "skipped"))
    play("replay", "replay", 4)
    assert play("diff", "diff", 1, 4)["tiles"]["runs"]["removed"]
    assert play("diff", "diff", 4, 1)["tiles"]["runs"]["added"]
    for subject in ("engine", "cells", "index", "tiles"):
        play(f"why {subject}", "why", subject, "--build", 4)
    play("replay, compared", "replay", 4, "--all")


def test_answers_of_a_signed_cache(play, tmp_path):
    key = tmp_path / "key"
    play("keygen", "keygen", "-o", key, cache=False)
    play("sign", "sign", "--key", key)
    assert play("status", "status")["signed_by"]
    for command, *words in (
        ("replay", 1),
        ("show", 1),
        ("manifest",),
        ("verify", "--full", "--trusted-key", f"{key}.pub"),
    ):
        play(command, command, *words)
    play("accept", "accept", 2)
    assert play("show", "show", 3)["accepted"] is not None
    play("replay", "replay", 3)


def test_answers_after_a_failed_and_a_killed_build(play):
    world = play.world
    world.tile().write_bytes(world.tile().read_bytes()[:50])
    assert play("build, failed", "build", world.request, code=3)["error"]["step"] == "cells"
    assert play("status", "status")["lately"]["step"]
    started = {
        "identity": None,
        "inputs": {"flight_id": "x"},
        "calibration": None,
        "again": False,
        "host": {},
    }
    window = {"kind": "cells", "subjects": ["12/136/88", "12/137/88"], "key": "ab" * 32}
    play("replay --rerun", "replay", 4, "--rerun")
    append(world.cache, raw("build.started", started, build=5), raw("step.started", window, build=5))
    play("replay of a killed build", "replay", 5)
    assert play("status", "status")["open_build"] == 5
    assert play("doctor", "doctor", code=2)["cache"]["open_build"] == 5


def test_answers_of_a_build_with_a_graph_as_index(empty):
    play, request = Play(empty), empty.folder / "request.toml"
    request.write_text(f'{request.read_text()}\n[index]\nkind = "hnsw"\nm = 8\nef = 32\n')
    play("build", "build", request)
    assert play("manifest", "manifest")["body"]["inputs"]["index"]["m"]
    for command in ("show", "replay"):
        play(command, command, 1)


def test_answers_about_what_was_lost(play, tmp_path):
    world = play.world
    play("keygen", "keygen", "-o", tmp_path / "key", cache=False)
    play("sign", "sign", "--key", tmp_path / "key")
    play("mirror", "mirror", tmp_path / "card")
    lost = body(world, 3)["index"]["blocks"]["sha256"]
    path = tmp_path / "card/artifacts" / lost[:2] / lost
    path.chmod(0o644)
    path.write_bytes(b"x")
    assert play("mirror, damaged", "mirror", tmp_path / "card", "--full")["replaced"]
    world.tile().write_bytes(b"another")
    play("replay --rerun", "replay", 2, "--rerun")
    (world.cache / "lost+found").mkdir()
    play("verify", "verify", "--full")
    damage(world, body(world, 2)["engines"][0]["artifact"])
    for digest in {each["sha256"] for each in refs(body(world, 2))} - {
        each["sha256"] for each in refs(body(world, 1))
    }:
        damage(world, {"sha256": digest})
    play("repair --dry-run", "repair", "--dry-run", code=5)
    for path in world.cache.glob("journal.mdb*"):
        path.unlink()
    (world.cache / "journal.mdb").write_bytes(bytes(8192))
    assert play("rebuild", "rebuild", code=5)["quarantine"]
    assert play("repair", "repair")["left"][0]["otherwise"]


def refs(document):
    """All references to artifacts in a document."""
    if isinstance(document, dict):
        if "sha256" in document and "size" in document:
            yield document
        for each in document.values():
            yield from refs(each)
    if isinstance(document, list):
        for each in document:
            yield from refs(each)


def test_answers_about_events_of_a_later_version(play):
    started = {
        "identity": None,
        "inputs": {"flight_id": "x"},
        "calibration": None,
        "again": False,
        "host": {},
    }
    append(
        play.world.cache, raw("build.started", started, build=4), raw("weather.seen", {"wind": 5}, build=4)
    )
    assert any(each["payload"] for each in play("replay", "replay", 4, "--all")["timeline"])


def test_answers_with_options_that_few_use(play, tmp_path):
    world = play.world
    assert play("plan --map", "plan", world.request, "--map", tmp_path / "map.html")["map"]
    assert play("report --at", "report", "--at", 12, "-o", tmp_path / "at.html")["at"]
    play("why of a changed tile", "why", "12/2176/1408", "--build", 3)
    with BuildLock(world.cache / "build.lock", command="test") as lock:
        lock.describe(build=4)
        play("doctor, lock held", "doctor")
