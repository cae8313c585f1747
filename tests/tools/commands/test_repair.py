"""`repair` and `rebuild`: what `verify` names as the mend is run as it is printed, and mends."""

import json
import os
import shlex
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from journal import Journal
from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from tests.damaging import flip, overwrite
from tests.examples_tried import mostly_deep
from tests.tools.conftest import picture
from tools.cli import cli


def repaint(path, seed):
    picture(np.random.default_rng(seed)).save(path)


def body(world):
    return json.loads(world.manifest_file(3).read_bytes())["body"]


def artifact(world, role):
    found = body(world)
    return world.artifact(
        {
            "engine": lambda: found["engines"][0]["artifact"],
            "index": lambda: found["index"]["artifact"],
            "blocks": lambda: found["index"]["blocks"],
            "tiles": lambda: found["tiles"]["table"],
            "calibration": lambda: found["calibration"],
            "geography": lambda: found["geography"]["report"],
        }[role]()["sha256"]
    )


def block(world):
    events = (fact.event for fact in read_history(Layout(world.cache)).facts)
    return world.artifact(next(event.block.sha256 for event in events if hasattr(event, "block")))


def lost_tail(world):
    """The journal as it was before the last generation."""
    layout = Layout(world.cache)
    state = open_view(layout).state
    with Journal.open(layout.journal) as journal:
        records = list(journal.read(1, state.generations[3].before.seq))
    for path in (layout.journal, layout.root / "journal.mdb-lock"):
        path.unlink(missing_ok=True)
    Journal.create(layout.journal, records, scratch=layout.scratch)


def spoil_journal(world):
    """A record in the middle is changed, in every copy of its page."""
    path = world.cache / "journal.mdb"
    entry = read_history(Layout(world.cache)).facts[4]
    with Journal.open(path, readonly=True) as journal:
        raw = next(iter(journal.entries(entry.seq))).raw
    overwrite(path, path.read_bytes().replace(raw, raw[:-1] + b"?"))


DAMAGES = {
    **{
        f"{role} flipped": (lambda world, role=role: flip(artifact(world, role)))
        for role in ("engine", "index", "blocks", "tiles", "calibration", "geography")
    },
    **{
        f"{role} gone": (lambda world, role=role: artifact(world, role).unlink())
        for role in ("engine", "index", "blocks", "tiles", "calibration", "geography")
    },
    "block flipped": lambda world: flip(block(world)),
    "block gone": lambda world: block(world).unlink(),
    "block is a pipe": lambda world: (path := block(world), path.unlink(), os.mkfifo(path)),
    "head manifest flipped": lambda world: flip(world.manifest_file(3)),
    "head manifest gone": lambda world: world.manifest_file(3).unlink(),
    "old manifest flipped": lambda world: flip(world.manifest_file(1)),
    "old manifest gone": lambda world: world.manifest_file(1).unlink(),
    "manifest in another's place": lambda world: overwrite(
        world.manifest_file(3), world.manifest_file(2).read_bytes()
    ),
    "manifest of the future": lambda world: shutil.copy(world.manifest_file(3), world.manifest_file(4)),
    "segment flipped": lambda world: flip(world.cache / "segments" / "00000002.events"),
    "segment gone": lambda world: (world.cache / "segments" / "00000001.events").unlink(),
    "stranger": lambda world: (world.cache / "no tes.txt").write_text("hello"),
    "journal cut": lambda world: os.truncate(world.cache / "journal.mdb", 9000),
    "journal spoilt": spoil_journal,
    "journal gone": lambda world: (world.cache / "journal.mdb").unlink(),
    "journal is garbage": lambda world: overwrite(world.cache / "journal.mdb", b"garbage" * 999),
    "journal lost its tail": lost_tail,
}


