import json
import subprocess
import sys
from pathlib import Path

import pytest

from store.base.canonical_json import sha256
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.testing import FakeClock, Scenario, play
from tests.tools.conftest import World

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("numpy", "faiss", "onnxruntime", "onnx", "rich", "PIL", "mercantile", "pipeline", "simplejpeg")


def fingerprint(root):
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in root.rglob("*")
        if path.name != "journal.mdb-lock"
    }


def test_status_has_exactly_the_promised_keys(built):
    document = built.json("status")
    manifest = json.loads(built.manifest_file(3).read_bytes())
    assert list(document) == [
        "generation",
        "build",
        "identity",
        "manifest_sha256",
        "body_sha256",
        "chain",
        "seq",
        "open_build",
    ]
    assert (document["generation"], document["build"], document["open_build"]) == (3, 1, None)
    assert document["identity"] == manifest["body"]["identity"]
    assert document["manifest_sha256"] == sha256(built.manifest_file(3).read_bytes())
    assert len(document["chain"]) == 64
    assert document["seq"] > manifest["envelope"]["prev_head"]["seq"]


def test_status_tells_a_person_about_the_rollback(built):
    result = built.run("status")
    assert "3, shows build 1 (rolled back from build 3: just because)" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines() if str(built.cache) not in line) <= 80


