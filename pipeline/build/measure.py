"""Measure for about a second how fast a network embeds tiles of a request on this machine.

The workers of a build embed its first windows, until a second has passed since the first answer; what they give is
dropped. A network without an engine is compiled first, but only where that takes no longer than a few seconds.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np

from pipeline.config import C10ProvisionerConfig
from pipeline.embed.batcher import LocalDescriptorBatcher, Retry
from pipeline.embed.cells import Cell, plan_windows
from pipeline.embed.worker_messages import EngineSpec
from pipeline.engines.models.model import Model
from pipeline.engines.models.network import job_with_file
from pipeline.engines.port import EngineCompiler
from pipeline.errors import PipelineError
from pipeline.index.faiss_builder import FaissIndexBuilder, import_faiss
from pipeline.planning.duration import (
    COMPILE,
    EMBED,
    EXECUTOR,
    INDEX,
    MEASURED,
    STAND_IN,
    IndexToWrite,
    PlannedWork,
    StepTime,
)
from pipeline.planning.plan import Decision
from pipeline.ports import Ports
from pipeline.request.options import IndexKind
from pipeline.stages.embed import engine_spec
from pipeline.tiles.chunks import ShownTiles
from store.base.valueclass import valueclass
from store.disk.layout import Layout
from store.domain.events import EngineCompiled
from store.errors import TranslateOSErrors
from store.formats.descriptor_block import Block
from store.runtime.backends.registry import DEFAULT_BACKEND

MEASURE_S: Final = 1.0
LIMIT_S: Final = 3.0
"""Longest time for the compile, and for the first answer of a worker."""

_LARGEST: Final = 256 << 20
"""Bytes of a network that loads and compiles in a second or two."""

_WORKERS: Final = 8
_WINDOW_UNITS: Final = 256
_INDEX_ROWS: Final = 512


@valueclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measures what no earlier build here tells."""

    ports: Ports
    config: C10ProvisionerConfig

    def __call__(self, times: Sequence[StepTime], layout: Layout, work: PlannedWork) -> Iterator[StepTime]:
        """Yield the times of steps, with what was measured where they were not known."""
        unknown = {(each.step, each.subject) for each in times if each.seconds is None}
        progress = self.ports.progress
        problems: dict[tuple[str, str], str] = {}
        found: dict[tuple[str, str], float] = {}
        for model in work.inputs.descriptors:
            name = model.spec.name
            if (EMBED, name) not in unknown:
                continue
            progress.start(f"measure {name}", total=None, unit="steps")
            try:
                measured = self._measure(layout, work, model)
            except NotMeasurableError as error:
                problems[EMBED, name] = str(error)
            else:
                found[EMBED, name] = measured.seconds(work.to_embed[model.space])
                if measured.compile_s is not None:
                    found[COMPILE if model.stand_in is None else STAND_IN, name] = measured.compile_s
            progress.finish()
        if (INDEX, "") in unknown and work.index is not None:
            try:
                found[INDEX, ""] = measure_index(work.index, self.ports.index)
            except NotMeasurableError as error:
                problems[INDEX, ""] = str(error)
        for each in times:
            key = each.step, each.subject
            if each.seconds is None and key in found:
                yield replace(each, seconds=found[key], basis=MEASURED, why="")
            else:
                yield replace(each, why="; ".join(filter(None, (each.why, problems.get(key)))))

    def _measure(self, layout: Layout, work: PlannedWork, model: Model) -> "Measured":
        if self.config.executor != "local":
            raise NotMeasurableError("nothing is measured on a cluster")
        plan, request = work.plan, work.inputs.request
        reused = (each for each in (*plan.engines, *plan.stand_ins) if each.decision is Decision.REUSE)
        return measure_embedding(
            model.embedder,
            [each.cell for each in plan.stale if each.network.spec.name == model.spec.name],
            work.inputs.selection.shown_tiles(),
            layout=layout,
            known={each.model.key: each.known for each in reused}.get(model.embedder.key),
            compiler=self.ports.compiler_for(request) if model.stand_in is None else self.ports.stand_in,
            workers=self.config.worker_count,
        )


@valueclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan has to know of this machine.

    Attributes:
        host: Facts of it, as builds record them.
        measurement: What measures how fast it is, if wanted.
        reserve_bytes: Disk space that a new cache sets aside.
    """

    host: Mapping[str, object]
    measurement: Measurement | None
    reserve_bytes: int

    @classmethod
    def here(cls, ports: Ports, config: C10ProvisionerConfig, *, measures: bool) -> "Machine":
        """Return this machine with its settings."""
        return cls(
            host={**ports.host, EXECUTOR: config.embeds_with},
            measurement=Measurement(ports=ports, config=config) if measures else None,
            reserve_bytes=config.reserve_bytes,
        )


class NotMeasurableError(Exception):
    """It would take too long; the text says why, for people."""


class _EnoughError(Exception):
    """A second has passed."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        compile_s: How long the network was compiled; None if it had an engine.
        start_s: From the start of the workers to the first units.
        rate: Units per second after that, of all workers of a build together.
    """

    compile_s: float | None
    start_s: float
    rate: float

    def seconds(self, units: int) -> float:
        """Return how long so many units take."""
        return self.start_s + units / self.rate


@dataclass(slots=True)
class Meter:
    """Counts units as they are done, and raises `_EnoughError` a second after the first ones.

    Attributes:
        clock: A monotonic clock, seconds.
    """

    clock: Callable[[], float] = monotonic
    began: float = 0.0
    first: float | None = None
    last: float = 0.0
    at_first: int = 0
    done: int = 0

    def start(self) -> None:
        """Begin now."""
        self.began = self.clock()

    def advance(self, amount: int) -> None:
        """Count more units.

        Raises:
            _EnoughError: A second has passed since the first ones.
        """
        self.last = self.clock()
        self.done += amount
        if self.first is None:
            self.first, self.at_first = self.last, self.done
        elif self.last - self.first >= MEASURE_S:
            raise _EnoughError

    def result(self, compile_s: float | None, scale: float) -> Measured:
        """Return what was measured, for a build with `scale` times as many workers.

        Raises:
            NotMeasurableError: Nothing was done.
        """
        if self.first is None:
            raise NotMeasurableError("nothing was embedded in the time for it")
        if self.done == self.at_first:
            # All in one go: what was done is no more than what is to do.
            return Measured(
                compile_s=compile_s, start_s=0.0, rate=self.done / max(self.last - self.began, 1e-6)
            )
        rate = (self.done - self.at_first) / max(self.last - self.first, 1e-6)
        start = max(0.0, self.first - self.began - self.at_first / rate)
        return Measured(compile_s=compile_s, start_s=start, rate=rate * scale)


def measure_embedding(
    model: Model,
    cells: Iterable[Cell],
    shown: ShownTiles,
    *,
    layout: Layout,
    known: EngineCompiled | None,
    compiler: EngineCompiler,
    workers: int,
) -> Measured:
    """Measure how fast a network embeds.

    Args:
        model: The network that embeds here.
        cells: Cells to embed; the first ones are used.
        shown: Finds the tiles that they show.
        layout: The cache, which need not exist.
        known: The network's engine, if it has one.
        compiler: Compiles it for this machine, if it has none.
        workers: Processes that a build uses; at most eight are started.

    Raises:
        NotMeasurableError: It would take too long, or does not work.
    """
    if model.components["backend"] != DEFAULT_BACKEND:
        raise NotMeasurableError(f"engines of {model.components['backend']} are not tried out for a plan")
    if model.size > _LARGEST:
        raise NotMeasurableError(f"a network of {model.size >> 20} MiB is not tried out for a plan")
    with tempfile.TemporaryDirectory(prefix="c10-") as folder:
        if known is not None:
            engine, compile_s = engine_spec(layout.artifact(known.artifact.sha256), known), None
        else:
            engine, compile_s = _compiled(model, compiler, Path(folder))
        meter = _embed(model, cells, shown, engine, min(workers, _WORKERS))
    return meter.result(compile_s, workers / min(workers, _WORKERS))


def _compiled(model: Model, compiler: EngineCompiler, scratch: Path) -> tuple[EngineSpec, float]:
    began = monotonic()
    job = replace(job_with_file(model, scratch), timeout_s=LIMIT_S)
    try:
        made = compiler.compile(job, scratch=scratch)
    except PipelineError as error:
        raise NotMeasurableError(
            f"the network was not compiled in {LIMIT_S:.0f} s: {error.message}"
        ) from error
    with TranslateOSErrors(f"engine of {model.spec.name}"):
        digest = hashlib.sha256(made.path.read_bytes()).hexdigest()
    spec = EngineSpec(
        path=str(made.path),
        sha256=digest,
        backend=model.components["backend"],
        version=model.components["version"],
        input=made.signature.input,
        output=made.signature.output,
        batch=model.components["batch"],
        dimensions=made.signature.dimensions,
        precision=model.components["precision"],
    )
    return spec, monotonic() - began


def _embed(model: Model, cells: Iterable[Cell], shown: ShownTiles, engine: EngineSpec, workers: int) -> Meter:
    def give_up(retry: Retry) -> None:
        raise NotMeasurableError(f"a worker failed: {retry.why}")

    if model.preprocessing is None:
        raise AssertionError("a descriptor network has an image contract")
    meter = Meter()
    results = LocalDescriptorBatcher(workers=workers, timeout_s=LIMIT_S).embed(
        plan_windows(cells, shown=shown, shared={}, size=_WINDOW_UNITS),
        engine=engine,
        preprocessing=model.preprocessing,
        on_progress=meter.advance,
        on_retry=give_up,
    )
    meter.start()
    with closing(results), suppress(_EnoughError):
        try:
            for _ in results:
                pass
        except PipelineError as error:
            raise NotMeasurableError(f"it could not be embedded: {error.message}") from error
    return meter


def measure_index(index: IndexToWrite, builder: FaissIndexBuilder) -> float:
    """Return how many seconds an index takes, from one of a few random rows that is written to memory.

    Raises:
        NotMeasurableError: Its kind has to be trained, or it does not work.
    """
    if index.plan.kind is IndexKind.IVF_PQ:
        raise NotMeasurableError("an index that is trained takes too long to try out")
    rows = min(index.rows, _INDEX_ROWS)
    vectors = np.random.default_rng(0).standard_normal((rows, index.dimensions)).astype(np.float32)
    block = Block(
        zoom=0,
        cell_x=0,
        cell_y=0,
        dimensions=index.dimensions,
        ids=np.arange(rows, dtype=np.uint64),
        digests=np.zeros((rows, 32), np.uint8),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        texture=np.ones(rows, np.float32),
    )
    file = os.memfd_create("c10-measured")
    try:
        import_faiss("an estimate")
        began = monotonic()
        builder.build([block], rows, index.dimensions, index.plan, fd_path=f"/proc/self/fd/{file}")
        return (monotonic() - began) * index.rows / rows
    except PipelineError as error:
        raise NotMeasurableError(f"no index could be built: {error.message}") from error
    finally:
        os.close(file)