@pytest.mark.parametrize(
    "damage",
    mostly_deep(
        DAMAGES,
        *(
            "engine flipped",
            "blocks flipped",
            "tiles flipped",
            "index gone",
            "calibration gone",
            "geography gone",
        ),
        *(
            "block flipped",
            "block is a pipe",
            "head manifest flipped",
            "old manifest gone",
            "manifest of the future",
        ),
        *("segment flipped", "stranger", "journal spoilt", "journal gone", "journal lost its tail"),
    ),
)
def test_the_command_that_verify_names_repairs_it(world, damage):
    DAMAGES[damage](world)
    result = world.run("verify", "--full", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code in {5, 7}
    mends = {problem["mend"] for problem in document.get("problems") or ()} or {document["error"]["hint"]}
    (mend,) = mends
    expected = "rebuild" if damage.startswith("journal") else "repair"
    assert mend == f"c10 {expected} --cache {shlex.quote(str(world.cache))}"
    assert (result.exit_code == 7) is (expected == "rebuild")
    program, *words = shlex.split(mend)
    assert program == "c10"
    healed = CliRunner().invoke(cli, words, env={"C10_WORKERS": "1"})
    assert healed.exit_code == 0, healed.output
    assert healed.stdout.startswith("GO  generation 3")
    assert world.json("verify", "--full")["go"] is True
    assert world.json("build", world.request)["outcome"] == "reused"


def test_a_path_with_spaces_is_quoted(world, tmp_path):
    moved = tmp_path / "with space"
    shutil.copytree(world.cache, moved)
    (moved / "manifests" / "00000003.json").unlink()
    result = CliRunner().invoke(cli, ["verify", "--json", "--cache", str(moved)])
    words = shlex.split(json.loads(result.stdout)["problems"][0]["mend"])
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0


def test_repair_as_json(world):
    flip(artifact(world, "index"))
    document = world.json("repair", "--dry-run", code=5)
    assert (document["go"], document["dry_run"], len(document["repairs"])) == (False, True, 1)
    assert document["repairs"][0]["ok"] is False
    document = world.json("repair")
    (repair,) = document["repairs"]
    assert (document["go"], document["generation"], document["problems"]) == (True, 3, [])
    assert (repair["what"], repair["ok"], repair["action"]) == (
        "descriptor index",
        True,
        "made again, the same bytes",
    )
    assert (world.cache / repair["quarantine"]).is_file()
    again = world.json("repair")
    assert (again["go"], again["repairs"]) == (True, [])
    assert "nothing to repair" in world.run("repair").stdout


def test_what_cannot_be_repaired_is_exit_5_and_named(world):
    layout, path = Layout(world.cache), artifact(world, "engine")
    base = open_view(layout).state.head_build.host["request"]["base"]
    flip(path)
    network = world.folder.__class__(base) / "tiny.onnx"
    hidden = network.with_name("hidden.onnx")
    network.rename(hidden)
    try:
        result = world.run("repair")
    finally:
        hidden.rename(network)
    assert result.exit_code == 5
    assert "not mended" in result.stdout
    assert "tiny.onnx" in result.stdout
    assert "c10 build --again REQUEST" in " ".join(result.stdout.split())
    assert world.json("repair")["go"] is True


def tables(world, generation):
    """The files of the tile table and the block table of a generation."""
    found = json.loads(world.manifest_file(generation).read_bytes())["body"]
    return [world.artifact(ref["sha256"]) for ref in (found["tiles"]["table"], found["index"]["blocks"])]


def fixes_of(world):
    document = world.json("verify", "--full", code=5)
    assert all(3 not in problem["generations"] for problem in document["problems"])
    return {problem["mend"] for problem in document["problems"]}


def run_as_printed(command):
    program, *words = shlex.split(command)
    assert program == "c10"
    return CliRunner().invoke(cli, words, env={"C10_WORKERS": "1"})


def test_an_earlier_generation_that_cannot_be_repaired_is_no_loop_of_hints(world):
    """Generation 2 was built from another tile than lies there now."""
    for path in tables(world, 2):
        path.unlink()
    mends = fixes_of(world)
    assert len(mends) == 2
    for mend in mends:
        command, _, rest = mend.partition(" (once; where it cannot make this again: ")
        assert command == f"c10 repair --cache {shlex.quote(str(world.cache))}"
        assert "c10 mirror" in rest
    repaired = run_as_printed(command)
    assert repaired.exit_code == 0, repaired.output
    assert "warning: not mended: " in repaired.stderr
    told = " ".join(repaired.stdout.split())
    assert "still wrong: tile table: missing generations 2 to do copy artifacts/" in told
    given_up = rest.removesuffix(")").rpartition("give generation 2 up: ")[2]
    assert given_up == f"c10 gc --keep 1 --yes --cache {shlex.quote(str(world.cache))}"
    assert given_up in told
    left = world.json("repair")["left"]
    assert [problem["generations"] for problem in left] == [[2]] * len(left)
    assert all(given_up in problem["otherwise"] for problem in left)
    assert run_as_printed(given_up).exit_code == 0
    assert world.json("verify", "--full")["go"] is True
    assert world.json("repair")["left"] == []


def test_what_a_rollback_would_show_is_given_up_after_the_next_build(world):
    tile = world.tile()
    repaint(tile, 4)
    assert world.json("build", world.request)["generation"] == 4
    gone = tables(world, 4)
    for number in (5, 6):
        repaint(tile, number)
        assert world.json("build", world.request)["generation"] == number
        for path in gone:
            path.unlink(missing_ok=True)
        assert world.run("repair").exit_code == 0
        document = world.json("verify", "--full", code=5)
        assert {tuple(problem["generations"]) for problem in document["problems"]} == {(4,)}
        mends = [problem["mend"] for problem in document["problems"]]
        assert all(("after the next c10 build" in mend) is (number == 5) for mend in mends)
        collected = run_as_printed("c10 " + mends[0].rpartition(": c10 ")[2].removesuffix(")"))
        assert (collected.exit_code == 0) is (number == 6), collected.output
    assert world.json("verify", "--full")["go"] is True


def test_a_copy_in_its_place_repairs_an_earlier_generation(world):
    path = tables(world, 2)[0]
    data = path.read_bytes()
    path.unlink()
    (mend,) = fixes_of(world)
    assert f"copy {path.relative_to(world.cache)} from " in mend
    path.write_bytes(data)
    assert world.json("verify", "--full")["go"] is True


def test_rebuild_as_json(world):
    count = len(read_history(Layout(world.cache)).facts)
    document = world.json("rebuild")
    assert (document["go"], document["generation"], document["records"]) == (True, 3, count)
    assert document["quarantine"] == "quarantine/journal.mdb.0"
    assert (world.cache / document["quarantine"]).is_file()
    assert document["repairs"] == []


def test_a_rebuild_without_its_segments_is_exit_7_and_changes_nothing(world):
    (world.cache / "segments" / "00000002.events").unlink()
    overwrite(world.cache / "journal.mdb", b"garbage")
    document = world.json("rebuild", code=7)
    assert document["error"]["kind"] == "journal-incomplete"
    assert "segment 2" in document["error"]["message"]
    assert (world.cache / "journal.mdb").read_bytes() == b"garbage"


def test_rebuild_repairs_the_files_beside_the_journal_too(world):
    overwrite(world.cache / "journal.mdb", b"garbage")
    flip(world.manifest_file(3))
    document = world.json("rebuild")
    assert [repair["what"] for repair in document["repairs"]] == ["manifests/00000003.json"]
    assert world.json("verify", "--full")["go"] is True


@pytest.mark.parametrize("command", ["repair", "rebuild"])
def test_without_a_cache(empty, command):
    assert empty.json(command, code=2)["error"]["kind"] == "no-cache"
    assert not empty.cache.exists()


@pytest.mark.parametrize("command", ["repair", "rebuild"])
def test_beside_a_build(world, command, monkeypatch):
    from journal.lock import BuildLock

    monkeypatch.setenv("C10_LOCK_TIMEOUT_S", "0")
    with BuildLock(world.cache / "build.lock"):
        assert world.run(command).exit_code == 4


def test_a_repair_with_nothing_to_do_says_so_in_a_few_lines(world):
    done = world.run("repair")
    assert done.stdout.splitlines()[-1] == "nothing to repair"
    assert done.stderr == ""
