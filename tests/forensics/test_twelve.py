"""Twelve planted failures: each is investigated and run again on another machine that has only the bundle."""

import json
import shutil
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from pipeline.tiles.sources.read_tile import close_archives
from store.disk.layout import Layout
from store.transfer.bundle_format import Choice
from store.transfer.export import export
from tests.forensics import plants
from tests.forensics.plants import CULPRIT, CULPRIT_NAME, Machine
from tests.small_disk import small_disk
from tools.cli import cli

pytestmark = pytest.mark.deep


@dataclass(frozen=True, kw_only=True)
class Row:
    """A failure, and what must be told of it.

    Attributes: plant: Makes it. status: How the build ended. failed: Step, kind and subject. cause: Words of
    the cause. inputs: Role and name of the inputs that must be among the named ones; the name may be a part.
    again: What running the step again on the other machine gives; None where the failure depends on no input.
    finding: Kind of a finding that must be there. worker: Text of the worker module, where another one is
    needed. tile: The tile at fault.
    """

    plant: object
    status: str = "failed"
    failed: tuple[str, str, str]
    cause: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]
    again: str = "impossible"
    finding: str | None = None
    worker: str | None = None
    tile: tuple[int, int, int] | None = None


TABLE = {
    "corrupt tile": Row(
        plant=plants.corrupt_tile,
        failed=("cells", "bad-tile", CULPRIT_NAME),
        cause=("cannot be decoded", "damaged"),
        inputs=(("tile", CULPRIT_NAME), ("engine", "place"), ("source", "{z}")),
        again="reproduced",
        tile=CULPRIT,
    ),
    "worker killed for memory": Row(
        plant=plants.out_of_memory,
        failed=("cells", "worker-died", "window 0"),
        cause=("worker process died", "out of memory", "memory were available"),
        inputs=(("cells", "window 0: 40 tiles"), ("engine", "place")),
        again="reproduced",
        finding="retry",
        worker=plants.HUNGRY_WORKER,
        tile=CULPRIT,
    ),
    "unsupported operator": Row(
        plant=plants.unsupported_operator,
        failed=("engine", "compile-failed", "place"),
        cause=("compiler refused",),
        inputs=(("network", "net.onnx"),),
        again="reproduced",
    ),
    "NaN descriptors": Row(
        plant=plants.not_a_number,
        failed=("cells", "bad-vectors", CULPRIT_NAME),
        cause=("no finite vector",),
        inputs=(("tile", CULPRIT_NAME), ("engine", "place")),
        again="reproduced",
        tile=CULPRIT,
    ),
    "parity failure": Row(
        plant=plants.parity,
        failed=("check", "check-failed", "place"),
        cause=("does not agree with its network", "cosine"),
        inputs=(("engine", "place"), ("network", "net.onnx")),
        again="reproduced",
        finding="check-failed",
    ),
    "retrieval check failure": Row(
        plant=plants.retrieval,
        failed=("check", "check-failed", "index"),
        cause=("does not find its own tiles", "40 sampled tiles"),
        inputs=(("index", "flat"), ("block table", "40 rows")),
        again="reproduced",
        finding="check-failed",
    ),
    "coverage gap": Row(
        plant=plants.coverage_gap,
        failed=("coverage", "coverage-too-low", "area"),
        cause=("too little of the area",),
        inputs=(("geographic report", "area"), ("tile table", "40 tiles")),
        again="reproduced",
    ),
    "disk full": Row(
        plant=plants.disk_full,
        failed=("index", "disk-full", ""),
        cause=("the disk was full", "free afterwards"),
        inputs=(),
    ),
    "lock contention": Row(
        plant=plants.lock_held,
        status="denied",
        failed=("lock", "build-lock-held", "build.lock"),
        cause=("another process held the build lock", "build 7"),
        inputs=(("lock", "build.lock"),),
    ),
    "killed process": Row(
        plant=plants.killed,
        status="abandoned",
        failed=("cells", "died", "6/0/0"),
        cause=("ended without a word", "machine still up", "killed"),
        inputs=(("tile table", "40 tiles"), ("engine", "place"), ("source", "{z}")),
    ),
    "clock jump": Row(
        plant=plants.clock_jump,
        failed=("inputs", "tiles-too-old", "6/0/0"),
        cause=("older than the request allows", "clock"),
        inputs=(("source", "{z}"),),
        finding="clock-jump",
    ),
    "tile archive changed under the build": Row(
        plant=plants.archive_changed,
        failed=("cells", "source-changed", CULPRIT_NAME),
        cause=("source changed", "selected with SHA-256", "found"),
        inputs=(("tile", CULPRIT_NAME), ("source", "area.mbtiles")),
        again="reproduced",
        tile=CULPRIT,
    ),
}


