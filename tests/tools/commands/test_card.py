"""The card in the hand: `verify`, `status`, `query` and `log` of a mirror, which has no journal, on real builds."""

import json
import shutil

import pytest
from click.testing import CliRunner

from store.disk.layout import MIRROR_MARK, Layout
from tests.damaging import flip
from tests.played_builds import Scenario
from tests.store_caches import record_builds
from tests.tools.conftest import World, fingerprint
from tools.cli import cli

ELSEWHERE = "this is a mirror: its journal is in the cache that it was made of"
OF_JOURNAL = {"chain", "seq", "open_build", "lately", "rolled_back"}


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """A mirror of the cache. Never change it."""
    folder = tmp_path_factory.mktemp("card")
    built.json("mirror", str(folder / "cache"))
    return World(folder)


@pytest.fixture
def card(made, tmp_path):
    shutil.copytree(made.cache, tmp_path / "cache")
    return World(tmp_path)


def rewrite(path, change):
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def as_of_cache(document):
    """What a card says of itself, without where its warnings are mended."""
    return json.loads(json.dumps(document).replace("; in the cache that this is a mirror of", ""))


@pytest.mark.parametrize("options", [(), ("--full",), ("--budget", "60s", "--seed", "1"), ("--strict",)])
def test_verify_says_of_a_card_what_it_says_of_its_cache(built, made, options):
    code = 5 if options == ("--strict",) else 0
    before = fingerprint(made.cache)
    document, theirs = (each.json("verify", *options, code=code) for each in (made, built))
    assert fingerprint(made.cache) == before
    document = as_of_cache(document)
    assert list(document) == list(theirs)
    assert document["notes"] == [ELSEWHERE]
    # Of the cache, a full run reads all generations, and a card has the newest.
    counted = {"files", "hashed_files", "hashed_bytes", "total_files", "total_bytes"}
    other = {"notes", *(counted if "--full" in options else ())}
    assert {name for name in theirs if document[name] != theirs[name]} <= other
    text = made.run("verify", *options)
    assert text.exit_code == code
    assert ELSEWHERE in text.stdout
    assert "rebuild" not in text.output


def test_status_says_of_a_card_what_it_says_of_its_cache(built, made):
    document, theirs = as_of_cache(made.json("status")), built.json("status")
    assert list(document) == list(theirs)
    assert {name for name in theirs if document[name] != theirs[name]} == OF_JOURNAL - {
        "open_build",
        "lately",
    }
    assert all(document[name] is None for name in OF_JOURNAL)
    assert "elsewhere: this is a mirror" in made.run("status").stdout


def test_query_finds_the_same_on_a_card(built, made):
    document, theirs = (each.json("query", str(built.tile())) for each in (made, built))
    assert document["hits"] == theirs["hits"] != []


def test_log_lists_the_same_on_a_card(built, made):
    assert made.json("log") == built.json("log")
    assert made.json("log", "--failed", "-n", "1") == built.json("log", "--failed", "-n", "1")


def test_without_segments_a_card_flies_and_its_manifests_are_the_log(card):
    shutil.rmtree(card.cache / "segments")
    document = card.json("verify", "--full")
    assert document["notes"][0] == ELSEWHERE
    assert "no manifest was compared" in document["notes"][1]
    (entry,) = card.json("log")["entries"]
    assert (entry["generation"], entry["build"], entry["status"], entry["tiles"]) == (3, 1, "committed", 20)
    assert card.json("status")["generation"] == 3


def test_a_generation_that_no_segment_tells_is_logged_from_its_manifest(built, card):
    rewrite(card.cache / "segments" / "00000003.events", lambda data: data[:-1])
    finding = card.json("replay")["findings"][0]
    assert (finding["kind"], finding["mend"].startswith(f"c10 mirror {card.cache}")) == (
        "damaged-journal",
        True,
    )
    first, *others = card.json("log")["entries"]
    assert (first["generation"], first["note"]) == (
        3,
        "known by its manifest alone; a rollback looks the same",
    )
    assert others == [each for each in built.json("log")["entries"] if each["type"] == "build"]