@pytest.mark.parametrize("command", [("status",), ("log",), ("show", "1"), ("manifest",), ("doctor",)])
def test_a_look_imports_nothing_heavy(built, command):
    # The table of tile sources, which the doctor reads, is a small part of a package whose parts are heavy.
    heavy = [
        name if command != ("doctor",) else name.replace("pipeline", "pipeline.request.request")
        for name in HEAVY
    ]
    code = (
        "import sys\nfrom tools.cli import cli\n"
        f"try:\n    cli.main({[*command, '--cache', str(built.cache)]!r})\nexcept SystemExit as end:\n"
        f"    heavy = [name for name in {heavy!r} if name in sys.modules]\n"
        "    sys.exit(f'{end.code} {heavy}' if end.code or heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_log_is_newest_first(built):
    entries = built.json("log")["entries"]
    assert [(each["type"], each["build"], each["generation"], each["status"]) for each in entries] == [
        ("rollback", 1, 3, "rolled back"),
        ("build", 3, 2, "committed"),
        ("build", 2, None, "failed"),
        ("build", 1, 1, "committed"),
    ]
    assert entries[2]["error"]["kind"] == "bad-tile"
    assert entries[3]["tiles_embedded"] == 20
    assert entries[1]["tiles_embedded"] == 1


def test_the_log_tells_neither_nearly_all_as_all_nor_little_as_nothing(tmp_path):
    tiles = {(x, y): "a" for x in range(16) for y in range(16)}
    with CacheWriter.open(
        Layout(tmp_path / "cache"), clock=FakeClock(), create=True, reserve_bytes=0
    ) as store:
        play(store, Scenario(tiles={**tiles, (20, 0): "a"}))
        play(store, Scenario(flight="f2", tiles={**tiles, (20, 0): "b"}))
        play(store, Scenario(flight="f3", tiles={**dict.fromkeys(tiles, "c"), (20, 0): "b"}))
    lines = World(tmp_path).run("log").stdout.splitlines()
    assert [" ".join(line.split()[6:8]) for line in lines[1:4]] == ["0.4 %", "99.6 %", "0 %"]


def test_the_log_can_be_narrowed(built):
    assert [each["build"] for each in built.json("log", "--failed")["entries"]] == [2]
    assert [each["generation"] for each in built.json("log", "-n", "2")["entries"]] == [3, 2]
    assert built.run("log", "-n", "0").exit_code == 2


def test_the_log_fits_a_terminal(built):
    lines = built.run("log").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("left build 3: just because" in line for line in lines)


def test_a_failed_build_is_shown_with_its_traceback(built):
    document = built.json("show", "2")
    assert document["status"] == "failed"
    assert document["failure"]["step"] == "cells"
    assert "Traceback" in document["failure"]["traceback"]
    assert {"build", "identity", "inputs", "plan", "steps", "checks", "failure"} <= set(document)
    text = built.run("show", "2").stdout
    assert "Failure" in text
    assert "Traceback" in text


def test_a_committed_build_is_shown_with_plan_steps_and_checks(built):
    document = built.json("show", "3")
    assert document["failure"] is None
    assert document["generations"] == [2]
    assert built.json("show", "1")["generations"] == [1, 3]
    assert {step["kind"] for step in built.json("show", "1")["steps"]} >= {
        "engine",
        "cells",
        "index",
        "coverage",
    }
    assert {step["decision"] for step in document["plan"]} == {"reuse", "run"}
    assert all(step["why"] for step in document["plan"])
    assert all(check["passed"] for check in document["checks"])


def test_an_unknown_build_is_refused(built):
    result = built.run("show", "99")
    assert result.exit_code == 2
    assert "expected a build from 1 to 3, found 99" in result.stderr


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_the_manifest_is_printed_byte_for_byte(built, extra):
    result = built.run("manifest", *extra)
    assert result.stdout_bytes == built.manifest_file(3).read_bytes()


def test_a_manifest_that_is_not_there_yet_is_projected(world):
    raw = world.manifest_file(3).read_bytes()
    world.manifest_file(3).unlink()
    result = world.run("manifest")
    assert result.stdout_bytes == raw
    assert "warning" in result.stderr


@pytest.mark.parametrize(
    "command",
    [("status",), ("log",), ("show", "2"), ("manifest",), ("doctor",), ("verify",), ("verify", "--full")],
)
def test_looking_writes_nothing(world, command):
    before = fingerprint(world.cache)
    assert world.run(*command).exit_code == 0
    assert fingerprint(world.cache) == before


@pytest.mark.parametrize("command", [("status",), ("log",), ("show", "1"), ("manifest",), ("verify",)])
def test_without_a_cache_looking_is_refused_and_makes_none(empty, command):
    result = empty.run(*command, "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["error"]["kind"] == "no-cache"
    assert all(value is None for name, value in document.items() if name != "error")
    assert not empty.cache.exists()


def test_a_damaged_journal_is_exit_7(world):
    path = world.cache / "journal.mdb"
    path.write_bytes(path.read_bytes()[:5000])
    result = world.run("status", "--json")
    assert result.exit_code == 7
    assert json.loads(result.stdout)["error"]["kind"] == "journal-damaged"
    assert result.stderr.startswith("c10: error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["status", "log"])
def test_a_lost_journal_is_no_mirror(world, command):
    (world.cache / "journal.mdb").unlink()
    assert world.json(command, code=7)["error"]["hint"] == f"c10 rebuild --cache {world.cache}"


def test_a_replaced_manifest_is_exit_7(world):
    path = world.manifest_file(3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tinx"))
    assert world.run("status").exit_code == 7


def test_the_doctor_names_versions_file_system_and_state(built):
    document = built.json("doctor")
    assert document["ok"] is True
    assert document["packages"]["lmdb"]
    assert document["cache"]["file_system_accepted"] is True
    assert (document["cache"]["generations"], document["cache"]["head"]) == (3, 3)
    assert document["cache"]["failed_builds"] == 1
    assert document["cache"]["lock"] is None
    assert document["machine"]["sealed_memory"] is True
    lines = built.run("doctor").stdout.splitlines()
    assert max(len(line) for line in lines if str(built.cache) not in line) <= 100


def test_the_doctor_finds_what_is_missing_and_says_what_mends_it(world):
    (world.cache / "segments" / "00000002.events").unlink()
    result = world.run("doctor", "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert "generation 2" in problem["text"]
    assert problem["mend"].startswith("c10 build")


def test_the_doctor_goes_on_over_a_damaged_journal(world):
    path = world.cache / "journal.mdb"
    path.write_bytes(b"x" * 9000)
    result = world.run("doctor")
    assert result.exit_code == 7
    assert "Packages" in result.stdout


def test_the_doctor_needs_no_cache(empty):
    assert empty.run("doctor").exit_code == 0
    told = " ".join(empty.run("doctor").stdout.split())  # a long path moves words to the next line
    assert "(no cache yet)" in told
