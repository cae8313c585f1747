"""What replay tells of real builds, by every road to their records."""

import base64
import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from journal import Journal, Record
from journal.lock import BuildLock
from store.cache.view import open_view
from store.disk.layout import Layout
from tests.tools.conftest import LEFT, TOP, ZOOM, fingerprint, picture
from tools.cli import cli

PLACE = f"{ZOOM}/{LEFT}/{TOP}"
CELL = [ZOOM, LEFT >> 4, TOP >> 4]


@pytest.fixture(scope="module")
def failed(built):
    return built.json("replay")


def test_the_newest_build_without_a_commit_comes_first(failed):
    assert (failed["build"], failed["status"]) == (2, "failed")
    assert failed["format"] == 1


def test_a_failure_names_step_input_and_cause(failed, built):
    failure = failed["failure"]
    assert (failure["step"], failure["kind"], failure["subject"]) == ("cells", "bad-tile", PLACE)
    assert "cannot be decoded" in failure["cause"]
    assert failure["tiles"] == [[ZOOM, LEFT, TOP]]
    tile = next(row for row in failure["inputs"] if row["role"] == "tile")
    assert (tile["name"], tile["size"], tile["present"]) == (PLACE, 50, True)
    engine = next(row for row in failure["inputs"] if row["role"] == "engine")
    assert built.artifact(engine["sha256"]).is_file()
    (shown,) = failure["pictures"]
    assert (shown["tile"], shown["media"], shown["size"]) == (PLACE, "image/png", 50)
    # The tile is whole again in the source; what failed was kept.
    assert base64.b64decode(shown["data"]) == built.tile().read_bytes()[:50]
    assert failure["traceback"][0].startswith("Traceback")


def test_steps_tell_what_was_done_and_what_failed(failed):
    steps = [(step["kind"], step["subject"], step["outcome"]) for step in failed["steps"]]
    assert steps == [("plan", "", "done"), ("engine", "tiny", "reused"), ("cells", "", "failed")]
    assert failed["steps"][2]["parts"][0]["outcome"] == "cut"
    assert [row["seq"] for row in failed["timeline"]] == list(
        range(failed["started"]["seq"], failed["ended"]["seq"] + 1)
    )
    assert all(row["ms"] >= 0 and row["since_ms"] >= 0 for row in failed["timeline"])


def test_area_shows_the_failing_cell(failed):
    area = failed["area"]
    (cell,) = area["cells"]
    assert (cell[:3], cell[3], cell[4]) == (CELL, 20, "failing")
    assert failed["failure"]["cells"] == [0]
    assert area["tiles"]["failing"] == [[ZOOM, TOP, LEFT, LEFT]]
    assert (area["known"], area["wanted"], area["present"], area["report"]) == ("tiles", 20, 20, False)


def test_compared_with_the_last_good_build(failed):
    compare = failed["compare"]
    assert (compare["a"]["build"], compare["b"]["build"]) == (1, 2)
    assert [change["path"] for change in compare["inputs"]] == ["tiles.digest"]
    assert {name: compare["tiles"][name] for name in ("added", "removed", "changed", "same")} == {
        "added": 0,
        "removed": 0,
        "changed": 1,
        "same": 19,
    }
    assert compare["tiles"]["runs"]["changed"] == [[ZOOM, TOP, LEFT, LEFT]]


def test_a_committed_build_projects_to_its_body(built):
    document = built.json("replay", "3")
    assert (document["status"], document["failure"], document["generations"]) == ("committed", None, [2])
    assert [each["projects"] for each in document["verified"]] == [True, True, True]
    body = json.loads(built.manifest_file(2).read_bytes())["body"]
    assert document["identity"] == body["identity"]
    assert document["area"]["cells"][0][4] == "embedded"
    assert document["cost"]["reuse_ppm"] == 950_000
    assert document["steps"][-1]["kind"] == "commit"


def test_state_after_any_event(built):
    head = built.json("status")
    records = built.json("replay")["source"]["records"]
    generations = []
    for seq in (1, 2, 14, records):
        document = built.json("replay", "@2", "--at", str(seq), code=2 if seq == 1 else 0)
        if seq > 1:
            assert (document["at"], document["state"]["seq"]) == (seq, seq)
            generations.append(document["state"]["generation"])
    assert generations == [None, 1, 3]
    assert built.json("replay", "--at", str(records))["state"]["chain"] == head["chain"]
    assert built.json("replay", "1", "--at", "5")["status"] == "open"


