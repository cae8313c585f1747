"""`engines`, `accept` and `gc` at the command line, and what the others say of what is gone."""

import pytest

from journal.lock import BuildLock
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from tests.tools.conftest import World


def test_engines_before_a_build(empty):
    done = empty.json("engines", empty.request)
    (engine,) = done["engines"]
    assert (engine["model"], engine["outcome"], done["error"]) == ("tiny", "compiled", None)
    assert engine["bytes"] == empty.artifact(engine["sha256"]).stat().st_size
    assert set(engine) == {"model", "outcome", "sha256", "bytes", "seconds"}
    text = empty.run("engines", empty.request)
    assert (text.exit_code, text.stdout.split()[5:7]) == (0, ["tiny", "reused"])
    assert empty.json("build", empty.request)["engines_compiled"] == 0


def test_engines_that_cannot_be_compiled(empty):
    (empty.folder / "tiny.onnx").write_bytes(b"no network")
    done = empty.json("engines", empty.request, code=3)
    assert (done["engines"], done["error"]["kind"]) == ([], "bad-model")
    assert not empty.cache.exists()


def test_accept_beside_a_build(world):
    with BuildLock(world.cache / "build.lock"):
        done = world.json("accept", "2", "--why", "flown")
    assert done == {"generation": 2, "build": 3, "changed": True, "accepted": [2]}
    assert world.run("accept", "2").stdout.startswith(
        "nothing to do: generation 2 (build 3) was accepted before"
    )
    entries = {entry["build"]: entry for entry in world.json("log")["entries"] if entry["type"] == "build"}
    assert [entries[number]["accepted"] for number in (1, 2, 3)] == [False, False, True]
    assert "accepted" in next(line for line in world.run("log").stdout.splitlines() if line.startswith("  2"))
    assert world.json("show", "3")["accepted"] == [2]


@pytest.mark.parametrize(("number", "kind"), [("9", "unknown-generation"), ("0", "usage"), ("x", "usage")])
def test_accept_of_nothing(world, number, kind):
    assert world.json("accept", number, code=2)["error"]["kind"] == kind


def test_accept_without_a_cache(empty):
    assert empty.json("accept", "1", code=2)["error"]["kind"] == "no-cache"
    assert not empty.cache.exists()


def another(world, *, flight):
    text = (world.folder / "request.toml").read_text()
    path = world.folder / "other.toml"
    path.write_text(text.replace('flight_id = "tiny"', f'flight_id = "{flight}"'))
    return str(path)


def test_gc_says_first_and_removes_when_told(world):
    """Builds 1 and 3, the three generations that show them, and the failed build 2 can be collected."""
    for flight in ("a", "b"):
        assert world.json("build", another(world, flight=flight))["outcome"] == "built"
    told = world.json("gc", "--keep", "1")
    assert told["done"] is False
    assert told["collected_generations"] == [1, 2, 3]
    assert [(each["build"], each["why"]) for each in told["kept"]] == [(5, "shown"), (4, "for a rollback")]
    before = world.json("verify", "--full")
    done = world.json("gc", "--keep", "1", "--yes")
    assert {**told, "done": True} == done
    assert world.json("gc", "--keep", "1", "--yes")["files"] == 0
    after = world.json("verify", "--full")
    assert (after["go"], after["problems"], after["manifest_sha256"]) == (True, [], before["manifest_sha256"])
    assert after["total_files"] < before["total_files"]
    assert world.json("show", "3")["collected"] is True
    assert "collected: they are gone" in world.run("show", "3").stdout
    entries = world.json("log")["entries"]
    assert [entry["build"] for entry in entries if entry["collected"]] == [1, 3, 1], "with the rollback"
    refused = world.json("rollback", "--to", "2", code=2)
    assert refused["error"]["kind"] == "collected"
    assert "c10 rollback --to" in refused["error"]["hint"]
    assert world.json("accept", "2", code=2)["error"]["kind"] == "collected"


def test_gc_in_words(world):
    text = world.run("gc", "--keep", "1").stdout
    assert text.startswith("would remove")
    assert "c10 gc --keep 1 --yes" in text
    # The command that does it names the cache: a path stays whole.
    assert max(len(line) for line in text.splitlines() if str(world.cache) not in line) <= 80
    text = world.run("gc", "--keep", "1", "--yes").stdout
    assert text.startswith("removed")
    assert world.run("gc", "--keep", "1", "--yes").stdout.startswith("nothing to collect")


@pytest.mark.parametrize("count", [0, 10**20])
def test_gc_keeps_at_least_one_and_no_more_than_can_be_recorded(tmp_path, count):
    assert World(tmp_path).json("gc", "--keep", str(count), code=2)["error"]["kind"] == "usage"


def test_gc_without_a_cache(empty):
    for flags in ((), ("--yes",)):
        assert empty.json("gc", *flags, code=2)["error"]["kind"] == "no-cache"
    assert not empty.cache.exists()


def test_gc_beside_others(world):
    env = {"C10_LOCK_TIMEOUT_S": "0.1"}
    with BuildLock(world.cache / "build.lock"):
        assert world.run("gc", "--yes", "--json", env=env).exit_code == 4
        assert world.run("gc", env=env).exit_code == 0, "to tell what would go needs no lock"
    with Artifacts(Layout(world.cache)).shared_lock():
        lock_held = world.run("gc", "--yes", env=env)
    assert lock_held.exit_code == 4
    assert "wait for it to finish" in lock_held.stderr


@pytest.mark.parametrize("commit", [True, False], ids=["committed since", "nothing committed since"])
def test_a_journal_made_again_after_a_collection(world, commit):
    """A decision after the last commit is only in the journal; the same collection decides it again."""
    for flight in ("a", "b"):
        world.json("build", another(world, flight=flight))
    world.json("gc", "--keep", "1", "--yes")
    if commit:
        world.json("rollback")
    (world.cache / "journal.mdb").unlink()
    world.json("rebuild")
    if not commit:
        world.json("gc", "--keep", "1", "--yes")
    assert world.json("verify", "--full")["go"] is True
    assert world.json("rollback", "--to", "2", code=2)["error"]["kind"] == "collected"
