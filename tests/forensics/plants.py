"""Twelve ways to fail, each planted into a real build on a machine of its own."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from journal.errors import BuildLockHeldError
from pipeline.build.host_facts import host_facts
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.lock import CacheLock
from pipeline.request.options import CoverageOptions
from pipeline.testing import Calls, FakeBatcher, FakeCompiler, FakeIndexBuilder, kill_this_process
from store.base.clock import SystemClock
from tests.small_builds import DIMENSIONS, ZOOM, Site, encoded, picture, plain, spread, tiny_network
from tests.small_disk import free_bytes
from tests.tile_archives import write_mbtiles

ROOT = Path(__file__).parents[2]
CULPRIT = (ZOOM, 8, 12)
CULPRIT_NAME = "6/8/12"

HUNGRY_WORKER = """
import resource
from pipeline.embed import worker
from pipeline.processes.serve import serve

def start(first):
    handler = worker.start(first)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    room = pages * resource.getpagesize() + (96 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    return handler

if __name__ == "__main__":
    serve(start)
"""

MORTAL_WORKER = """
import os, signal
from pipeline.embed import worker
from pipeline.processes.serve import serve

decode = worker.decode_picture

def decode_or_die(data):
    if b"poison" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data)

worker.decode_picture = decode_or_die

if __name__ == "__main__":
    serve(worker.start)
"""


class Machine(Site):
    """A machine with a site, and what it knows about itself."""

    def provisioner(self, **ports):
        return super().provisioner(**({"host": host_facts(), "workers": 1, "reserve_mb": 1} | ports))

    def fail(self, *, ports=None, **fields):
        """Build, and expect a failure."""
        report = self.provisioner(**(ports or {})).build_cache_artifacts(self.request(**fields))
        assert report.error is not None, report
        return report

    def with_tiles(self, **others):
        self.write_tiles(spread() | others.get("tiles", {}))
        return self


@dataclass
class Meddling(OnnxRuntimeCompiler):
    """A compiler during whose work something else happens."""

    happens: object = None

    def compile(self, job, **rest):
        self.happens()
        return super().compile(job, **rest)


class Clock(SystemClock):
    """The machine's clocks, of which one may be set."""

    set_by_ns = 0

    def wall_ns(self):
        return super().wall_ns() + self.set_by_ns


def corrupt_tile(machine):
    whole = picture(1)
    machine.with_tiles(tiles={CULPRIT: whole[: len(whole) // 2]}).fail()


def out_of_memory(machine):
    """Run with `HUNGRY_WORKER`: its workers have room for small tiles, and not for this one."""
    pixels = np.zeros((4000, 4000, 3), np.uint8)
    machine.with_tiles(tiles={CULPRIT: encoded(pixels, "png")}).fail()


def unsupported_operator(machine):
    import onnx

    network = onnx.load_from_string(tiny_network())
    network.graph.node[0].op_type = "Frobnicate"
    del network.graph.node[0].attribute[:]
    machine.write("net.onnx", network.SerializeToString())
    machine.with_tiles().fail()


def not_a_number(machine):
    """A network that divides by a length that is nought for a black tile."""
    import onnx
    from onnx import helper, numpy_helper

    network = onnx.load_from_string(tiny_network())
    del network.graph.node[-1]
    network.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    network.graph.node.extend(
        [
            helper.make_node("ReduceL2", ["mixed"], ["length"], axes=[1], keepdims=1),
            helper.make_node("Div", ["mixed", "length"], ["descriptor"]),
        ]
    )
    network.graph.node[-3].output[0] = "mixed"
    machine.write("net.onnx", network.SerializeToString())
    machine.with_tiles(tiles={CULPRIT: plain(0)}).fail()


def parity(machine):
    """A compiler that gives an engine of another network."""
    other = machine.write("other.onnx", tiny_network(drift=0.3))
    compiler = FakeCompiler(calls=Calls(), dimensions=DIMENSIONS, instead={"place": other})
    machine.with_tiles().fail(ports={"engine_compiler": compiler})


def retrieval(machine):
    machine.with_tiles().fail(ports={"index_builder": FakeIndexBuilder(calls=Calls(), wrong=True)})


def coverage_gap(machine):
    machine.with_tiles().fail(coverage=CoverageOptions(min_fraction=0.5))


def disk_full(machine):
    """The disk runs full when the index is to be written."""
    calls = Calls()

    def fill():
        with (machine.cache.parent / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_bytes(machine.cache.parent))

    calls.faults["index"] = fill
    machine.with_tiles().fail(ports={"index_builder": FakeIndexBuilder(calls=calls)})


def lock_held(machine):
    machine.with_tiles().build()
    machine.write("camera.json", b'{"focal": 36}')
    with CacheLock(machine.layout, 1.0) as lock:
        lock.describe(build=7)
        try:
            machine.provisioner().build_cache_artifacts(machine.request())
        except BuildLockHeldError:
            return
    raise AssertionError("the lock was not held")


def killed(machine, tiles=None):
    """A build in a process of its own is killed while tiles are embedded; a later one finds that out."""
    machine.with_tiles(tiles=tiles or {})
    done = subprocess.run(
        [sys.executable, __file__, str(machine.root)], cwd=ROOT, check=False, env=_environment()
    )
    assert done.returncode == -signal.SIGKILL
    machine.build()


def clock_jump(machine):
    """Between two builds the clock is set ten years ahead, and tiles are too old all at once."""
    clock = Clock()
    captured = datetime.fromtimestamp(clock.wall_ns() / 1e9, tz=timezone.utc).date()
    ages = {"captured": captured, "too_old": "fail"}
    machine.with_tiles()
    machine.provisioner(clock=clock).build_cache_artifacts(machine.request(tiles=ages))
    clock.set_by_ns = 10 * 365 * 86_400 * 10**9
    machine.write("camera.json", b'{"focal": 36}')
    machine.fail(ports={"clock": clock}, tiles=ages)


def archive_changed(machine):
    """The archive gets another picture between the selection of tiles and their embedding."""
    path = machine.root / "area.mbtiles"
    write_mbtiles(path, spread())

    def change():
        z, x, y = CULPRIT
        with sqlite3.connect(path) as database:
            changed = database.execute(
                "UPDATE tiles SET tile_data = ? WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
                (picture(4711), z, x, (1 << z) - 1 - y),
            )
            assert changed.rowcount == 1

    machine.fail(ports={"engine_compiler": Meddling(happens=change)}, source="area.mbtiles")


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


if __name__ == "__main__":
    removals = Machine(sys.argv[1])
    calls = Calls()
    calls.faults["window 0"] = kill_this_process
    removals.provisioner(descriptor_batcher=FakeBatcher(calls=calls)).build_cache_artifacts(
        removals.request()
    )
