"""`export`, `import` and `mirror` at the command line, on real builds."""

import hashlib
import json
import os
import shutil

import pytest
from click.testing import CliRunner

from journal.lock import BuildLock
from store.cache.view import open_view
from store.disk.layout import Layout
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.small_builds import tree
from tools.cli import cli


def c10(*args, code=0):
    """Run a command with --json; returns its answer."""
    result = CliRunner().invoke(cli, [*map(str, args), "--json"])
    assert result.exit_code == code, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.fixture
def file(built, tmp_path):
    """A bundle of everything."""
    built.json("export", "-o", str(tmp_path / "all.bundle"))
    return tmp_path / "all.bundle"


def test_a_cache_moves_to_another_place(built, file, tmp_path):
    done = c10("import", file, "--cache", tmp_path / "new")
    state = open_view(Layout(built.cache)).state
    assert done["outcome"] == "imported"
    assert (done["generation"], done["build"]) == (3, 1)
    assert done["manifest_sha256"] == state.head.manifest_sha256
    assert done["records"] == state.position.seq + 1
    assert done["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert done["artifacts"]["files"] > 5
    ours, theirs = (c10("status", "--cache", place) for place in (built.cache, tmp_path / "new"))
    assert {name: ours[name] for name in ("generation", "identity", "body_sha256")} == {
        name: theirs[name] for name in ("generation", "identity", "body_sha256")
    }
    assert c10("verify", "--full", "--cache", tmp_path / "new")["go"] is True
    # Nothing is made again: the journal knows what its artifacts are, wherever it is.
    again = c10("build", built.request, "--cache", tmp_path / "new")
    assert (again["outcome"], again["writes"]) == ("reused", 0)
    assert c10("rollback", "--to", "2", "--cache", tmp_path / "new")["build"] == 3
    assert c10("import", file, "--cache", tmp_path / "new")["outcome"] == "unchanged"


def test_what_export_says(built, tmp_path):
    before = tree(built.cache)
    done = built.json("export", "2", "-o", str(tmp_path / "b"))
    assert sorted(done) == sorted(
        ["file", "sha256", "bytes", "cache_id", "build", "records", "chain", "artifacts", "held", "missing"]
    )
    assert (done["build"], done["artifacts"]["choice"], done["missing"]) == (2, "failing", [])
    assert done["bytes"] == (tmp_path / "b").stat().st_size
    text = built.run("export", "1", "--artifacts", "none", "-o", str(tmp_path / "c"))
    assert text.exit_code == 0
    assert "up to the end of build 1" in text.stdout
    assert max(len(line) for line in text.stdout.splitlines() if str(tmp_path) not in line) <= 80
    assert tree(built.cache) == before


def test_a_failed_build_is_replayed_from_its_bundle_alone(built, tmp_path):
    built.json("export", "2", "-o", str(tmp_path / "b"))
    told, here = c10("replay", "--bundle", tmp_path / "b"), built.json("replay", "2")
    assert told["source"]["kind"] == "bundle"
    assert told["failure"]["step"] == "cells"
    assert told["failure"] == here["failure"]
    assert all(row["present"] for row in told["failure"]["inputs"] if row["sha256"])
    assert told["failure"]["pictures"][0]["data"]
    assert told["area"] == here["area"]
    assert (told["steps"], told["timeline"]) == (here["steps"], here["timeline"])
    assert told["compare"]["tiles"] == here["compare"]["tiles"]
    assert c10("diff", "1", "2", "--bundle", tmp_path / "b")["a"]["build"] == 1


def test_a_damaged_cache_is_exported_as_far_as_it_goes(world, tmp_path):
    digest = open_view(Layout(world.cache)).state.head_build.index.artifact.sha256
    path = world.artifact(digest)
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    done = world.json("export", "-o", str(tmp_path / "b"), code=5)
    assert done["missing"] == [digest]
    text = world.run("export", "-o", str(tmp_path / "c"))
    assert f"missing      {digest}" in text.stdout
    assert "c10 repair" in text.stderr
    assert (
        c10("import", tmp_path / "b", "--cache", tmp_path / "new", code=5)["error"]["kind"]
        == "artifact-missing"
    )
    assert c10("replay", "1", "--bundle", tmp_path / "b")["status"] == "committed"


def test_what_is_no_bundle_leaves_nothing_behind(built, file, tmp_path):
    (tmp_path / "other").write_bytes(os.urandom(3000))
    for name, code, kind in (("other", 5, "bundle"), ("nothing", 2, "file-system"), ("", 2, "file-system")):
        done = c10("import", tmp_path / name, "--cache", tmp_path / "new", code=code)
        assert done["error"]["kind"] == kind
        assert done["outcome"] is None
        assert c10("log", "--bundle", tmp_path / name, code=code)["error"]["kind"] == kind
    assert not (tmp_path / "new").exists()
    (tmp_path / "other").write_bytes(file.read_bytes()[:-1])
    assert (
        "cut short"
        in c10("import", tmp_path / "other", "--cache", tmp_path / "new", code=5)["error"]["message"]
    )


def test_an_import_waits_for_nobody_for_long(built, file, tmp_path, monkeypatch):
    monkeypatch.setenv("C10_LOCK_TIMEOUT_S", "0.1")
    (tmp_path / "new").mkdir()
    with BuildLock(tmp_path / "new" / "build.lock"):
        c10("import", file, "--cache", tmp_path / "new", code=4)


def test_an_import_that_is_to_be_signed(built, file, tmp_path):
    done = c10("import", file, "--trusted-key", "1b" * 32, "--cache", tmp_path / "new", code=5)
    assert done["error"]["kind"] == "signature"
    assert not (tmp_path / "new" / "journal.mdb").exists()
    assert c10("import", file, "--unsigned", "--cache", tmp_path / "new")["outcome"] == "imported"


def test_a_copy_that_follows_bundle_by_bundle(world, tmp_path):
    world.json("export", "1", "-o", str(tmp_path / "1"))
    world.json("export", "-o", str(tmp_path / "2"))
    new = tmp_path / "new"
    assert c10("import", tmp_path / "1", "--follow", "--cache", new)["generation"] == 1
    done = c10("import", tmp_path / "2", "--follow", "--cache", new)
    assert (done["outcome"], done["generation"]) == ("advanced", 3)
    assert c10("status", "--cache", new) == world.json("status")
    c10("rollback", "--to", "2", "--cache", new)
    done = c10("import", tmp_path / "2", "--cache", new)
    assert (done["outcome"], done["generation"]) == ("unchanged", 4)
    world.json("rollback", "--to", "2")
    world.json("export", "-o", str(tmp_path / "3"))
    assert c10("import", tmp_path / "3", "--cache", new, code=2)["error"]["kind"] == "own-history"


def test_a_mirror(world, tmp_path):
    card = tmp_path / "card"
    done = world.json("mirror", str(card))
    assert (done["changed"], done["generation"], done["previous"]) == (True, 3, None)
    assert done["files"] > 5
    assert world.run("mirror", str(card)).stdout == f"nothing to do: {card} shows generation 3\n"
    with FlightCache.open(card, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        assert cache.engine("tiny")
        assert cache.descriptor_index()
    world.json("rollback", "--to", "2")
    text = world.run("mirror", str(card))
    assert text.stdout.startswith(f"{card} shows generation 4\n")
    assert "generation 3" in text.stdout
    # A mirror has segments and no journal: it can be looked into all the same.
    told = c10("replay", "2", "--cache", card)
    assert (told["source"]["kind"], told["status"]) == ("segments", "failed")
    for words in (["build", world.request], ["accept", "1"], ["repair"]):
        error = c10(*words, "--cache", card, code=2)["error"]
        assert (error["kind"], "found a mirror" in error["message"]) == ("mirror", True)
        assert "rebuild" not in error["hint"]
    shutil.copytree(world.cache, tmp_path / "other")
    assert world.json("mirror", str(tmp_path / "other"), code=2)["error"]["kind"] == "own-history"
    assert world.json("mirror", str(world.cache), code=2)["error"]["kind"] == "file-system"


def test_without_a_cache(tmp_path):
    for words in (["export", "-o", tmp_path / "b"], ["mirror", tmp_path / "c"]):
        assert c10(*words, "--cache", tmp_path / "none", code=2)["error"]["kind"] == "no-cache"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["drone:/cache", "me@drone:/cache", "drone:cache", "rsync://drone/cache"])
def test_an_address_of_another_machine_is_no_folder(world, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    refused = world.json("mirror", address, code=2)["error"]
    assert "remote address" in refused["message"]
    assert f"rsync -a DIR/ {address}" in refused["hint"]
    build = ["build", world.request, "--json"]
    for result in (
        CliRunner().invoke(cli, [*build, "--cache", address]),
        CliRunner().invoke(cli, build, env={"C10_CACHE": address}),
    ):
        assert (result.exit_code, json.loads(result.stdout)["error"]["kind"]) == (2, "file-system")
    assert not list(tmp_path.glob("*drone*"))
    assert not list(tmp_path.glob("rsync*"))


@pytest.mark.parametrize(
    ("path", "said"), [("~/cache", "only a shell expands ~"), ("s3://b/cache", "fetches and sends")]
)
def test_a_path_that_only_other_programs_follow_is_no_folder(world, tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    assert said in world.json("mirror", path, code=2)["error"]["hint"]
    assert not list(tmp_path.glob("~*"))
    assert not list(tmp_path.glob("s3*"))


@pytest.mark.parametrize("words", [["status"], ["gc", "--yes"], ["query", ""], ["export", "-o", ""]])
def test_an_empty_path_is_not_the_current_folder(world, monkeypatch, words):
    monkeypatch.chdir(world.cache)
    options = ["--cache", str(world.cache if "" in words else "")]
    refused = c10(*words, *options, code=2)["error"]
    assert (refused["kind"], refused["message"]) == (
        "file-system",
        "expected a path, found an empty text",
    )


@pytest.mark.parametrize(
    "words",
    [["export", "-o"], ["report", "1", "-o"], ["keygen", "-o"], ["demo", "--keep"]],
    ids=lambda words: words[0],
)
def test_nothing_is_written_to_a_file_that_looks_remote(world, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    options = [] if words[0] in {"keygen", "demo"} else ["--cache", str(world.cache)]
    refused = c10(*words, "me@drone:there", *options, code=2)["error"]
    assert refused["kind"] == "file-system"
    assert "remote address: me@drone:there" in refused["message"]
    assert not list(tmp_path.glob("*drone*"))


def test_a_folder_with_a_colon_in_its_name_is_written_with_a_dot(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert world.json("mirror", "./card:1")["changed"]
    assert (tmp_path / "card:1").is_dir()
