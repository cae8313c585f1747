import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from journal.lock import BuildLock
from tests.examples_tried import mostly_deep
from tools.cli import cli

ROOT = Path(__file__).resolve().parents[3]
KEYS = [
    "outcome",
    "build",
    "generation",
    "identity",
    "manifest_sha256",
    "body_sha256",
    "tiles",
    "wanted",
    "engines_compiled",
    "tiles_embedded",
    "chunks",
    "chunks_embedded",
    "chunks_copied",
    "steps_reused",
    "files_checked",
    "writes",
    "seconds",
    "error",
    "warnings",
    "missing",
    "holes",
    "localisable",
    "featureless",
    "skipped",
]


def test_a_warm_run_reports_its_witness(world):
    document = world.json("build", world.request)
    assert list(document) == KEYS
    assert (document["outcome"], document["generation"], document["build"]) == ("reused", 3, 1)
    assert (document["writes"], document["tiles_embedded"], document["engines_compiled"]) == (0, 0, 0)
    assert document["files_checked"] > 0
    assert document["error"] is None


def test_progress_and_warnings_stay_off_standard_output(empty):
    result = empty.run("build", empty.request, "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert "embed" in result.stderr


@pytest.mark.parametrize("command", [("plan",), ("build", "--dry-run")])
def test_a_plan_does_nothing(empty, command):
    document = empty.json(*command, empty.request)
    assert (document["decision"], document["to_embed"], document["tiles"]) == ("build", 20, 20)
    assert not empty.cache.exists()
    assert all(step["why"] for step in document["steps"])


def test_a_plan_on_a_whole_cache_finds_nothing_to_do(built):
    assert built.json("plan", built.request)["decision"] == "reused"
    assert "nothing to do" in built.run("plan", built.request).stdout


def test_a_bad_tile_is_exit_3_and_the_head_stays(world):
    before = world.json("status")
    world.tile().write_bytes(b"no picture")
    result = world.run("build", world.request, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert list(document) == KEYS
    assert document["outcome"] == "failed"
    assert document["error"]["kind"] == "bad-tile"
    assert set(document["error"]) == {"kind", "step", "message", "hint"}
    assert f"  -> what happened: c10 replay {document['build']} --cache {world.cache}\n" in result.stderr
    assert "c10: error: cells: " in result.stderr
    assert "\n  -> " in result.stderr
    assert "Traceback" not in result.stderr
    after = world.json("status")
    assert after["manifest_sha256"] == before["manifest_sha256"]
    assert after["seq"] > before["seq"]
    assert "; the cache still shows what it showed" in world.run("build", world.request).stdout


def test_a_first_build_that_fails_does_not_speak_of_what_the_cache_shows(empty):
    empty.tile().write_bytes(b"no picture")
    result = empty.run("build", empty.request)
    assert result.exit_code == 3
    assert "; the cache shows nothing yet" in result.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flight_id = ", "bad-request"),
        ('flight_id = "x"\nsectr = "stable_rear"', "bad-request"),
        (None, "request-unreadable"),
    ],
)
def test_a_bad_request_is_exit_2(world, text, expected):
    path = world.folder / "other.toml"
    if text is not None:
        path.write_text(text)
    result = world.run("build", str(path), "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert list(document) == KEYS
    assert document["error"]["kind"] == expected
    assert document["outcome"] == "failed"
    assert document["generation"] is None


def test_a_cache_that_is_a_file_is_exit_2(empty):
    empty.cache.write_text("hello")
    assert empty.run("build", empty.request).exit_code == 2
    assert empty.cache.read_text() == "hello"


def test_a_folder_with_other_things_is_not_taken_for_a_cache(empty):
    empty.cache.mkdir()
    (empty.cache / "thesis.doc").write_text("hello")
    result = empty.run("build", empty.request)
    assert result.exit_code == 2
    assert "thesis.doc" in result.stderr


def test_a_held_lock_is_exit_4(world):
    world.tile().write_bytes(b"other")
    with BuildLock(world.cache / "build.lock", command="test"):
        for command in (("build", world.request), ("rollback",)):
            result = world.run(*command, "--json", env={"C10_LOCK_TIMEOUT_S": "0"})
            assert result.exit_code == 4
            error = json.loads(result.stdout)["error"]
            assert error["kind"] == "build-lock-held"
            assert str(os.getpid()) in error["message"]
        assert "held by pid" in world.run("doctor").stdout


def test_what_was_rolled_back_from_needs_again(world):
    world.tile().write_bytes(b"")
    document = world.json("rollback", "--to", "2")
    assert (document["generation"], document["build"], document["previous_build"]) == (4, 3, 1)
    other = world.json("rollback")
    assert (other["generation"], other["build"]) == (5, 1)


def test_a_build_that_was_left_is_refused_until_it_is_meant(empty):
    first = empty.json("build", empty.request)
    original = empty.tile().read_bytes()
    empty.tile().write_bytes(empty.tile(2177).read_bytes())
    second = empty.json("build", empty.request)
    assert second["tiles_embedded"] == 0  # an equal tile is there already
    empty.run("rollback")
    refused = empty.json("build", empty.request, code=2)
    assert refused["error"]["kind"] == "rolled-back"
    again = empty.json("build", empty.request, "--again")
    assert (again["outcome"], again["body_sha256"]) == ("built", second["body_sha256"])
    empty.tile().write_bytes(original)
    assert first["identity"] != second["identity"]


def test_a_rollback_to_nowhere_is_exit_2(world):
    for target, said in (
        ("0", "a whole number from 1, found '0'"),
        ("9", "a generation from 1 to 3, found 9"),
    ):
        result = world.run("rollback", "--to", target)
        assert result.exit_code == 2
        assert f"expected {said}" in result.stderr
    assert world.json("rollback", "--to", "1")["changed"] is False


@pytest.mark.parametrize(
    "words", [("rollback", "--to", "9"), ("accept", "9"), ("export", "9", "-o", "bundle")]
)
def test_what_lists_the_generations_can_be_typed_as_it_is(world, words):
    hint = world.json(*words, code=2)["error"]["hint"]
    result = CliRunner().invoke(cli, shlex.split(hint)[1:], env={})
    assert (result.exit_code, hint) == (0, f"c10 log --cache {shlex.quote(str(world.cache))}")
    assert result.stdout.startswith("gen  build  when")


def test_without_a_cache_a_rollback_makes_none(empty):
    result = empty.run("rollback", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["kind"] == "no-cache"
    assert not empty.cache.exists()


def test_a_flag_beats_the_environment_and_that_beats_the_file(built, tmp_path):
    config = tmp_path / "c10.toml"
    config.write_text("workers = -1\n")
    plan = ("build", built.request, "--dry-run", "--config", str(config))
    filed = built.run(*plan, env={})
    assert filed.exit_code == 2
    assert "found -1" in filed.stderr
    told = built.run(*plan, env={"C10_WORKERS": "-2"})
    assert "found -2" in told.stderr
    flagged = built.run(*plan, "--workers", "-3", env={"C10_WORKERS": "-2"})
    assert "found -3" in flagged.stderr
    assert built.run(*plan, "--workers", "1", env={"C10_WORKERS": "-2"}).exit_code == 0
    assert built.run(*plan, env={"C10_WORKERS": "1"}).exit_code == 0


def test_a_settings_file_is_held_to_known_names(built, tmp_path):
    config = tmp_path / "c10.toml"
    config.write_text("worker = 3\n")
    result = built.run("status", "--config", str(config))
    assert result.exit_code == 2
    assert f"{config}: expected a known setting, found 'worker'" in result.stderr
    assert "workers" in result.stderr
    config.write_text("reserve_mb = -1\n")
    assert f"{config}: reserve_mb: expected MiB from 0" in built.run("status", "--config", str(config)).stderr
    config.write_text("workers = \n")
    assert built.run("status", "--config", str(config)).exit_code == 2
    assert built.run("status", "--config", str(tmp_path / "none.toml")).exit_code == 2


def test_an_environment_variable_that_is_no_setting_is_noticed(built):
    result = built.run("status", env={"C10_WORKRES": "3"})
    assert result.exit_code == 0
    assert "C10_WORKRES is no setting" in result.stderr


def test_the_cache_may_come_from_the_environment(built, shell):
    done = shell("status", "--json", env={"C10_CACHE": str(built.cache)})
    assert done.returncode == 0
    assert json.loads(done.stdout)["generation"] == 3


def test_manifest_names_follow_the_setting(empty):
    env = {"C10_MANIFEST_FILENAME": "flight-{generation:08d}.json"}
    assert empty.run("build", empty.request, env=env).exit_code == 0
    raw = (empty.cache / "manifests" / "flight-00000001.json").read_bytes()
    assert empty.run("manifest", env=env).stdout_bytes == raw
    assert empty.run("verify", env=env).exit_code == 0
    bad = empty.run("build", empty.request, env={"C10_MANIFEST_FILENAME": "../{generation:08d}.json"})
    assert bad.exit_code == 2


@pytest.mark.parametrize(
    ("number", "code"),
    mostly_deep([(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], signal.SIGINT),
)
def test_an_interrupted_build_is_recorded_as_failed(empty, number, code):
    # A compiler that never ends: a tiny build may be done before the signal arrives.
    stuck = empty.folder / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 120\n")
    stuck.chmod(0o755)
    start = f"import sys; sys.executable = {str(stuck)!r}; from tools.cli import main; main()"
    words = ["build", empty.request, "--json", "--cache", str(empty.cache)]
    with subprocess.Popen(
        [sys.executable, "-c", start, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("compile"):
                break
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    document = json.loads(out)
    assert list(document) == KEYS
    assert document["error"]["kind"] in {"terminated", "interrupted", "hung-up"}
    (entry,) = empty.json("log")["entries"]
    assert entry["status"] == "failed"
    assert entry["error"]["kind"] == "interrupted"
    assert empty.json("build", empty.request)["outcome"] == "built"


@pytest.mark.parametrize("folder", ["/proc/c10", "/proc/self/fd/c10", "/sys/c10"])
def test_a_cache_where_the_kernel_shows_itself_is_refused_by_that_name(empty, folder):
    result = CliRunner().invoke(cli, ["build", empty.request, "--json", "--cache", folder])
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "file-system"
    assert ("sysfs" if "sys/" in folder else "procfs") in error["message"]
    assert "choose another --cache DIR" in error["hint"]


def test_a_request_from_a_pipe_of_the_shell(empty, shell):
    """Paths in it start from the current folder, and repair finds them again."""
    words = shlex.join([sys.executable, "-m", "tools.cli", "build"])
    line = f"{words} <(sed 's/captured = .*//' request.toml) --cache cache --json"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=empty.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "built"
    empty.artifact(
        json.loads(empty.manifest_file(1).read_bytes())["body"]["index"]["artifact"]["sha256"]
    ).unlink()
    empty.artifact(
        json.loads(empty.manifest_file(1).read_bytes())["body"]["tiles"]["table"]["sha256"]
    ).unlink()
    assert [repair["ok"] for repair in empty.json("repair")["repairs"]] == [True, True]


EMBEDDING = (("build",), ("build", "--dry-run"), ("plan",), ("repair",))
"""Commands that may embed, or say what would be."""


@pytest.mark.parametrize("command", EMBEDDING)
def test_an_address_of_a_cluster_goes_with_the_executor_that_needs_one(empty, command):
    request = () if command == ("repair",) else (empty.request,)
    result = empty.run(*command, *request, "--ray-address", "head:6379")
    assert result.exit_code == 2
    assert "expected --executor ray with --ray-address, found 'local'" in result.stderr
    assert not empty.cache.exists()


@pytest.mark.parametrize("command", EMBEDDING)
def test_an_executor_without_its_package_is_refused_by_whatever_embeds(built, command, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest)
    )
    request = () if command == ("repair",) else (built.request,)
    result = built.run(*command, *request, "--executor", "ray", "--json")
    assert result.exit_code == 2
    assert "expected the package ray for 'ray', found none" in json.loads(result.stdout)["error"]["message"]
    assert built.run("rollback", "--to", "1", env={"C10_EXECUTOR": "ray"}).exit_code == 0


def test_a_plan_and_a_repair_take_a_number_of_workers(built):
    assert built.json("plan", built.request, "--workers", "1")["decision"] == "reused"
    assert built.json("repair", "--workers", "1", "--executor", "local")["go"]
    assert built.run("plan", built.request, "--workers", "0").exit_code == 2


def lacking(world, *, least=0.0, tiles=4):
    """A request whose source lacks some tiles, all of them old."""
    for path in sorted(world.folder.glob("tiles/**/*.png"))[:tiles]:
        path.unlink()
    text = (world.folder / "request.toml").read_text().replace("as_of = 2026-02-01", "as_of = 2027-02-01")
    (world.folder / "request.toml").write_text(f"{text}[coverage]\nmin_fraction = {least}\n")


def test_the_answer_of_a_build_has_what_it_warns_of(empty):
    lacking(empty)
    document = empty.json("build", empty.request)
    assert (document["tiles"], document["wanted"], document["missing"]) == (16, 20, 4)
    assert (document["featureless"], document["skipped"]) == (0, 0)
    found = {each["kind"]: each for each in document["warnings"]}
    assert "4 of 20 wanted tiles" in found["holes"]["message"]
    assert "older than 365 days" in found["imagery-old"]["message"]
    assert all(each.keys() == {"kind", "message", "hint"} for each in document["warnings"])
    assert empty.json("build", empty.request)["warnings"] == document["warnings"]


@pytest.mark.parametrize("strange", [False, True], ids=["too few tiles", "a foreign file"])
def test_what_must_fail_fails_before_the_work_and_in_the_plan(world, strange):
    if strange:
        (world.cache / "artifacts" / "Thumbs.db").touch()
        world.tile().unlink()
    else:
        lacking(world, least=0.9)
    kind = "coverage" if strange else "coverage-too-low"
    for command, code in (("plan", 2), ("build", 3)):
        env = {"C10_COVERAGE_STRICT": "true"}
        result = world.run(command, world.request, "--json", env=env)
        assert (result.exit_code, json.loads(result.stdout)["error"]["kind"]) == (code, kind)
    steps = world.json("replay")["steps"]
    assert {step["kind"] for step in steps} <= {"plan", "coverage"}
    if not strange:
        assert len(world.json("replay")["area"]["cells"]) >= 1
        assert world.json("replay", "--rerun")["rerun"]["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('onnx = "tiny.onnx"', 'onnx = "camera.json"'),
        ("zoom = [12, 12]", "zoom = [11, 11]"),
        ('onnx = "tiny.onnx"', 'onnx = "tiny.onnx"\n[engine]\nprecision = "bf16"'),
    ],
    ids=["no network", "no tiles", "no such precision"],
)
def test_a_plan_of_a_bad_request_is_exit_2(empty, old, new):
    text = (empty.folder / "request.toml").read_text()
    assert old in text
    (empty.folder / "request.toml").write_text(text.replace(old, new))
    for command in (["plan"], ["build", "--dry-run"]):
        assert empty.json(*command, empty.request, code=2)["error"]["kind"]