@pytest.mark.parametrize("word", ["9", "@999", "@1", "x", "-1", "9" * 40, "@", "\uff11"])
def test_builds_that_there_are_not(built, word):
    result = built.run("replay", "--", word) if word == "-1" else built.run("replay", word)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("args", [["replay", "--at", "0"], ["replay", "--at", "9999"], ["diff", "1", "9"]])
def test_records_that_there_are_not(built, args):
    assert built.run(*args).exit_code == 2


def test_reading_changes_nothing(built):
    before = fingerprint(built.cache)
    for args in (["replay"], ["replay", "3"], ["diff", "1", "3"], ["why", "engine"], ["why", PLACE]):
        assert built.run(*args).exit_code == 0
    assert fingerprint(built.cache) == before


def test_a_build_that_had_not_begun(built):
    began = built.json("replay", "2")["started"]["seq"]
    error = built.json("replay", "2", "--at", "5", code=2)["error"]
    assert error["message"] == f"expected build 2 by record 5, found that it began at record {began}"
    assert error["hint"] == f"c10 replay 2 --at {began}, or a later record"
    assert built.json("replay", "2", "--at", str(began))["build"] == 2
    assert "from 1 to 1, found 99" in built.json("replay", "99", "--at", "5", code=2)["error"]["message"]


def test_libraries_are_trusted_only_for_a_run(built):
    assert "--rerun" in built.json("replay", "2", "--trust-plugins", code=2)["error"]["message"]


def append(cache, *records):
    with Journal.open(cache / "journal.mdb") as journal:
        journal.append(list(records))


def raw(tag, payload, *, build=None, version=1):
    return Record(tag=tag, version=version, build=build, wall_ns=1, mono_ns=1, payload=payload)


def test_events_of_a_later_version_keep_their_place(world):
    evil = "\x1b[31m\u202e" + "x" * 10_000
    append(
        world.cache,
        raw("build.dreamt", {"of": evil, "sheep": list(range(5_000))}, build=2),
        raw("build.started", {"identity": 7}, build=4),
    )
    document = world.json("replay", "2")
    assert document["status"] == "failed"
    text = json.dumps(document)
    assert "\\u001b" not in text
    assert "\\u202e" not in text
    told = world.json("replay", "4")
    assert told["timeline"][0]["problem"]
    assert told["timeline"][0]["unknown"]
    for name in ("replay", "diff", "why"):
        args = {"replay": ["4"], "diff": ["1", "2"], "why": ["build"]}[name]
        assert world.run(name, *args).exit_code in {0, 2}


def test_lines_for_people_are_harmless(world):
    evil = "\x1b]0;owned\x07\u202egnp.exe\nc10: all is well"
    failure = {
        "step": "cells",
        "kind": "bad-tile",
        "subject": evil,
        "message": evil,
        "hint": evil,
        "traceback": evil * 50,
        "inputs": {
            "step": evil,
            "tile": {"place": evil, "sha256": evil, "unreadable": evil},
            "attached": evil,
        },
    }
    started = {
        "identity": None,
        "inputs": {"flight_id": evil, "bbox_e7": evil, "zoom": [3, 900]},
        "calibration": None,
        "again": False,
        "host": {"boot": evil, "request": {"text": evil}},
    }
    append(world.cache, raw("build.started", started, build=4), raw("build.failed", failure, build=4))
    result = world.run("replay", "4")
    assert result.exit_code == 0
    for sign in ("\x1b", "\x07", "\u202e"):
        assert sign not in result.output
    assert "\nc10: all is well" not in result.output
    document = world.json("replay", "4")
    assert "\\u001b" not in json.dumps(document)
    assert document["failure"]["pictures"] == []


@pytest.fixture
def dead(world):
    """A cache with a fourth build that has no end."""
    started = {
        "identity": None,
        "inputs": {"flight_id": "x"},
        "calibration": None,
        "again": False,
        "host": {},
    }
    window = {"kind": "cells", "subjects": ["12/136/88", "12/137/88"], "key": "ab" * 32}
    append(world.cache, raw("build.started", started, build=4), raw("step.started", window, build=4))
    return world


