"""How long a build will take: from steps like its own on the same machine, and from nothing else."""

import hashlib
from types import SimpleNamespace

import pytest

from pipeline.index.plan import plan_index
from pipeline.planning.duration import (
    EXECUTOR,
    IndexToWrite,
    PlannedWork,
    StepTime,
    planned_times,
    recorded_times,
    whole_time,
)
from pipeline.planning.plan import BuildPlan, Decision, EnginePlan, PackPlan
from pipeline.request.options import IndexKind, IndexOptions
from store.base.values import ArtifactRef
from store.domain.events import (
    BuildStarted,
    CellEmbedded,
    EngineCompiled,
    IndexBuilt,
    StepStarted,
    TilesCarried,
    TilesPacked,
)
from store.domain.state import RecordedEvent

HERE = {
    "host": "ground-1",
    "machine": "x86_64",
    "processor": "Some CPU",
    "processors": 8,
    EXECUTOR: "local, 8 workers",
}
COMPONENTS = {"onnx": "aa", "backend": "onnxruntime", "precision": "fp32", "target": "cpu", "version": "1"}
REF = ArtifactRef(sha256=hashlib.sha256(b"x").hexdigest(), size=1000)
MODEL = SimpleNamespace(spec=SimpleNamespace(name="place"), components=COMPONENTS, space="s")


