"""Compile every network of a request for its device, without building a cache (`c10 engines`).

No build lock is taken. A network is compiled and checked outside of the cache; then its engine and check are
stored and recorded together, with `artifacts/.lock` held shared so that no garbage collection runs in
between. The events belong to no build and carry facts about the host. The next build reuses the engines. A
stand-in is not compiled here, since only a build embeds tiles.

If another process has recorded an engine of the same network meanwhile, that engine stays: a running build
may use it already, and compilers do not reproduce their bytes.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from pipeline.stages.checks import CheckResult
from pipeline.stages.engines.check_engine import check_engine, require_passed
from pipeline.stages.engines.compile import compile_network, last_timing_cache
from pipeline.stages.engines.compile_progress import CompileProgress
from store.backports import StrEnum
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.optimistic_append import OptimisticAppender, open_for_append
from store.cache.own_records import OwnRecords
from store.cache.projections import find_unvouched_results
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import EngineCompiled, Event
from store.domain.maintenance_events import Repaired
from store.domain.state import State
from store.policy.vouching import withdraw
from store.trust.signatures import TrustedKey


class EngineOutcome(StrEnum):
    """The result for one network."""

    COMPILED = "compiled"
    REUSED = "reused"
    FAILED = "failed"


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One network: its engine, if there is one, and the time that it took in seconds."""

    model: str
    outcome: EngineOutcome
    artifact: ArtifactRef | None
    seconds: float


@valueclass(frozen=True, slots=True, kw_only=True)
class EnginesReport:
    """All networks of a request; `error` is the first failure."""

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


_Ensured = tuple[EngineOutcome, ArtifactRef | None]


@dataclass(slots=True, kw_only=True)
class EngineRun:
    """Compiles engines outside of a build; the cache is created if there is none.

    With `keys`, engines and timing caches that none of them vouches for are not used; see `store.policy.vouching`.
    `own_records` remembers that this machine appended the engines of this run with its key.
    """

    layout: Layout
    compiler: EngineCompiler
    ports: Ports
    keys: tuple[TrustedKey, ...] = ()
    own_records: OwnRecords = field(default_factory=lambda: OwnRecords(None, None))

    def compile_all(self, models: tuple[Model, ...]) -> EnginesReport:
        """Give every network a checked engine in the cache; the others go on if one fails.

        Raises:
            StoreError, JournalError: The cache cannot be used.
        """
        reports: list[EngineReport] = []
        first: Failure | None = None
        for model in models:
            began, name = monotonic(), model.spec.name
            try:
                outcome, artifact = self._ensure_engine(model)
            except (CompileError, CheckError) as error:
                outcome, artifact = EngineOutcome.FAILED, None
                first = first or failure_of(error, "engine", name)
            seconds = monotonic() - began
            reports.append(EngineReport(model=name, outcome=outcome, artifact=artifact, seconds=seconds))
        return EnginesReport(engines=tuple(reports), error=first)

    def models_without_engine(self, models: tuple[Model, ...]) -> tuple[Model, ...]:
        """Return the networks without an engine in the cache; writes nothing."""
        if not self.layout.exists():
            return models
        engines, artifacts = open_view(self.layout).state.step_cache.engines, Artifacts(self.layout)
        return tuple(
            model
            for model in models
            if (known := engines.get(model.key)) is None or not artifacts.present(known.artifact)
        )

    def _ensure_engine(self, model: Model) -> _Ensured:
        with self._open_appender() as appender:
            before = appender.state.step_cache.engines.get(model.key)
            usable = self._usable_state(appender)
            known = usable.step_cache.engines.get(model.key)
            if known is not None and appender.artifacts.damage(known.artifact) is None:
                if model.fitted:
                    # The file was lost, and was made again to the same bytes: the key names them.
                    self._store_again(appender, model.fitted)
                if has_passed_here(usable, model, known):
                    return EngineOutcome.REUSED, known.artifact
                return self._check_known(appender, model, known)
            timing_cache = last_timing_cache(usable, appender.artifacts, model.components)
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            return self._compile(model, before, Path(folder), timing_cache)

    def _usable_state(self, appender: OptimisticAppender) -> State:
        """Return the state without results that no key vouches for: an engine is native code."""
        if not self.keys:
            return appender.state
        state = appender.state.copy()
        event_store = appender.event_store
        own = self.own_records.ranges(state.cache_id, event_store.chain_at)
        withdraw(
            state, find_unvouched_results(state, event_store.journal.entries(), self.keys, own_records=own)
        )
        return state

    def _store_again(self, appender: OptimisticAppender, data: bytes) -> None:
        with appender.artifacts.shared_lock():
            appender.artifacts.put(data)
            if repairs := _repairs(appender.artifacts):
                appender.append(lambda _: repairs)

    def _check_known(self, appender: OptimisticAppender, model: Model, known: EngineCompiled) -> _Ensured:
        """Check an engine that was stored but not checked."""
        with tempfile.TemporaryDirectory(prefix="c10-") as folder:
            result = self._check(model, known, appender.artifacts.read(known.artifact), Path(folder))

        def decide(state: State) -> list[Event]:
            return [result] if state.step_cache.engines.get(model.key) == known else []

        appender.append(decide)
        require_passed(model, result)
        return EngineOutcome.REUSED, known.artifact

    def _compile(
        self, model: Model, before: EngineCompiled | None, scratch: Path, timing_cache: bytes | None
    ) -> _Ensured:
        made = compile_network(
            model,
            self.compiler,
            scratch=scratch,
            timing_cache=timing_cache,
            host=self.ports.host,
            on_progress=CompileProgress.started(self.ports.progress, model.spec.name),
        )
        self.ports.progress.finish()
        event = made.event
        result = self._check(model, event, made.engine, scratch)
        with self._open_appender() as appender, appender.artifacts.shared_lock():
            for data in made.contents:
                appender.artifacts.put(data)
            repairs = _repairs(appender.artifacts)

            def decide(state: State) -> list[Event]:
                unchanged = state.step_cache.engines.get(model.key) == before
                return [*repairs, event, result] if unchanged else repairs

            appender.append(decide)
            recorded = appender.state.step_cache.engines.get(model.key)
        if recorded is not None and recorded != event:
            return EngineOutcome.REUSED, recorded.artifact
        require_passed(model, result)
        return EngineOutcome.COMPILED, event.artifact

    def _check(self, model: Model, event: EngineCompiled, data: bytes, scratch: Path) -> CheckResult:
        self.ports.progress.start(f"check {model.spec.name}", total=None, unit="steps")
        result = check_engine(model, event, data, scratch=scratch)
        self.ports.progress.finish()
        return result

    @contextmanager
    def _open_appender(self) -> Iterator[OptimisticAppender]:
        # Opened for each append: compiling takes up to an hour, and the journal may be replaced meanwhile.
        with open_for_append(self.layout, clock=self.ports.clock, create=True) as appender:
            event_store = appender.event_store
            event_store.before_append = self.own_records.note(event_store.state.cache_id)
            yield appender


def _repairs(artifacts: Artifacts) -> list[Event]:
    """Return the records of damaged artifacts that were replaced."""
    return [
        Repaired(subject="artifact", sha256=digest, action="replaced by an engine run", quarantine=where)
        for digest, where in artifacts.replaced
    ]