@pytest.mark.parametrize("build", [["4"], []], ids=["the build", "the journal"])
def test_a_bundle_tells_that_a_build_died(dead, build):
    bundle = str(dead.folder / "dead.bundle")
    assert dead.json("export", *build, "-o", bundle)["build"] == 4
    source = ("--bundle", bundle)
    document = dead.json("replay", *source)
    assert (document["build"], document["status"]) == (4, "died")
    assert "was killed" in document["failure"]["cause"]
    assert dead.json("show", "4", *source)["status"] == dead.json("show", "4")["status"] == "died"
    assert dead.json("log", *source) == dead.json("log")
    assert dead.json("log", *source)["entries"][0]["status"] == "died"


@pytest.mark.parametrize("build", [["4"], []], ids=["the build", "the journal"])
def test_a_bundle_does_not_call_a_running_build_dead(dead, build):
    bundle = str(dead.folder / "running.bundle")
    with BuildLock(dead.cache / "build.lock", command="test"):
        assert dead.json("export", *build, "-o", bundle)["build"] is None
    document = dead.json("replay", "--bundle", bundle)
    assert (document["build"], document["status"], document["failure"]) == (4, "open", None)


def test_a_bundle_shows_the_build_that_it_was_made_for(built, tmp_path):
    source = ("--bundle", str(tmp_path / "3.bundle"))
    built.json("export", "3", "-o", source[1])
    assert built.json("replay", *source)["build"] == 3
    assert built.json("why", PLACE, *source)["build"] == 3
    assert built.json("replay", "2", *source)["build"] == 2
    whole = ("--bundle", str(tmp_path / "whole.bundle"))
    built.json("export", "-o", whole[1])
    assert (built.json("replay", *whole)["build"], built.json("why", "cells", *whole)["build"]) == (2, 2)
    assert built.json("why", "cells")["build"] == 1


def test_log_and_show_read_a_copy_and_say_where_it_is_damaged(built, tmp_path):
    copy = tmp_path / "copy.mdb"
    shutil.copy(built.cache / "journal.mdb", copy)
    source = ("--journal", str(copy))
    assert built.json("log", *source) == built.json("log")
    assert built.json("show", "3", *source) == {**built.json("show", "3"), "area": None}
    assert built.json("show", "9", *source, code=2)["error"]["hint"] == f"c10 log --journal {copy}"
    with Journal.open(copy) as journal:
        journal.append([raw("generation.accepted", {"generation": 99, "why": "", "host": {}})])
    result = built.run("log", *source)
    assert result.exit_code == 0
    assert "c10: warning: " in result.stderr


def test_an_open_build_whose_process_died(dead):
    world = dead
    document = world.json("replay")
    assert (document["build"], document["status"]) == (4, "died")
    failure = document["failure"]
    assert (failure["step"], failure["kind"]) == ("cells", "died")
    assert failure["recorded"]["windows"][0]["cells"] == ["12/136/88", "12/137/88"]
    assert "ended without a word" in failure["cause"]
    assert world.run("log", "--failed").stdout.splitlines()[1].split()[4] == "died"
    copy = world.folder / "copy.mdb"
    shutil.copy(world.cache / "journal.mdb", copy)
    elsewhere = json.loads(world.run("replay", "--journal", str(copy), "--json").stdout)
    assert elsewhere["status"] == "open"


def test_the_next_build_says_that_it_was_killed(world):
    started = {
        "identity": None,
        "inputs": {"flight_id": "x"},
        "calibration": None,
        "again": False,
        "host": {"boot": "another boot"},
    }
    append(world.cache, raw("build.started", started, build=4))
    picture(np.random.default_rng(5)).save(world.tile(y=TOP + 1))
    assert world.json("build", world.request)["build"] == 5
    document = world.json("replay")
    assert (document["build"], document["status"]) == (4, "abandoned")
    # It was found dead much later: what it took ends with its own last record.
    entry = next(each for each in world.json("log")["entries"] if each["build"] == 4)
    assert (document["ms"], entry["seconds"], world.json("show", "4")["seconds"]) == (0, 0.0, 0.0)
    # Build 3 was rolled back from: the cache showed build 1.
    assert document["compare"] is None or document["compare"]["a"]["build"] == 1
    assert world.json("replay", "5")["compare"]["a"]["build"] == 1
    assert "restarted" in document["failure"]["cause"]
    assert "boot-change" in {each["kind"] for each in document["findings"]}


