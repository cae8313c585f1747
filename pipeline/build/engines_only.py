"""Engines alone: compile every network of a request for its device, beside whatever else runs.

No build lock is taken. A network is compiled and checked outside of the cache; only then, with `artifacts/.lock`
held shared so that no collection comes between, its engine is stored and recorded together with its check. The
events belong to no build and carry facts about the host. The next build takes the engines up as its own. Where one is
for another device, nothing stands in for it here: only a build embeds tiles.

Somebody else may have compiled the same network meanwhile. Theirs stands then, since a running build may have taken
it already, and engines are not reproducible.
"""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline.build.failure_record import failure_of
from pipeline.build.report import Failure
from pipeline.engines.models.model import Model
from pipeline.engines.models.network import located
from pipeline.engines.port import EngineCompiler
from pipeline.errors import CheckError, CompileError
from pipeline.planning.plan import has_passed_here
from pipeline.progress import Progress
from pipeline.stages.checks import Verdict, check_engine
from pipeline.stages.compile import engine_bytes, engine_event, learnt
from pipeline.stages.compile_progress import CompileProgress
from store.base.canonical_json import Document
from store.base.clock import Clock
from store.base.values import ArtifactRef
from store.cache.optimistic_append import Beside, open_beside
from store.cache.view import look
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.attachments import TIMING_CACHE
from store.domain.events import CheckFailed, EngineCompiled, Event, Repaired
from store.domain.state import State


class EngineOutcome(StrEnum):
    """How it ended for one network."""

    COMPILED = "compiled"
    REUSED = "reused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One network: its engine's digest and size in bytes, if there is one, and how long it took in seconds."""

    model: str
    outcome: EngineOutcome
    artifact: ArtifactRef | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginesReport:
    """All networks of a request, by name; `error` is the first failure."""

    engines: tuple[EngineReport, ...]
    error: Failure | None = None

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "engines": [
                {
                    "model": each.model,
                    "outcome": str(each.outcome),
                    "sha256": each.artifact.sha256 if each.artifact else None,
                    "bytes": each.artifact.size if each.artifact else None,
                    "seconds": round(each.seconds, 3),
                }
                for each in self.engines
            ],
            "error": self.error.to_document() if self.error else None,
        }


