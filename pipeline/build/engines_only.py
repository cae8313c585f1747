"""Engines alone: compile every network of a request for its device, beside whatever else runs.

No build lock is taken. A network is compiled and checked outside of the cache; only then, with `artifacts/.lock`
held shared so that no collection comes between, its engine is stored and recorded together with its check. The
events belong to no build and carry facts about the host. The next build takes the engines up as its own. Where one is
for another device, nothing stands in for it here: only a build embeds tiles.

Somebody else may have compiled the same network meanwhile. Theirs stands then, since a running build may have taken
it already, and engines are not reproducible.
"""

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline.build.failure_record import failure_of
from pipeline.build.report import Failure
from pipeline.engines.models.model import Model
from pipeline.engines.port import EngineCompiler
from pipeline.errors import CheckError, CompileError
from pipeline.planning.plan import has_passed_here
from pipeline.ports import Ports
from pipeline.stages.checks import CheckResult, check_engine, require_passed
from pipeline.stages.compile import compile_network, last_timing_cache
from pipeline.stages.compile_progress import CompileProgress
from store.base.values import ArtifactRef
from store.cache.optimistic_append import OptimisticAppender, open_for_append
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import EngineCompiled, Event, Repaired
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
        compiler: The backend.
        ports: What else does the work.
    """

    layout: Layout
    compiler: EngineCompiler
    ports: Ports

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

    def models_without_engine(self, models: tuple[Model, ...]) -> tuple[Model, ...]:
        """Return the networks that have no whole engine in the cache, or all if there is no cache; writes nothing."""
        if not self.layout.exists():
            return models
        engines, artifacts = open_view(self.layout).state.step_cache.engines, Artifacts(self.layout)
        return tuple(
            model
            for model in models
            if (known := engines.get(model.key)) is None or not artifacts.present(known.artifact)
        )

    def _one(self, model: Model) -> EngineReport:
        with self._beside() as beside:
            before = beside.state.step_cache.engines.get(model.key)
            whole = before is not None and beside.artifacts.damage(before.artifact) is None
            if before is not None and whole:
                if has_passed_here(beside.state, model, before):
                    return _report(model, EngineOutcome.REUSED, before.artifact)
                return self._check_known(beside, model, before)
            timing_cache = last_timing_cache(beside.state, beside.artifacts, model.components)
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            return self._compile(model, before, Path(folder), timing_cache)

    def _check_known(self, beside: OptimisticAppender, model: Model, known: EngineCompiled) -> EngineReport:
        """Check an engine whose maker did not come to it."""
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            verdict = self._verdict(model, known, beside.artifacts.read(known.artifact), Path(folder))

        def decide(state: State) -> list[Event]:
            return [verdict] if state.step_cache.engines.get(model.key) == known else []

        beside.append(decide)
        require_passed(model, verdict)
        return _report(model, EngineOutcome.REUSED, known.artifact)

    def _compile(
        self, model: Model, before: EngineCompiled | None, scratch: Path, timing_cache: bytes | None
    ) -> EngineReport:
        told = CompileProgress.started(self.ports.progress, model.spec.name)
        made = compile_network(
            model,
            self.compiler,
            scratch=scratch,
            timing_cache=timing_cache,
            host=self.ports.host,
            on_progress=told,
        )
        self.ports.progress.finish()
        event = made.event
        verdict = self._verdict(model, event, made.engine, scratch)
        with self._beside() as beside, beside.artifacts.shared_lock():
            for data in made.contents:
                beside.artifacts.put(data)
            repairs = [
                Repaired(
                    subject="artifact", sha256=digest, action="replaced by an engine run", quarantine=where
                )
                for digest, where in beside.artifacts.replaced
            ]

            def decide(state: State) -> list[Event]:
                return (
                    [*repairs, event, verdict]
                    if state.step_cache.engines.get(model.key) == before
                    else [*repairs]
                )

            beside.append(decide)
            stands = beside.state.step_cache.engines.get(model.key)
        if stands is not None and stands != event:
            return _report(model, EngineOutcome.REUSED, stands.artifact)
        require_passed(model, verdict)
        return _report(model, EngineOutcome.COMPILED, event.artifact)

    def _verdict(self, model: Model, event: EngineCompiled, data: bytes, scratch: Path) -> CheckResult:
        self.ports.progress.start(f"check {model.spec.name}", total=None, unit="steps")
        verdict = check_engine(model, event, data, scratch=scratch)
        self.ports.progress.finish()
        return verdict

    def _beside(self) -> AbstractContextManager[OptimisticAppender]:
        # Opened anew for each append: compiling takes up to an hour, and a journal may be replaced meanwhile.
        return open_for_append(self.layout, clock=self.ports.clock, create=True)


def _report(model: Model, outcome: EngineOutcome, artifact: ArtifactRef | None) -> EngineReport:
    return EngineReport(model=model.spec.name, outcome=outcome, artifact=artifact, seconds=0.0)