def test_a_build_that_was_refused_at_its_start_is_compared_with_nothing(world):
    """It records no inputs, which does not mean that all of them were taken away."""
    picture(np.random.default_rng(99)).save(world.tile())
    refused = world.json("build", world.request, code=2)
    assert (refused["build"], refused["error"]["kind"]) == (4, "rolled-back")
    document = world.json("replay", "4")
    assert (document["status"], document["compare"]["inputs"], document["compare"]["host"]) == (
        "refused",
        [],
        [],
    )
    # The records may be read elsewhere, where the cache has another place.
    assert document["failure"]["hint"].startswith("c10 rollback --to 2 shows it again; ")
    assert document["failure"]["hint"] == refused["error"]["hint"].replace(f" --cache {world.cache}", "")
    unknown = "the inputs of build 4 were not recorded: it was refused at its start"
    assert unknown in " ".join(world.run("replay", "4").stdout.split())
    assert unknown in " ".join(world.run("diff", "1", "4").stdout.split())
    assert "the inputs are the same" in world.run("diff", "3", "4").stdout
    assert world.json("diff", "1", "4")["inputs"] == []
    assert world.json("why", "build", "--build", "4")["text"] == [
        "build 4 was refused at its start: its inputs were not recorded"
    ]
    world.tile().write_bytes(world.tile(x=LEFT + 1).read_bytes())
    assert world.json("build", world.request)["build"] == 5
    (key,) = world.json("why", "build", "--build", "5")["keys"]
    assert (key["before"]["build"], [change["path"] for change in key["changed"]]) == (3, ["tiles.digest"])


def test_a_key_that_came_back_is_of_the_build_that_first_had_it(world):
    assert world.json("build", world.request, "--again")["build"] == 4
    (key,) = world.json("why", "index", "--build", "4")["keys"]
    assert (key["since"], key["before"]["build"]) == (1, 3)
    told = world.json("why", "index", "--build", "4")["text"][0]
    assert told.endswith("first in build 1, and again after build 3")


def test_why_an_engine_ran(built):
    document = built.json("why", "engine/tiny")
    (key,) = document["keys"]
    assert (key["since"], key["before"], key["changed"]) == (1, None, [])
    assert document["decisions"][0]["why"] == "never compiled in this cache"


def test_why_a_build_is_another(built):
    document = built.json("why", "build", "--build", "3")
    (key,) = document["keys"]
    assert key["before"]["build"] == 2
    assert [change["path"] for change in key["changed"]] == ["tiles.digest"]
    assert built.json("why", "tiles", "--build", "3")["keys"][0]["changed"] == key["changed"]


def test_where_a_descriptor_comes_from(built):
    document = built.json("why", PLACE, "--build", "3")
    links = {link["what"]: link for link in document["chain"]}
    assert list(links) == ["index", "block", "tile", "engine", "network", "calibration"]
    state = open_view(Layout(built.cache)).state
    build = state.builds[3]
    assert links["index"]["sha256"] == build.index.artifact.sha256
    assert links["engine"]["sha256"] == dict(build.engines)["tiny"].artifact.sha256
    assert links["block"]["facts"]["row"] == 0
    assert links["block"]["facts"]["tile"] == links["tile"]["sha256"]
    assert (links["block"]["build"], links["engine"]["build"]) == (3, 1)
    assert links["tile"]["facts"]["captured"] == "2026-01-15"
    row_id = links["index"]["facts"]["row_id"]
    assert built.json("why", row_id, "--build", "3")["chain"] == document["chain"]
    assert built.json("why", links["tile"]["sha256"][:12], "--build", "3")["chain"] == document["chain"]
    assert built.json("why", PLACE, "--build", "1")["chain"][1]["build"] == 1