@dataclass(slots=True, kw_only=True)
class EngineRun:
    """What compiling outside of a build needs.

    Attributes:
        layout: Where the cache is; it is made if there is none.
        clock: Where times come from.
        host: Facts about this machine, recorded with each engine.
        compiler: The backend.
        progress: Told how the work moves on.
        allow_unknown_filesystem: Whether a local file system that nobody tried may hold the cache.
    """

    layout: Layout
    clock: Clock
    host: Document
    compiler: EngineCompiler
    progress: Progress
    allow_unknown_filesystem: bool = False

    def compile_all(self, models: tuple[Model, ...]) -> EnginesReport:
        """Make sure that every network has a checked engine in the cache; one that fails keeps none back.

        Raises:
            StoreError, JournalError: The cache cannot be used.
        """
        reports: list[EngineReport] = []
        first: Failure | None = None
        for model in models:
            began = monotonic()
            try:
                report = self._one(model)
            except (CompileError, CheckError) as error:
                report = _report(model, EngineOutcome.FAILED, None)
                first = first or failure_of(error, "engine", model.spec.name)
            reports.append(replace(report, seconds=monotonic() - began))
        return EnginesReport(engines=tuple(reports), error=first)

    def absent(self, models: tuple[Model, ...]) -> tuple[Model, ...]:
        """Return the networks that have no whole engine in the cache, or all if there is no cache; writes nothing."""
        if not self.layout.exists():
            return models
        engines, artifacts = look(self.layout).state.memo.engines, Artifacts(self.layout)
        return tuple(
            model
            for model in models
            if (known := engines.get(model.key)) is None or not artifacts.present(known.artifact)
        )

    def _one(self, model: Model) -> EngineReport:
        with self._beside() as beside:
            before = beside.state.memo.engines.get(model.key)
            whole = before is not None and beside.artifacts.damage(before.artifact) is None
            if before is not None and whole:
                if has_passed_here(beside.state, model, before):
                    return _report(model, EngineOutcome.REUSED, before.artifact)
                return self._check_known(beside, model, before)
            timing_cache = learnt(beside.state, beside.artifacts, model.components)
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            return self._compile(model, before, Path(folder), timing_cache)

    def _check_known(self, beside: Beside, model: Model, known: EngineCompiled) -> EngineReport:
        """Check an engine whose maker did not come to it."""
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            verdict = self._verdict(model, known, beside.artifacts.read(known.artifact), Path(folder))

        def decide(state: State) -> list[Event]:
            return [verdict] if state.memo.engines.get(model.key) == known else []

        beside.append(decide)
        _require_passed(model, verdict)
        return _report(model, EngineOutcome.REUSED, known.artifact)

    def _compile(
        self, model: Model, before: EngineCompiled | None, scratch: Path, timing_cache: bytes | None
    ) -> EngineReport:
        began = monotonic()
        told = CompileProgress.started(self.progress, model.spec.name)
        job = replace(located(model, scratch), timing_cache=timing_cache)
        compiled = self.compiler.compile(job, scratch=scratch, on_progress=told)
        self.progress.finish()
        data, learning = engine_bytes(model, compiled), compiled.timing_cache
        ref = _ref(data)
        event = engine_event(
            model,
            compiled,
            ref,
            round((monotonic() - began) * 1000),
            belonging={} if learning is None else {TIMING_CACHE: _ref(learning)},
            host=self.host,
        )
        verdict = self._verdict(model, event, data, scratch)
        with self._beside() as beside, beside.artifacts.sharing():
            for content in (data, learning):
                if content is not None:
                    beside.artifacts.put(content)
            repairs = [
                Repaired(
                    subject="artifact", sha256=digest, action="replaced by an engine run", quarantine=where
                )
                for digest, where in beside.artifacts.replaced
            ]

            def decide(state: State) -> list[Event]:
                return (
                    [*repairs, event, verdict] if state.memo.engines.get(model.key) == before else [*repairs]
                )

            beside.append(decide)
            stands = beside.state.memo.engines.get(model.key)
        if stands is not None and stands != event:
            return _report(model, EngineOutcome.REUSED, stands.artifact)
        _require_passed(model, verdict)
        return _report(model, EngineOutcome.COMPILED, ref)

    def _verdict(self, model: Model, event: EngineCompiled, data: bytes, scratch: Path) -> Verdict:
        with self._told(f"check {model.spec.name}"):
            return check_engine(model, event, data, scratch=scratch)

    def _beside(self) -> AbstractContextManager[Beside]:
        # Opened anew for each append: compiling takes up to an hour, and a journal may be replaced meanwhile.
        return open_beside(
            self.layout,
            clock=self.clock,
            create=True,
            allow_unknown_filesystem=self.allow_unknown_filesystem,
        )

    @contextmanager
    def _told(self, step: str) -> Iterator[None]:
        self.progress.start(step, total=None, unit="steps")
        yield
        self.progress.finish()


def _ref(data: bytes) -> ArtifactRef:
    return ArtifactRef(sha256=sha256(data).hexdigest(), size=len(data))


def _report(model: Model, outcome: EngineOutcome, artifact: ArtifactRef | None) -> EngineReport:
    return EngineReport(model=model.spec.name, outcome=outcome, artifact=artifact, seconds=0.0)


def _require_passed(model: Model, verdict: Verdict) -> None:
    if isinstance(verdict, CheckFailed):
        raise CheckError(
            f"expected engine {model.spec.name} to agree with its network, found {verdict.why}",
            hint="compile at another precision, or set engine.batch = 1",
            subject=model.spec.name,
        )
