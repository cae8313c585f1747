"""Answers with values where those of other tests have null, so that `c10 schema` tells the types of these."""

from dataclasses import replace
from datetime import date

import pytest
from PIL import Image

from journal.lock import BuildLock
from tests.ground import ALTITUDE_M, GroundSite, chunk_middle, frame_at
from tests.pipeline.build.test_proof import STEP_M, WITHIN, write_truth
from tests.tools.analysis.test_replay import append, raw
from tests.tools.conftest import ACROSS, DOWN, LEFT, TOP
from tests.tools.test_json_keys import ANSWERS, Play, body, damage, shipped_schemas  # noqa: F401 - a fixture
from tools.commands.schema import answer_schemas

UNTOLD = {}
"""Values of which the schemas say nothing, and why."""


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
    assert play("query, too high", "query", photo, "--altitude", 10 * ALTITUDE_M)["warnings"]


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
    planned = play("build --dry-run", "build", request, "--dry-run", "--map", world.folder / "map.html")
    assert planned["map"]
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
    append(world.cache, raw("build.started", started, build=5))
    assert play("status", "status")["open_build"] == 5
    assert play("doctor", "doctor", code=2)["cache"]["open_build"] == 5


def test_answers_of_a_build_with_a_graph_as_index(empty):
    play, request = Play(empty), empty.folder / "request.toml"
    request.write_text(f'{request.read_text()}\n[index]\nkind = "hnsw"\nm = 8\nef = 32\n')
    play("build", "build", request)
    assert play("manifest", "manifest")["body"]["inputs"]["index"]["m"]
    for command in ("show", "replay"):
        play(command, command, 1)


def test_answers_about_what_was_lost(play):
    world = play.world
    damage(world, body(world, 2)["engines"][0]["artifact"])
    world.tile().write_bytes(b"another")
    play("replay --rerun", "replay", 2, "--rerun")
    assert play("repair --dry-run", "repair", "--dry-run", code=5)["left"]
    with (world.cache / "journal.mdb").open("r+b") as file:
        file.write(bytes(8192))
    assert play("rebuild", "rebuild", code=5)["quarantine"]


def test_answers_about_events_of_a_later_version(play):
    append(play.world.cache, raw("weather.seen", {"wind": 5}))
    assert play("replay", "replay", "--at", 34)


def test_answers_with_options_that_few_use(play, tmp_path):
    world = play.world
    assert play("plan --map", "plan", world.request, "--map", tmp_path / "map.html")["map"]
    assert play("report --at", "report", "--at", 12, "-o", tmp_path / "at.html")["at"]
    play("why of a changed tile", "why", "12/2176/1408", "--build", 3)
    with BuildLock(world.cache / "build.lock", command="test"):
        play("doctor, lock held", "doctor")