def test_where_an_artifact_comes_from(built):
    state = open_view(Layout(built.cache)).state
    index = state.builds[3].index.artifact.sha256
    found = built.json("why", index[:10])["artifact"]
    assert (found["role"], found["build"], found["builds"], found["generations"]) == ("index", 3, [3], [2])
    assert found["present"] is True


@pytest.mark.parametrize(
    "subject", ["nonsense", "0" * 12, "12/0/0", "25/1/1/1/1", "engine/other", "9" * 30, "a/b/c"]
)
def test_what_there_is_not_to_explain(built, subject):
    result = built.run("why", subject)
    assert result.exit_code == (0 if subject == "engine/other" else 2)
    assert "Traceback" not in result.output


def test_differences(built):
    document = built.json("diff", "1", "3")
    assert document["same_identity"] is False
    roles = {row["role"]: row["same"] for row in document["artifacts"]}
    assert (roles["engine tiny"], roles["calibration"], roles["index"]) == (True, True, False)
    assert {(row["check"], row["subject"]) for row in document["checks"]} == {
        ("engine", "tiny"),
        ("index", "index"),
    }
    assert built.json("diff", "3", "3")["inputs"] == []
    assert "1 changed" in built.run("diff", "1", "3").stdout


def test_builds_that_a_bundle_lacks_are_not_looked_for_in_a_cache(built, tmp_path):
    file = tmp_path / "failed.bundle"
    assert built.run("export", "2", "-o", str(file)).exit_code == 0
    for command in (
        ("diff", "1", "3"),
        ("replay", "3"),
        ("why", "build", "--build", "3"),
        ("replay", "1", "--rerun"),
    ):
        result = built.run(*command, "--bundle", str(file))
        assert result.exit_code == 2
        assert f"c10 replay --bundle {file}" in result.output
        assert "c10 log" not in result.output


def test_usage(built, tmp_path):
    for name in ("replay", "log", "show", "report", "diff", "why"):
        words = {"report": ("1", "-o", str(tmp_path / "page.html")), "diff": ("1", "2"), "why": ("engine",)}
        for sources in (("journal", "bundle"), ("journal", "cache"), ("bundle", "cache")):
            named = [word for each in sources for word in (f"--{each}", str(built.cache))]
            result = CliRunner().invoke(cli, [name, *words.get(name, ()), *named])
            found = " and ".join(f"--{each}" for each in sources)
            assert f"expected one of --cache, --journal and --bundle, found {found}" in result.stderr
            assert result.exit_code == 2


def test_a_bundle_is_read_where_the_variable_names_a_cache(built, tmp_path):
    built.run("export", "-o", str(tmp_path / "bundle"))
    words = ["log", "--bundle", str(tmp_path / "bundle"), "--json"]
    result = CliRunner().invoke(cli, words, env={"C10_CACHE": str(tmp_path / "none")})
    assert json.loads(result.stdout)["entries"]


@pytest.mark.parametrize("option", ["--journal", "--bundle", "--cache"])
def test_a_source_that_is_missing_is_exit_2(option, tmp_path):
    result = CliRunner().invoke(cli, ["replay", option, str(tmp_path / "missing")])
    assert result.exit_code == 2
    assert str(tmp_path / "missing") in result.stderr


def test_a_run_that_met_a_held_lock_can_be_replayed(world, shell):
    picture(np.random.default_rng(7)).save(world.tile())
    with BuildLock(world.cache / "build.lock") as lock:
        lock.describe(build=12)
        result = shell("build", world.request, "--cache", world.cache, env={"C10_LOCK_TIMEOUT_S": "0.1"})
    assert result.returncode == 4
    document = world.json("replay")
    assert (document["build"], document["status"]) == (None, "denied")
    failure = document["failure"]
    assert (failure["step"], failure["kind"]) == ("lock", "build-lock-held")
    assert "build 12" in failure["cause"]
    assert f"pid {os.getpid()}" in failure["cause"]
    assert document["flight_id"] == "tiny"
    assert document.keys() == world.json("replay", "2").keys()
    seq = document["started"]["seq"]
    assert world.json("replay", f"@{seq}")["failure"] == failure
    assert "denied" in world.run("log", "--failed").stdout
    assert "build lock" in world.run("replay").stdout
    assert world.json("build", world.request)["outcome"] == "built"
    assert world.json("verify", "--full")["go"] is True