@pytest.mark.parametrize("options", [("--full",), ("--budget", "60s")])
def test_damaged_bytes_are_a_no_go_that_mirror_mends(built, card, options):
    index = built.json("manifest")["body"]["index"]["artifact"]["sha256"]
    rewrite(card.artifact(index), lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert card.json("verify")["go"] is True
    document = card.json("verify", *options, code=5)
    (problem,) = document["problems"]
    assert (problem["kind"], problem["subject"], problem["generations"]) == (
        "damaged",
        "descriptor index",
        [3],
    )
    assert problem["mend"].startswith(f"c10 mirror {card.cache} --full")
    built.json("mirror", str(card.cache), "--full")
    assert card.json("verify", "--full")["go"] is True


def test_a_missing_block_is_a_no_go_at_any_depth(built, card):
    manifest, present = built.json("manifest"), [*card.cache.glob("artifacts/*/*")]
    named = json.dumps(manifest["body"])
    block = next(path for path in present if path.name not in named)
    block.unlink()
    for options in ((), ("--full",)):
        (problem,) = card.json("verify", *options, code=5)["problems"]
        assert (problem["kind"], problem["path"]) == ("absent", str(block.relative_to(card.cache)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifests/00000003.json", lambda data: data.replace(b'"time_ns":1', b'"time_ns":2')),
        ("segments/00000003.events", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("segments/00000003.events", lambda _: b""),
    ],
)
def test_a_manifest_that_is_not_the_committed_one_is_a_no_go(built, card, name, change):
    rewrite(card.cache / name, change)
    document = card.json("verify", code=5)
    (problem,) = document["problems"]
    assert (problem["kind"], problem["subject"], document["head_sound"]) == (
        "projection-damaged",
        name,
        False,
    )
    assert problem["mend"].startswith(f"rm {card.cache / name}, then c10 mirror {card.cache}")
    (card.cache / name).unlink()
    built.json("mirror", str(card.cache))
    assert card.json("verify")["go"] is True


def test_a_manifest_that_cannot_be_read_is_a_no_go(card):
    rewrite(card.manifest_file(3), lambda data: data[:-9])
    for words in (("verify",), ("status",)):
        error = card.json(*words, code=5)["error"]
        assert "rebuild" not in error["hint"]


def test_an_unfinished_mirror_shows_nothing_yet(card):
    card.manifest_file(3).unlink()
    error = card.json("verify", code=5)["error"]
    assert (error["kind"], error["hint"].startswith(f"c10 mirror {card.cache}")) == ("no-generation", True)
    assert card.json("status", code=5)["error"] == error


def test_a_foreign_file_on_a_card_is_named_by_a_full_run(card):
    (card.cache / "DCIM").mkdir()
    (problem,) = card.json("verify", "--full", code=5)["problems"]
    assert (problem["kind"], problem["subject"]) == ("stranger", "DCIM")
    assert problem["mend"] == f"move {card.cache / 'DCIM'} out of the mirror"


def test_the_kept_generations_of_a_card_are_verified_in_full(world, tmp_path):
    card = World(tmp_path / "card")
    world.json("mirror", str(card.cache))
    world.json("rollback", "--to", "2")
    world.json("mirror", str(card.cache))
    assert card.json("verify", "--full")["go"] is True
    rewrite(card.manifest_file(3), lambda data: data[:-9])
    document = card.json("verify", "--full", code=5)
    assert (document["generation"], document["head_sound"]) == (4, True)
    assert document["problems"][0]["generations"] == [3]
    assert card.json("verify")["go"] is True


def test_a_card_for_another_device_is_exit_6(tmp_path):
    cache, card = World(tmp_path / "cache"), World(tmp_path / "card")
    # No device runs it.
    record_builds(Layout(cache.cache), Scenario(target="nowhere"))
    cache.json("mirror", str(card.cache))
    assert [each["kind"] for each in card.json("verify", code=6)["problems"]] == ["device"]
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"")
    assert card.run("query", str(picture)).exit_code == 6


def test_a_card_that_anybody_may_write_to_is_a_no_go(card):
    (card.cache / "manifests").chmod(0o777)
    (problem,) = card.json("verify", code=5)["problems"]
    assert (problem["kind"], problem["mend"]) == ("exposed", f"chmod -R o-w {card.cache}")


def test_signatures_of_a_card_are_checked(world, tmp_path):
    card = World(tmp_path / "card")
    for name in ("ours", "theirs"):
        assert CliRunner().invoke(cli, ["keygen", "-o", str(tmp_path / name)]).exit_code == 0
    world.json("sign", "--key", str(tmp_path / "ours"))
    world.json("mirror", str(card.cache))
    trusted = card.json("verify", "--trusted-key", str(tmp_path / "ours.pub"))
    assert trusted["signed_by"] is not None
    assert card.json("status")["signed_by"] == [trusted["signed_by"]]
    (problem,) = card.json("verify", "--trusted-key", str(tmp_path / "theirs.pub"), code=5)["problems"]
    assert problem["kind"] == "signature"
    flip(card.cache / "manifests" / "00000003.sig")
    card.json("verify", "--trusted-key", str(tmp_path / "ours.pub"), code=5)


@pytest.mark.parametrize("command", [("accept", "1"), ("repair",), ("gc",), ("export", "-o", "x")])
def test_what_needs_a_journal_is_refused_and_names_no_rebuild(card, command):
    before = fingerprint(card.cache)
    result = card.run(*command)
    assert result.exit_code == 2
    assert "found a mirror" in result.stderr
    assert "rebuild" not in result.stderr
    assert fingerprint(card.cache) == before


@pytest.mark.parametrize("command", [("show", "2"), ("manifest",), ("diff", "1", "3"), ("replay",)])
def test_what_looks_into_a_cache_looks_into_a_card(built, made, command):
    result = made.run(*command)
    assert result.exit_code == 0
    assert "rebuild" not in result.output
    if command in {("show", "2"), ("manifest",)}:
        assert result.stdout == built.run(*command).stdout
    assert made.run("doctor").exit_code == built.run("doctor").exit_code


@pytest.mark.parametrize("lost", [("journal.mdb",), ("journal.mdb", "journal.mdb-lock")])
@pytest.mark.parametrize("words", [("verify",), ("verify", "--full"), ("status",), ("log",), ("query",)])
def test_a_cache_that_lost_its_journal_is_no_mirror(world, lost, words):
    for name in lost:
        (world.cache / name).unlink()
    error = world.json(*words, *([str(world.tile())] if words == ("query",) else ()), code=7)["error"]
    assert error["kind"] == "journal-replaced"
    assert error["hint"].startswith(f"c10 rebuild --cache {world.cache}")


def test_a_mirror_with_a_journal_of_its_own_is_a_cache_for_good(card):
    card.json("rebuild")
    assert not (card.cache / MIRROR_MARK).exists()
    assert card.json("verify")["notes"] == []
    for name in ("journal.mdb", "journal.mdb-lock"):
        (card.cache / name).unlink(missing_ok=True)
    assert card.json("verify", code=7)["error"]["kind"] == "journal-replaced"


def test_a_mirror_of_an_earlier_version_is_marked_by_the_next_run(built, card):
    (card.cache / MIRROR_MARK).unlink()
    assert "run c10 mirror again, which marks it" in card.json("status", code=7)["error"]["hint"]
    marked = built.json("mirror", str(card.cache))
    assert (marked["files"], marked["changed"]) == (0, True)
    assert built.json("mirror", str(card.cache))["changed"] is False
    assert card.json("verify")["go"] is True