@pytest.fixture
def worker_of(tmp_path, monkeypatch):
    """Put another worker in place, here and on the other machine: what kills one kills the other."""

    def put(text):
        (tmp_path / "other_worker.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr("pipeline.embed.batcher.WORKER", "other_worker")

    return put


def planted(row, machine, elsewhere):
    """Plant a failure, carry the bundle away, and let nothing else be left of the machine."""
    row.plant(machine)
    bundle = elsewhere / "carried.c10"
    build = {"denied": None, "abandoned": 1}.get(row.status, max(machine.state().builds))
    export(Layout(machine.cache), bundle, build=build, choice=Choice.FAILING)
    return bundle


def replayed(bundle, *args):
    result = CliRunner().invoke(cli, ["replay", *args, "--bundle", str(bundle), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def machine_for(name, tmp_path):
    if name != "disk full":
        return Machine(tmp_path / "machine")
    return Machine(tmp_path / "machine", cache=tmp_path / "small" / "cache")


@pytest.mark.parametrize("name", TABLE)
def test_a_planted_failure_is_explained_and_run_again_elsewhere(name, tmp_path, worker_of):
    row = TABLE[name]
    if row.worker is not None:
        worker_of(row.worker)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    machine = machine_for(name, tmp_path)
    if name == "disk full":
        with small_disk(tmp_path / "small", mebibytes=16):
            bundle = planted(row, machine, elsewhere)
    else:
        bundle = planted(row, machine, elsewhere)
    shutil.rmtree(machine.root)
    close_archives()  # as a process on another machine has none open
    document = replayed(bundle, "--rerun")
    explain_keys(row, document)
    ran_again(row, document["rerun"])


def explain_keys(row, document):
    failure = document["failure"]
    assert document["status"] == row.status
    step, kind, subject = row.failed
    assert (failure["step"], failure["kind"]) == (step, kind), failure
    assert failure["subject"].startswith(subject)
    told = f"{failure['cause']} {failure['message']}"
    assert [words for words in row.cause if words not in told] == [], told
    named = [(each["role"], each["name"]) for each in failure["inputs"]]
    for role, name in row.inputs:
        assert any(role == has and name in what for has, what in named), named
    if row.tile is not None and row.worker is None:
        assert failure["tiles"] == [list(row.tile)]
        assert failure["pictures"][0]["data"] is not None
    if row.finding is not None:
        assert row.finding in {each["kind"] for each in document["findings"]}
    assert failure["cause"] in document["summary"]


def ran_again(row, rerun):
    assert rerun["verdict"] == row.again, rerun
    if row.again == "impossible":
        assert rerun["why"]
        return
    assert rerun["found"]["kind"] == row.failed[1]
    assert [each for each in rerun["compared"] if not each["same"]] == []
    assert all(each["standing"] in {"kept", "gone"} for each in rerun["inputs"]), rerun["inputs"]
    assert len(rerun["tries"]) <= 7, "halving 40 tiles"
    if row.tile is not None:
        assert rerun["found"]["subject"] == "/".join(map(str, row.tile))