class History:
    """Records of builds, with the seconds at which they were written."""

    def __init__(self):
        self.facts = []

    def add(self, build, seconds, event):
        number = len(self.facts) + 1
        self.facts.append(
            RecordedEvent(
                seq=number,
                chain="",
                build=build,
                wall_ns=0,
                mono_ns=round((1000 * (build or 0) + seconds) * 1e9),
                event=event,
            )
        )

    def start(self, build, **host):
        self.add(
            build,
            0,
            BuildStarted(identity="i", inputs={}, calibration=None, again=False, host=HERE | host),
        )

    def engine(self, build, ms, host=None, **components):
        event = EngineCompiled(
            model="place",
            purpose="flight",
            key="k",
            components=COMPONENTS | components,
            artifact=REF,
            signature={},
            elapsed_ms=ms,
            log="",
            host=host or {},
        )
        self.add(build, 1, event)

    def cells(self, build, embedded, seconds, *, space="s"):
        """Embed in two windows."""
        self.add(build, 2, StepStarted(kind="cells", subjects=(), key=space))
        for part, at in ((embedded // 2, seconds / 2), (embedded - embedded // 2, seconds)):
            event = CellEmbedded(
                space=space,
                zoom=12,
                cell_x=0,
                cell_y=0,
                key="",
                components={},
                engine="",
                block=REF,
                rows=part,
                embedded=part,
                copied=0,
            )
            self.add(build, 2 + at, event)

    def index(self, build, rows, ms, *, kind="flat", dimensions=64):
        event = IndexBuilt(
            key="",
            components={},
            artifact=REF,
            blocks=REF,
            kind=kind,
            metric="ip",
            dimensions=dimensions,
            rows=rows,
            elapsed_ms=ms,
        )
        self.add(build, 500, event)

    def packs(self, build, number, seconds):
        self.add(build, 600, StepStarted(kind="packs", subjects=(), key=""))
        for _ in range(number):
            self.add(build, 600, TilesPacked(zoom=1, cell_x=0, cell_y=0, key="", pack=REF, tiles=1))
        self.add(build, 600 + seconds, TilesCarried(table=REF, tiles=number, size=1000 * number))


@pytest.fixture
def history():
    return History()


def times(history, *, to_embed=0, rows=0, compiles=False, pack_bytes=0, kind="flat", here=HERE):
    """What is told, by step."""
    engine = EnginePlan(model=MODEL, decision=Decision.RUN, why="", known=None, checked=False)
    pack = PackPlan(decision=Decision.RUN, why="", tiles=1, size=pack_bytes)
    plan = BuildPlan(engines=(engine,) if compiles else (), cells=(), packs=(pack,) if pack_bytes else ())
    index = plan_index(IndexOptions(kind=IndexKind(kind)), count=rows, dimensions=64) if rows else None
    work = PlannedWork(
        inputs=SimpleNamespace(descriptors=(MODEL,)),
        plan=plan,
        to_embed={"s": to_embed},
        index=None if index is None else IndexToWrite(index, rows, 64),
    )
    return {each.step: each for each in planned_times(work, recorded_times(history.facts, here), here)}


def test_each_step_has_the_rate_of_the_last_build_here(history):
    history.start(1)
    history.engine(1, 4000)
    history.cells(1, 1000, 50)
    history.index(1, 1000, 200)
    history.packs(1, 10, 2)
    told = times(history, to_embed=3000, rows=3000, compiles=True, pack_bytes=30_000)
    assert {step: (each.seconds, each.basis) for step, each in told.items()} == {
        "compile": (4.0, "build 1"),
        "embed": (150.0, "build 1"),
        "index": (pytest.approx(0.6), "build 1"),
        "carry": (6.0, "build 1"),
    }
    assert whole_time(told.values()) == 160.6
    history.start(2)
    history.cells(2, 1000, 10)
    newer = times(history, to_embed=3000)["embed"]
    assert (newer.seconds, newer.basis) == (30.0, "build 2")


@pytest.mark.parametrize("fact", ["host", "machine", "processor", "processors"])
def test_nothing_follows_from_another_machine(history, fact):
    history.start(1, **{fact: "another"})
    history.engine(1, 4000)
    history.cells(1, 1000, 50)
    history.index(1, 1000, 200)
    history.packs(1, 10, 2)
    told = times(history, to_embed=1000, rows=1000, compiles=True, pack_bytes=1000)
    assert len(told) == 4
    assert {(each.seconds, each.basis, each.why) for each in told.values()} == {
        (None, "", "there was none like it on this machine")
    }
    assert whole_time(told.values()) is None


def test_a_build_that_does_not_say_where_it_ran_is_no_basis(history):
    history.add(1, 0, BuildStarted(identity="i", inputs={}, calibration=None, again=False, host={}))
    history.cells(1, 1000, 50)
    assert times(history, to_embed=1000, here={})["embed"].seconds is None


@pytest.mark.parametrize(
    ("recorded", "host"), [({"space": "other"}, {}), ({}, {EXECUTOR: "local, 2 workers"})]
)
def test_another_network_or_other_workers_tell_nothing_of_embedding(history, recorded, host):
    history.start(1, **host)
    history.cells(1, 1000, 50, **recorded)
    assert times(history, to_embed=1000)["embed"].seconds is None


@pytest.mark.parametrize("name", ["onnx", "backend", "precision", "target"])
def test_an_engine_of_another_network_backend_precision_or_device_tells_nothing(history, name):
    history.start(1)
    history.engine(1, 4000, **{name: "other"})
    assert times(history, compiles=True)["compile"].seconds is None
    history.engine(1, 5000, version="2")
    assert times(history, compiles=True)["compile"].seconds == 5.0


def test_an_engine_that_was_compiled_outside_of_a_build_counts_by_its_own_machine(history):
    history.engine(None, 4000, host=HERE | {"host": "elsewhere"})
    assert times(history, compiles=True)["compile"].seconds is None
    history.engine(None, 3000, host=HERE)
    assert times(history, compiles=True)["compile"] == StepTime(
        step="compile", subject="place", seconds=3.0, basis="c10 engines"
    )


def test_a_small_build_does_not_tell_how_long_a_large_one_takes(history):
    history.start(1)
    history.cells(1, 16, 2)
    told = times(history, to_embed=3000)["embed"]
    assert told.seconds is None
    assert "had 16 of 3,000" in told.why
    assert times(history, to_embed=64)["embed"].seconds == 8.0
    history.start(2)
    history.cells(2, 3000, 30)
    history.start(3)
    history.cells(3, 16, 2)
    larger = times(history, to_embed=3000)["embed"]
    assert (larger.seconds, larger.basis) == (30.0, "build 2")


def test_little_work_takes_at_least_the_start(history):
    history.start(1)
    history.cells(1, 3000, 30)
    history.start(2)
    history.cells(2, 1, 2)
    assert times(history, to_embed=10)["embed"].seconds == 2.0


def test_an_index_of_another_kind_or_length_tells_nothing(history):
    history.start(1)
    history.index(1, 1000, 200, kind="hnsw")
    history.index(1, 1000, 200, dimensions=32)
    assert times(history, rows=1000)["index"].seconds is None
    assert times(history, rows=1000, kind="hnsw")["index"].seconds == 0.2


def test_a_build_with_nothing_to_do_takes_no_time(history):
    assert times(history) == {}
    assert whole_time(()) == 0.0
