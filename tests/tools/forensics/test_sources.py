"""Records read from a copied journal, a bundle, a mirror or a damaged cache, on real builds."""

import json
import shutil

import pytest

from journal import Journal, safe_reader
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.attachments import attached_to_failure
from store.transfer import bundle_format
from store.transfer.bundle_format import BundleHeader, Choice
from tests.tools.conftest import LEFT, TOP, ZOOM

PLACE = f"{ZOOM}/{LEFT}/{TOP}"


@pytest.fixture(scope="module")
def failed(built):
    return built.json("replay")


def test_a_copied_journal_alone_tells_nearly_all(built, tmp_path, failed):
    copy = tmp_path / "copy.mdb"
    shutil.copy(built.cache / "journal.mdb", copy)
    result = built.run("replay", "--journal", str(copy), "--json")
    document = json.loads(result.stdout)
    assert document["source"]["kind"] == "journal"
    assert document["source"]["artifacts"] is False
    for name in ("build", "status", "summary", "steps", "timeline", "keys", "cost", "verified"):
        assert document[name] == failed[name], name
    assert document["area"]["known"] == "cells"
    assert document["failure"]["pictures"][0]["data"] is None
    assert {row["present"] for row in document["failure"]["inputs"]} <= {False, None}
    assert not (tmp_path / "copy.mdb-lock").exists()


def write_bundle(path, cache, refs):
    """A bundle of all records of a cache and of some of its artifacts."""
    layout = Layout(cache)
    entries = safe_reader.snapshot(layout.journal).entries
    artifacts = [(ref, [Artifacts(layout).read(ref)]) for ref in sorted(refs, key=lambda ref: ref.sha256)]
    header = BundleHeader(
        cache_id=open_view(layout).state.cache_id,
        records=len(entries),
        chain=entries[-1].chain.hex(),
        choice=Choice.FAILING if refs else Choice.NONE,
        artifacts=len(refs),
        size=sum(ref.size for ref in refs),
    )
    with path.open("wb") as file:
        bundle_format.write_bundle(file.write, header, entries, artifacts)


def test_a_bundle_alone_tells_all_of_a_failure(built, tmp_path, failed):
    build = open_view(Layout(built.cache)).state.builds[2]
    refs = {build.tiles.table, *attached_to_failure(build.failure).values()}
    write_bundle(tmp_path / "failing.c10", built.cache, refs)
    result = built.run("replay", "--bundle", str(tmp_path / "failing.c10"), "--json")
    document = json.loads(result.stdout)
    assert (document["source"]["kind"], document["source"]["artifacts"]) == ("bundle", True)
    for name in ("build", "status", "summary", "steps", "timeline", "keys", "cost", "verified"):
        assert document[name] == failed[name], name
    assert document["failure"]["pictures"] == failed["failure"]["pictures"]
    assert document["area"] == failed["area"]
    write_bundle(tmp_path / "bare.c10", built.cache, set())
    bare = json.loads(built.run("replay", "--bundle", str(tmp_path / "bare.c10"), "--json").stdout)
    assert bare["source"]["artifacts"] is False
    assert bare["failure"]["cause"] == failed["failure"]["cause"]
    for name in ("diff", "why"):
        args = {"diff": ["1", "3"], "why": ["engine"]}[name]
        assert built.run(name, *args, "--bundle", str(tmp_path / "bare.c10")).exit_code == 0


def test_a_file_that_is_no_bundle(built, tmp_path):
    (tmp_path / "text").write_text("no bundle at all")
    for name in ("text", "nothing"):
        result = built.run("replay", "--bundle", str(tmp_path / name))
        assert result.exit_code not in {0, 1}
        assert "Traceback" not in result.output


def test_a_mirror_has_segments_and_no_journal(world):
    (world.cache / "journal.mdb").unlink()
    document = world.json("replay", "2")
    assert (document["source"]["kind"], document["status"]) == ("segments", "failed")
    assert document["failure"]["pictures"][0]["data"] is not None


def test_a_damaged_journal_tells_what_still_reads(world):
    path = world.cache / "journal.mdb"
    with Journal.open(path, readonly=True) as journal:
        stored = list(journal.entries())[24].raw
    data = bytearray(path.read_bytes())
    at = data.index(stored)
    while at >= 0:
        data[at + len(stored) // 2] ^= 1
        at = data.find(stored, at + 1)
    path.write_bytes(data)
    document = world.json("replay", "2")
    assert (document["status"], document["source"]["records"]) == ("failed", 24)
    assert document["findings"][0]["kind"] == "damaged-journal"
    assert document["source"]["problem"]


def test_a_folder_without_a_cache(tmp_path, built):
    result = built.run("replay", "--journal", str(tmp_path / "nothing"))
    assert result.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no journal at all", b"C10 bundle\n" * 9999, None])
def test_what_is_no_journal_is_called_so(built, tmp_path, content):
    path = tmp_path / "thing"
    path.mkdir() if content is None else path.write_bytes(content)
    error = built.json("replay", "--journal", str(path), code=2)["error"]
    assert error["kind"] == "journal-missing"
    assert error["message"].startswith("expected a copied journal.mdb, found no journal: ")
    assert "rebuild" not in error["hint"]


def test_a_copied_journal_of_which_nothing_is_left(built, tmp_path):
    data = bytearray((built.cache / "journal.mdb").read_bytes())
    data[:64] = bytes(64)
    (tmp_path / "copy").write_bytes(data)
    error = built.json("replay", "--journal", str(tmp_path / "copy"), code=7)["error"]
    assert error["kind"] == "journal-damaged"
    assert "c10 replay --cache DIR" in error["hint"]
