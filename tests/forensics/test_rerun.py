"""A failed step run again: beside its cache, from a journal alone, and from what others may have written."""

import json
import shutil
from dataclasses import replace

import onnx
import pytest
from click.testing import CliRunner

from pipeline.errors import CompileError, ErrorKind
from pipeline.request.options import IndexOptions, ModelSpec
from pipeline.rerun.report import RerunVerdict
from pipeline.testing import Calls, FakeCompiler, FakeIndexBuilder, raising
from store.domain.events import CellEmbedded
from store.domain.maintenance_events import Imported
from store.transfer.bundle_format import Choice
from store.transfer.export import export
from tests.forensics import plants
from tests.forensics.plants import CULPRIT, CULPRIT_NAME, MORTAL_WORKER, Machine
from tests.played_builds import make
from tests.small_builds import DIMENSIONS, ZOOM, picture
from tools.analysis.rerun import run_again
from tools.cli import cli
from tools.forensics.records import DecodedRecord, RecordHistory
from tools.forensics.sources import from_bundle, from_cache

pytestmark = pytest.mark.deep


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "machine")


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    (tmp_path / "mortal.py").write_text(MORTAL_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "mortal")


def command(*args, code=0):
    result = CliRunner().invoke(cli, ["replay", *map(str, args), "--rerun", "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout).get("rerun")


def again(machine, number=1):
    return run_again(from_cache(machine.layout), number)


def standings(rerun):
    return {(each["role"], each["standing"]) for each in rerun["inputs"]}


def poisoned(place):
    """A tile that ends a worker of `MORTAL_WORKER`: a picture with a few bytes more."""
    return picture(sum(place)) + b"poison"


@pytest.mark.usefixtures("mortal")
def test_a_deadly_tile_is_found_in_its_window_by_halving(machine, tmp_path):
    whole = {(ZOOM, x, y): picture(100 * x + y) for x in range(16) for y in range(16)}
    culprit = (ZOOM, 15, 14)  # the last but one: where halving looks last
    machine.write_tiles(whole | {culprit: poisoned(culprit)})
    machine.fail()
    failure = machine.state().builds[1].failure
    window = len(failure.inputs["window"]["tiles"])
    assert (failure.kind, window) == ("worker-died", 80)
    export(machine.layout, tmp_path / "b.c10", build=1, choice=Choice.FAILING)
    shutil.rmtree(machine.root)
    rerun = run_again(from_bundle(tmp_path / "b.c10"), 1)
    assert (rerun["verdict"], rerun["culprit"]) == (RerunVerdict.REPRODUCED, list(culprit))
    assert len(rerun["tries"]) <= 8
    assert rerun["tries"][0]["tiles"] == window // 2
    assert rerun["tries"][-1]["tiles"] == 1
    assert "SIGKILL" in rerun["found"]["message"]
    assert f"tile {ZOOM}/15/14 alone" in rerun["text"]


def test_a_tile_that_was_mended_since_is_told_of_and_the_kept_one_is_used(machine):
    plants.corrupt_tile(machine)
    machine.write(f"tiles/{CULPRIT_NAME}.png", picture(1))
    rerun = again(machine)
    assert rerun["verdict"] == RerunVerdict.REPRODUCED
    assert {("tile", "kept"), ("source", "differs"), ("engine", "kept")} <= standings(rerun)


def test_a_journal_alone_uses_what_lies_where_it_was(machine, tmp_path):
    plants.corrupt_tile(machine)
    copy = shutil.copy(machine.cache / "journal.mdb", tmp_path / "copy.mdb")
    rerun = command("--journal", copy)
    assert rerun["verdict"] == RerunVerdict.REPRODUCED
    assert standings(rerun) == {("tile", "same"), ("engine", "gone")}
    assert "decoded and not embedded" in rerun["notes"][0]
    machine.write(f"tiles/{CULPRIT_NAME}.png", picture(1))
    rerun = command("--journal", copy)
    assert (rerun["verdict"], standings(rerun)) == (RerunVerdict.IMPOSSIBLE, {("tile", "differs")})
    (machine.root / f"tiles/{CULPRIT_NAME}.png").unlink()
    rerun = command("--journal", copy)
    assert (rerun["verdict"], standings(rerun)) == (RerunVerdict.IMPOSSIBLE, {("tile", "gone")})


def test_a_network_that_was_mended_since_is_told_of(machine, tmp_path):
    plants.unsupported_operator(machine)
    copy = shutil.copy(machine.cache / "journal.mdb", tmp_path / "copy.mdb")
    assert command("--journal", copy)["verdict"] == RerunVerdict.REPRODUCED
    machine.write("net.onnx", plants.tiny_network())
    rerun = command("--journal", copy)
    assert (rerun["verdict"], standings(rerun)) == (RerunVerdict.IMPOSSIBLE, {("network", "differs")})
    assert again(machine)["verdict"] == RerunVerdict.REPRODUCED


def test_a_network_that_describes_nothing_is_compiled_again_alone(machine, tmp_path):
    network = onnx.load_from_string(plants.tiny_network())
    network.graph.node[0].op_type = "Frobnicate"
    machine.write("other.onnx", network.SerializeToString())
    models = (
        ModelSpec(name="place", role="descriptor", onnx="net.onnx"),
        ModelSpec(name="zebra", role="auxiliary", onnx="other.onnx"),
    )
    machine.with_tiles().fail(models=models)
    export(machine.layout, tmp_path / "b.c10", build=1, choice=Choice.FAILING)
    shutil.rmtree(machine.root)
    rerun = run_again(from_bundle(tmp_path / "b.c10"), 1)
    assert (rerun["verdict"], rerun["subject"]) == (RerunVerdict.REPRODUCED, "zebra"), rerun["why"]


def test_a_step_that_failed_by_chance_passes(machine):
    calls = Calls()
    storm = CompileError("expected a calm day, found a storm", hint="wait", kind=ErrorKind.COMPILE_CRASHED)
    calls.faults["compile place"] = raising(storm)
    compiler = FakeCompiler(calls=calls, dimensions=DIMENSIONS)
    machine.with_tiles().fail(ports={"engine_compiler": compiler})
    rerun = again(machine)
    assert (rerun["verdict"], rerun["found"]) == (RerunVerdict.PASSED, None)
    assert "does not fail here" in rerun["text"]


def test_a_killed_build_runs_its_window_again(machine):
    plants.killed(machine)
    rerun = again(machine)
    assert (rerun["verdict"], rerun["recorded"]["kind"]) == (RerunVerdict.PASSED, "died")
    assert "not in the inputs" in rerun["why"]
    assert {each["ended"] for each in rerun["tries"]} == {""}


@pytest.mark.usefixtures("mortal")
def test_a_killed_build_whose_tile_kills_workers_names_it(machine):
    plants.killed(machine, tiles={CULPRIT: poisoned(CULPRIT)})
    rerun = again(machine)
    assert (rerun["verdict"], rerun["culprit"]) == (RerunVerdict.FAILED_DIFFERENTLY, list(CULPRIT))


def test_an_index_that_cannot_be_built(machine):
    index = IndexOptions(kind="ivf-pq", m=7)
    machine.with_tiles().fail(index=index)
    failure = machine.state().builds[1].failure
    assert failure.step == "index"
    rerun = again(machine)
    assert (rerun["verdict"], rerun["found"]["kind"]) == (RerunVerdict.REPRODUCED, failure.kind)


def test_an_artifact_that_went_bad_under_the_build(machine):
    calls = Calls()

    def damage():
        block = machine.layout.artifact(machine.events(CellEmbedded)[0].block.sha256)
        block.chmod(0o644)
        block.write_bytes(block.read_bytes()[:-1] + b"!")

    calls.faults["index"] = damage
    machine.with_tiles().fail(ports={"index_builder": FakeIndexBuilder(calls=calls)})
    rerun = again(machine)
    assert rerun["verdict"] in {RerunVerdict.IMPOSSIBLE, RerunVerdict.REPRODUCED}
    assert ("block", "gone") in standings(rerun)


def test_inputs_that_cannot_be_read(machine, tmp_path):
    plants.clock_jump(machine)
    rerun = again(machine, 2)
    assert (rerun["verdict"], rerun["found"]["kind"]) == (RerunVerdict.REPRODUCED, "tiles-too-old")
    machine.write("net.onnx", b"no network at all")
    machine.fail()
    number = max(machine.state().builds)
    assert machine.state().builds[number].failure.kind == "bad-model"
    assert again(machine, number)["verdict"] == RerunVerdict.REPRODUCED
    shutil.move(machine.root / "tiles", tmp_path / "away")
    rerun = again(machine, 2)
    assert rerun["verdict"] == RerunVerdict.IMPOSSIBLE
    assert standings(rerun) == {("calibration", "same"), ("network", "same"), ("source", "gone")}


def test_what_did_not_fail_is_refused(machine):
    machine.with_tiles().build()
    assert command("1", "--cache", machine.cache, code=2) is None
    assert command("1", "--at", "3", "--cache", machine.cache, code=2) is None


def test_nothing_is_written(machine):
    plants.corrupt_tile(machine)
    before = {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in machine.root.rglob("*")
        if path.name != "journal.mdb-lock"
    }
    assert command("--cache", machine.cache)["verdict"] == RerunVerdict.REPRODUCED
    after = {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in machine.root.rglob("*")
        if path.name != "journal.mdb-lock"
    }
    assert after == before


def test_lines_for_people(machine):
    plants.corrupt_tile(machine)
    result = CliRunner().invoke(cli, ["replay", "--rerun", "--cache", str(machine.cache)])
    assert result.exit_code == 0
    assert "it fails again in the same way" in result.stdout
    assert "kept with the records" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_libraries_are_not_loaded_because_a_bundle_names_them(machine, tmp_path):
    library = machine.write("plugin.so", b"\x7fELF that nobody may load")
    plants.unsupported_operator(machine)
    source = from_cache(machine.layout)
    records = [naming(record, library) for record in source.history.records]
    foreign = replace(source, kind="bundle", history=RecordHistory(records=records))
    rerun = run_again(foreign, 1)
    assert rerun["verdict"] == RerunVerdict.IMPOSSIBLE
    assert "not loaded on a record's word" in rerun["why"]
    imported = changed(records[-1], seq=len(records) + 1, build=None, event=make(Imported))
    brought = replace(source, history=RecordHistory(records=[*records, imported]))
    assert "not loaded on a record's word" in run_again(brought, 1)["why"]
    # A copy that follows bundle by bundle has no record of that: its own cache says no more than a bundle.
    followed = replace(source, history=RecordHistory(records=records))
    assert "not loaded on a record's word; --trust-plugins" in run_again(followed, 1)["why"]
    assert "not loaded" not in run_again(followed, 1, trust_plugins=True)["why"]


def naming(record, library):
    """The same record, with a request that names a library."""
    host = getattr(record.event, "host", None)
    if not host or "request" not in host:
        return record
    text = host["request"]["text"].replace("[engine]", f'[engine]\nplugins = ["{library}"]')
    assert "plugins" in text
    text = "\n".join(line for line in text.splitlines() if line != "plugins = []")
    request = {**host["request"], "text": text}
    return changed(record, event=replace(record.event, host={**host, "request": request}))


def changed(record, **fields):
    return DecodedRecord(**{name: getattr(record, name) for name in DecodedRecord.__slots__} | fields)


@pytest.mark.parametrize(
    "damage",
    [
        {"tile": {"place": "6/8", "sha256": "00"}},
        {"tile": {"place": "x/y/z", "sha256": 7}},
        {"tile": {"place": "99/1/1"}},
        {"tile": [1, 2]},
        {"window": {"tiles": [["6/8/12"]]}},
        {"window": {"tiles": 7}},
        {"window": {"tiles": [["6/8/12", "zz", 1]], "locators": [["file", "/dev/zero"]]}},
        {"window": {"tiles": [["6/8/12", "zz", 1]], "locators": [["file", "/etc/passwd"]]}},
        {"window": {"tiles": [["6/8/12", "zz", 1]], "locators": ["/etc/passwd"]}},
        {"window": {"tiles": [["../../../../tmp/x", "zz", 1]]}},
        {
            "attached": {"tile": {"sha256": "0" * 64, "size": 3}},
            "tile": {"place": "6/8/12", "sha256": "0" * 64},
        },
        {},
    ],
)
def test_records_that_nobody_wrote_are_no_surprise(machine, damage):
    plants.corrupt_tile(machine)
    source = from_cache(machine.layout)
    last = source.history.records[-1]
    inputs = {"step": "cells", "subject": "6/8/12", **damage}
    forged = changed(last, event=replace(last.event, inputs=inputs))
    records = [*source.history.records[:-1], forged]
    rerun = run_again(replace(source, history=RecordHistory(records=records)), 1)
    assert rerun["verdict"] == RerunVerdict.IMPOSSIBLE, rerun
    assert rerun["why"]
    assert "root:" not in json.dumps(rerun)
