"""Builds with a key after one that was killed: the machine's own records are reused, a stranger's are not."""

import shutil
from pathlib import Path

import pytest

from pipeline.build.engines_only import EngineOutcome
from pipeline.build.report import BuildOutcome
from store.domain.events import BuildStarted, CellEmbedded, EngineCompiled
from store.trust.key_files import write_key_pair
from store.verify.report import Depth
from store.verify.verify import verify
from tests.child_python import run_python
from tests.pipeline.build.test_vouching import append_unsigned, head

pytestmark = pytest.mark.deep

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.embed.cells import plan_windows
from pipeline.stages import context
from tests.small_builds import FakeSite, tiny_network
plan_windows.__kwdefaults__["size"] = 4
context._GROUP_EVENTS = int(sys.argv[5])
site = FakeSite(sys.argv[1])
site.tiles = {place: data + b"2" for place, data in site.tiles.items()}
site.calls.faults[sys.argv[4]] = lambda: os.kill(os.getpid(), signal.SIGKILL)
provisioner = site.provisioner(signing_key=Path(sys.argv[2]), digest_cache_folder=Path(sys.argv[3]))
provisioner.build_cache_artifacts(site.request(flight_id="f2", network="net2.onnx"))
"""
"""A build with another network and other tiles, which dies in a call."""


COMPILES = """
import sys
from pathlib import Path
from tests.small_builds import FakeSite
site = FakeSite(sys.argv[1])
site.write("net3.onnx", (site.root / "net.onnx").read_bytes() + b"2\\x01b")
provisioner = site.provisioner(signing_key=Path(sys.argv[2]), digest_cache_folder=Path(sys.argv[3]))
provisioner.compile_engines_for_corpus(site.request(network="net3.onnx"))
"""


class Machine:
    """A site, a key, and the folder in which the machine remembers."""

    def __init__(self, site, folder):
        self.site, self.memory, self.key = site, folder / "memory", write_key_pair(folder / "key")
        site.write("net2.onnx", (site.root / "net.onnx").read_bytes() + b"2\x01a")

    def provisioner(self, *, remembers=True):
        folder = {"digest_cache_folder": self.memory} if remembers else {}
        return self.site.provisioner(signing_key=self.key.private, **folder)

    def request(self, flight="f2"):
        return self.site.request(flight_id=flight, network="net2.onnx")

    def build(self, *, flight="f2", remembers=True):
        report = self.provisioner(remembers=remembers).build_cache_artifacts(self.request(flight))
        assert report.outcome is BuildOutcome.BUILT, report.error
        assert verify(self.site.layout, depth=Depth.FULL, trusted_keys=[self.key.public_bytes]).go
        return report

    def die(self, call, *, group=1):
        """Kill a build in a call; afterwards the tiles are those of that build."""
        arguments = (self.site.root, self.key.private, self.memory, call, group)
        assert run_python(KILLED, *arguments, check=False).returncode == -9
        self.site.tiles = {place: data + b"2" for place, data in self.site.tiles.items()}

    def made(self):
        """How many engines and tiles the journal has of build 2 and later."""
        recorded = self.site.events(EngineCompiled)[1:], self.site.events(CellEmbedded)[16:]
        return len(recorded[0]), sum(event.embedded for event in recorded[1])

    @property
    def notes(self):
        return [*self.memory.glob("records-*")]


@pytest.fixture
def machine(site, tmp_path):
    machine = Machine(site, tmp_path)
    machine.provisioner().build_cache_artifacts(site.request(flight_id="f1"))
    assert machine.notes == []
    return machine


@pytest.mark.parametrize(
    ("call", "group"),
    [("compile place", 1), ("window 0", 1), ("window 5", 1), ("window 5", 64), ("index", 64)],
)
def test_a_build_after_a_killed_one_makes_nothing_again(machine, call, group):
    total = len(machine.site.tiles)
    machine.die(call, group=group)
    engines, tiles = machine.made()
    assert engines == (call != "compile place")
    assert tiles == {"window 5": tiles, "index": total}.get(call, 0)
    assert tiles or (call, group) != ("window 5", 1)
    assert machine.provisioner(remembers=False).plan(machine.request()).to_embed == total
    assert machine.provisioner().plan(machine.request()).to_embed == total - tiles
    report = machine.build()
    assert (report.engines_compiled, report.tiles_embedded) == (1 - engines, total - tiles)
    assert not any("vouches" in each.message for each in report.warnings)
    assert machine.notes == []
    # The signed build says what it relied on, so that nobody needs the notes any more.
    later = machine.build(flight="f3", remembers=False)
    assert (later.engines_compiled, later.tiles_embedded) == (0, 0)


def test_a_second_death_loses_nothing_of_the_first(machine):
    machine.die("window 5")
    tiles = machine.made()[1]
    machine.site.tiles = {place: data[:-1] for place, data in machine.site.tiles.items()}
    machine.die("index")
    assert machine.made()[1] == len(machine.site.tiles) > tiles
    assert machine.build().tiles_embedded == 0
    assert len(machine.site.events(BuildStarted)[-1].host["own_records"]) == 2


def test_a_build_after_a_failed_one_makes_nothing_again(machine):
    def fail():
        raise RuntimeError

    machine.site.calls.faults["index"] = fail
    machine.site.tiles = {place: data + b"2" for place, data in machine.site.tiles.items()}
    assert machine.provisioner().build_cache_artifacts(machine.request()).outcome is BuildOutcome.FAILED
    del machine.site.calls.faults["index"]
    report = machine.build()
    assert (report.engines_compiled, report.tiles_embedded) == (0, 0)


def test_engines_that_this_machine_compiled_are_reused(machine):
    (engine,) = machine.provisioner().compile_engines_for_corpus(machine.request()).engines
    assert engine.outcome is EngineOutcome.COMPILED
    (again,) = machine.provisioner().compile_engines_for_corpus(machine.request()).engines
    assert again.outcome is EngineOutcome.REUSED
    assert machine.build().engines_compiled == 0
    assert machine.build(flight="f3", remembers=False).engines_compiled == 0


def test_notes_of_an_engine_run_during_a_build_are_kept(machine):
    arguments = (machine.site.root, machine.key.private, machine.memory)
    machine.site.calls.faults["index"] = lambda: run_python(COMPILES, *arguments)
    machine.build()
    assert len(machine.notes) == 1
    report = machine.provisioner().build_cache_artifacts(machine.site.request(network="net3.onnx"))
    assert report.engines_compiled == 0
    assert machine.notes == []


@pytest.mark.parametrize("what", ["engine", "index", "blocks", "checks"])
def test_a_stranger_s_records_behind_a_killed_build_are_made_again(machine, what):
    machine.die("index")
    forged = append_unsigned(machine.site, what, "no build")
    report = machine.build(flight="f4")
    raw, named = head(machine.site)
    assert not forged & named
    assert b"forged" not in raw
    if what == "blocks":
        assert any("vouches for what is made again" in each.message for each in report.warnings)


def test_an_older_copy_with_other_records_is_not_believed(machine, tmp_path):
    """The notes tell of records by their chain: other records in their places are a stranger's."""
    shutil.copytree(machine.site.cache, tmp_path / "older")
    machine.die("index")
    shutil.rmtree(machine.site.cache)
    shutil.copytree(tmp_path / "older", machine.site.cache)
    for _ in range(3):
        forged = append_unsigned(machine.site, "blocks", "failed build")
    machine.site.tiles = {place: data[:-1] for place, data in machine.site.tiles.items()}
    report = machine.provisioner().build_cache_artifacts(machine.site.request(flight_id="f5"))
    assert report.outcome is BuildOutcome.BUILT
    assert report.tiles_embedded == len(machine.site.tiles)
    assert not forged & head(machine.site)[1]


def test_notes_of_another_key_or_cache_are_not_believed(machine):
    machine.die("index")
    (notes,) = machine.notes
    total = len(machine.site.tiles)
    assert machine.provisioner().plan(machine.request()).to_embed == 0
    own = machine.key
    machine.key = write_key_pair(own.private.with_name("other"))
    shutil.copy(notes, notes.with_name(notes.name.replace(own.key_id, machine.key.key_id)))
    trusting = machine.site.provisioner(
        signing_key=machine.key.private,
        trusted_keys=(own.public_bytes.hex(),),
        digest_cache_folder=machine.memory,
    )
    assert trusting.plan(machine.request()).to_embed == total
    machine.key = own
    assert machine.provisioner().plan(machine.request()).to_embed == 0
    notes.chmod(0o640)
    assert machine.provisioner().plan(machine.request()).to_embed == total


def test_the_notes_are_the_owner_s_alone(machine):
    machine.die("window 5")
    (notes,) = machine.notes
    assert notes.stat().st_mode & 0o777 == 0o600
    assert Path(notes).parent.stat().st_mode & 0o777 == 0o700
