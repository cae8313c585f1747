"""Mirrors that are not whole, or hold files of two caches: what `verify` names, and what nobody takes for history."""

import os
import shutil
from importlib import metadata

import pytest
from click.testing import CliRunner

from store.base.canonical_json import decode, encode
from store.disk.layout import MIRROR_MARK, Layout
from store.errors import ErrorKind, RequestRefusedError
from store.policy import rollback
from tests.played_builds import Scenario
from tests.store_caches import ALICE, open_writer, record_builds
from tests.tools.conftest import World, only_line
from tools.cli import cli

OTHER_TILES = {(0, 0): "a", (1, 0): "b2", (20, 3): "c"}
READING = (("log",), ("show", "1"), ("replay", "1"), ("report", "1", "-o", "page.html"))


def record(cache, *flights, signer=None):
    """A played cache, and its mirror after every generation."""
    card = World(cache.folder / "card")
    for number, flight in enumerate(flights, start=1):
        tiles = {} if number == 1 else {"tiles": OTHER_TILES}
        scenario = Scenario(flight=flight, version=metadata.version("onnxruntime"), **tiles)
        record_builds(Layout(cache.cache), scenario, signer=signer)
        cache.json("mirror", str(card.cache))
    return card


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Mirrors of two caches, of three signed generations and of four. Never change them."""
    root = tmp_path_factory.mktemp("mixed")
    record(World(root / "one"), "a1", "a2", "a3", signer=ALICE)
    record(World(root / "two"), "b1", "b2", "b3", "b4")
    return root


@pytest.fixture
def card(made, tmp_path):
    """The mirror of the first cache."""
    shutil.copytree(made / "one" / "card" / "cache", tmp_path / "cache")
    return World(tmp_path)


@pytest.fixture
def theirs(made):
    """The mirror of the other cache."""
    return made / "two" / "card" / "cache"


def segment(root, number):
    return root / "segments" / f"{number:08d}.events"


def put(source, target):
    target.unlink(missing_ok=True)
    shutil.copy(source, target)


def problems(card, *options):
    """Kind and subject of each, but for what is played: an engine and an index that no library loads."""
    result = card.run("verify", *options, "--json")
    found = [(each["kind"], each["subject"]) for each in only_line(result)["problems"]]
    assert result.exit_code == (5 if found else 0)
    return [(kind, subject) for kind, subject in found if kind != "content"]


def cut(path):
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def test_the_mirrors_are_sound(made):
    for name in ("one", "two"):
        card = World(made / name / "card")
        for options in ((), ("--full",)):
            assert problems(card, *options) == []


@pytest.mark.parametrize("options", [(), ("--full",)])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_cut_segment_of_any_generation_is_a_no_go(made, card, number, options):
    path = segment(card.cache, number)
    cut(path)
    assert problems(card, *options) == [("projection-damaged", f"segments/{path.name}")]
    path.unlink()
    assert problems(card, *options) == [("projection-absent", f"segments/{path.name}")]
    World(made / "one").json("mirror", str(card.cache))
    assert problems(card, *options) == []


@pytest.mark.parametrize("number", [2, 3])
def test_a_signature_that_is_none_is_a_no_go_and_nobody_says_unsigned(card, number):
    path = card.cache / "manifests" / f"{number:08d}.sig"
    signed = path.read_bytes()
    path.unlink()
    for content in (b"", b"junk", b"j" * 10_000, signed.replace(b'"key_id":"', b'"key_id":"0')):
        path.write_bytes(content)
        assert problems(card, "--full") == [("projection-damaged", f"manifests/{path.name}")]
        if number == 3:
            assert problems(card) == [("projection-damaged", f"manifests/{path.name}")]
            warnings = {each["kind"]: each["hint"] for each in card.json("status")["warnings"]}
            assert warnings["signature-damaged"].startswith(f"rm {path}, then c10 mirror {card.cache}")
            assert "unsigned" not in warnings
    path.unlink()
    assert problems(card, "--full") == [("projection-absent", f"manifests/{path.name}")]


def test_another_signature_than_the_recorded_one_is_a_no_go(card):
    manifests = card.cache / "manifests"
    put(manifests / "00000002.sig", manifests / "00000003.sig")
    assert problems(card) == [("projection-damaged", "manifests/00000003.sig")]


def test_a_signature_after_the_last_commit_is_in_no_segment_and_fits(made, tmp_path):
    shutil.copytree(made / "two", tmp_path / "two")
    cache, card = World(tmp_path / "two"), World(tmp_path / "two" / "card")
    assert CliRunner().invoke(cli, ["keygen", "-o", str(tmp_path / "key")]).exit_code == 0
    cache.json("sign", "--key", str(tmp_path / "key"))
    cache.json("mirror", str(card.cache))
    assert problems(card, "--full") == []


@pytest.mark.parametrize("options", [(), ("--full",)])
@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2), (4,), (2, 4)])
def test_segments_of_another_cache_before_the_head_are_a_no_go(made, card, theirs, numbers, options):
    for number in numbers:
        put(segment(theirs, number), segment(card.cache, number))
    assert problems(card, *options) == [
        ("projection-damaged", f"segments/{number:08d}.events") for number in numbers
    ]
    for words in READING:
        error = card.json(*words, code=7)["error"]
        assert error["kind"] == "journal-replaced"
        assert error["hint"].startswith(f"c10 verify --cache {card.cache}")
    # What is shown is this cache's all the same.
    assert card.json("status")["flight_id"] == "a3"
    for number in numbers:
        segment(card.cache, number).unlink()
    World(made / "one").json("mirror", str(card.cache))
    assert problems(card, *options) == []


def test_a_mirror_that_was_copied_over_another_is_a_no_go(card, theirs):
    """As `rsync --ignore-existing` does: of each name the first, and the newest manifest of all."""
    for path in theirs.rglob("*"):
        if path.is_file() and not (to := card.cache / path.relative_to(theirs)).exists():
            shutil.copy(path, to)
    for options in ((), ("--full",)):
        assert ("projection-damaged", "segments/00000003.events") in problems(card, *options)
    assert problems(card, "--full")[0] == ("projection-damaged", "manifests/00000001.json")
    assert card.json("status")["flight_id"] == "b4"
    for words in READING:
        card.json(*words, code=7)


def test_without_segments_manifests_of_two_caches_are_no_history(card, theirs):
    shutil.rmtree(card.cache / "segments")
    put(theirs / "manifests" / "00000002.json", card.manifest_file(2))
    assert problems(card, "--full")[0] == ("projection-damaged", "manifests/00000002.json")
    error = card.json("log", code=5)["error"]
    assert "another cache" in error["message"]


def test_the_newest_manifest_of_another_cache_is_shown_by_nobody(card, theirs):
    put(theirs / "manifests" / "00000003.json", card.manifest_file(3))
    assert ("projection-damaged", "manifests/00000003.json") in problems(card)
    assert card.json("status", code=5)["error"]["hint"].startswith(f"rm {card.manifest_file(3)}")
    assert card.run("manifest").exit_code == 5
    for words in READING:
        card.json(*words, code=7)


def test_a_manifest_that_names_another_place_in_the_chain_is_a_no_go(card):
    """Of one cache, and each file whole: the copy had a history of its own."""
    path = card.manifest_file(3)
    document = decode(path.read_bytes()[:-1])
    document["envelope"]["prev_head"]["chain"] = "0" * 64
    path.unlink()
    path.write_bytes(encode(document) + b"\n")
    assert problems(card) == [("projection-damaged", "manifests/00000003.json")]
    card.json("log", code=7)


def test_a_copy_with_a_history_of_its_own_is_told_by_its_links(made, card, tmp_path):
    shutil.copytree(made / "one", tmp_path / "fork")
    fork = World(tmp_path / "fork")
    with open_writer(Layout(fork.cache), signer=ALICE) as store:
        store.roll_back(rollback.plan(store.state, to=None, why="worse"))
    fork.json("mirror", str(fork.folder / "card" / "cache"))
    shutil.copytree(made / "one" / "cache", tmp_path / "ours" / "cache")
    ours = World(tmp_path / "ours")
    record_builds(
        Layout(ours.cache),
        *(Scenario(flight=f"a{at}", version=metadata.version("onnxruntime")) for at in (4, 5)),
        signer=ALICE,
    )
    ours.json("mirror", str(card.cache))
    assert problems(card, "--full") == []
    put(segment(fork.folder / "card" / "cache", 4), segment(card.cache, 4))
    assert problems(card) == [("projection-damaged", "segments/00000004.events")]


@pytest.mark.parametrize("options", [(), ("--full",)])
def test_a_manifest_with_the_number_of_another_generation_is_taken_for_none(card, theirs, options):
    card.manifest_file(3).rename(card.manifest_file(4))
    hint = f"rm {card.manifest_file(4)}, then c10 mirror {card.cache}"
    for words in (("verify", *options), ("status",)):
        error = card.json(*words, code=5)["error"]
        assert "expected generation 4, as its name says, found 3" in error["message"]
        assert error["hint"].startswith(hint)
    assert card.run("manifest").exit_code == 5
    assert card.run("log").exit_code == 5
    put(theirs / "manifests" / "00000001.json", card.manifest_file(4))
    assert "found 1" in card.json("status", code=5)["error"]["message"]


def test_what_has_the_mark_and_a_trace_of_a_journal_is_no_mirror(made, tmp_path):
    shutil.copytree(made / "one", tmp_path / "one")
    cache = World(tmp_path / "one")
    shutil.copy(cache.folder / "card" / "cache" / MIRROR_MARK, cache.cache)
    assert "remove it" in cache.json("verify")["notes"][0]
    (cache.cache / "journal.mdb").unlink()
    for words in (("verify",), ("verify", "--full"), ("status",), ("log",)):
        error = cache.json(*words, code=7)["error"]
        assert (error["kind"], error["hint"]) == ("journal-replaced", f"c10 rebuild --cache {cache.cache}")


def test_a_cache_that_lost_its_journal_gets_no_mark(made, tmp_path):
    shutil.copytree(made / "one", tmp_path / "one")
    lost = tmp_path / "one" / "cache"
    (lost / "journal.mdb").unlink()
    error = World(made / "one").json("mirror", str(lost), code=2)["error"]
    assert (error["kind"], "journal.mdb-lock" in error["message"]) == ("own-history", True)
    assert error["hint"].endswith(f"c10 rebuild --cache {lost}")
    assert not (lost / MIRROR_MARK).exists()


def test_an_unfinished_mirror_is_told_as_one(card):
    for path in (card.cache / "manifests").iterdir():
        path.unlink()
    assert "not finished" in card.json("status", code=5)["error"]["message"]
    result = card.run("log")
    assert (result.exit_code, "a mirror that was not finished" in result.stderr) == (0, True)
    shutil.rmtree(card.cache / "segments")
    for words in (("log",), ("status",), ("verify",), ("show",)):
        assert card.run(*words).exit_code != 0


def test_no_build_begins_in_a_mirror_that_was_not_finished(made, card):
    for folder in ("segments", "manifests", "artifacts", "quarantine", "tmp"):
        shutil.rmtree(card.cache / folder)
    before = sorted(card.cache.iterdir())
    error = card.json("accept", "1", code=2)["error"]
    assert error["kind"] == "mirror"
    with pytest.raises(RequestRefusedError) as refused:
        record_builds(Layout(card.cache), Scenario())
    assert refused.value.kind is ErrorKind.MIRROR
    assert sorted(path for path in card.cache.iterdir() if path.is_file()) == before
    World(made / "one").json("mirror", str(card.cache))
    assert problems(card) == []


def test_what_a_desktop_leaves_on_a_card_is_no_damage(card):
    for name in ("System Volume Information", ".Trashes"):
        (card.cache / name).mkdir()
    for name in ("._mirror.txt", "segments/._00000001.events"):
        (card.cache / name).write_bytes(b"")
    assert problems(card, "--full") == []
    notes = only_line(card.run("verify", "--full", "--json"))["notes"]
    assert (
        "harmless: .Trashes, ._mirror.txt, System Volume Information, segments/._00000001.events" in notes[-1]
    )


def test_warnings_of_a_mirror_name_the_cache_for_what_changes_it(made, theirs):
    card, cache = World(theirs.parent), World(made / "two")
    for words in (("verify",), ("status",)):
        ours, own = (
            {each["kind"]: each["hint"] for each in each.json(*words)["warnings"]} for each in (card, cache)
        )
        assert ours["unsigned"] == f"{own['unsigned']}; in the cache that this is a mirror of"


def test_a_stray_segment_of_any_number_is_told_at_once(card):
    number = 10**18 - 1
    (card.cache / "segments" / f"{number}.events").touch()
    result = card.run("log")
    assert result.exit_code == 0
    assert "segment 4: missing" in result.stderr
    found = problems(card, "--quick")
    assert found[0] == ("projection-absent", "segments/00000004.events")
    assert found[-1] == ("projection-damaged", f"segments/{number}.events")
    assert len(found) < 200
