"""The provisioner: one call from a request to a committed generation, or to nothing changed.

Everything the request names is read first, without touching the cache. Under the build lock a warm run is
recognised from the journal and the file system alone and writes nothing. Otherwise the build is journaled from
its first step; whatever goes wrong is recorded with its step, subject and traceback, and the head does not
move. This module only walks the plan; the stages do the work.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from journal import JournalError
from pipeline.compiling import prepare_engines
from pipeline.config import C10ProvisionerConfig
from pipeline.descriptors import DescriptorBatcher
from pipeline.embedding import embed_cells
from pipeline.engines.port import EngineCompiler
from pipeline.errors import PipelineError, RequestError
from pipeline.failures import failed_event, failure_of
from pipeline.gathering import gather
from pipeline.index import IndexBuilder
from pipeline.indexing import build_index, survey, walk_coverage
from pipeline.inputs import Inputs
from pipeline.locking import Lock
from pipeline.plan import BuildPlan, needed
from pipeline.plan import plan as make_plan
from pipeline.preview import preview
from pipeline.progress import Progress
from pipeline.report import BuildOutcome, BuildReport, Failure, PlanReport, RollbackReport
from pipeline.request import BuildRequest
from pipeline.run import Ports, Run
from pipeline.tiles.tile import TileMetadataStore
from pipeline.warm import Warm, look_warm
from store import manifest, rollback
from store.coverage import missing, sound
from store.errors import ErrorKind, RequestRefusedError, UnprojectedError
from store.events import BuildPlanned, BuildRefused, BuildStarted, TilesSelected
from store.facts import Clock
from store.identity import descriptor_id
from store.layout import Layout
from store.state import Generation, State
from store.tables import encode_tiles
from store.transaction import Store
from store.view import look

_MIB = 1 << 20


@dataclass(slots=True, kw_only=True)
class CacheProvisioner:
    """Builds flight caches in one folder. Made by `build_cache_provisioner`."""

    config: C10ProvisionerConfig
    layout: Layout
    clock: Clock
    lock: Lock
    host: Mapping[str, object]
    progress: Progress
    batcher: DescriptorBatcher
    index_builder: IndexBuilder
    compiler_for: Callable[[BuildRequest], EngineCompiler]
    source_for: Callable[[BuildRequest], TileMetadataStore]
    precision: str | None

    def build_cache_artifacts(self, request: BuildRequest, *, again: bool = False) -> BuildReport:
        """Build the flight cache that `request` describes, or find that it is there already.

        Args:
            request: What is wanted.
            again: Build even if this identity was rolled back from.

        Returns:
            A report; a step that fails is reported, not raised, and recorded in the journal.

        Raises:
            BuildLockHeldError: Another build holds the lock.
            RequestError: The request names something that does not exist or makes no sense.
            StoreError, JournalError: The cache cannot be used at all.
        """
        began = monotonic()
        try:
            inputs: Inputs | PipelineError = self._gather(request)
        except RequestError:
            raise
        except PipelineError as error:
            inputs = error
        with self.lock:
            report = self._under_lock(request, inputs, again=again)
        return replace(report, seconds=monotonic() - began)

    def plan(self, request: BuildRequest) -> PlanReport:
        """Tell what a build would do; writes nothing and takes no lock.

        Raises:
            PipelineError: Something the request names is missing, damaged or unusable.
            StoreError, JournalError: The cache cannot be read.
        """
        return preview(self.layout, self._gather(request))

    def rollback(self, to: int | None = None, why: str = "") -> RollbackReport:
        """Append a generation that shows an earlier build.

        Args:
            to: A generation whose origin to show; by default the build before the one shown.
            why: For the record.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no such generation, or nothing before the one shown.
            StoreError: The target's artifacts are not all there; nothing was changed.
        """
        if not self.layout.exists():
            look(self.layout)
        with self.lock, self._open(create=False) as store:
            before = _require_head(store.state)
            planned = rollback.plan(store.state, to=to, why=why)
            after = before
            if planned is not None:
                self._require_whole(store, planned.target)
                after = store.roll_back(planned)
            return RollbackReport(
                generation=after.number,
                origin=after.origin,
                previous_origin=before.origin,
                changed=planned is not None,
                manifest_sha256=after.manifest_sha256,
                body_sha256=after.body_sha256,
            )

    def _gather(self, request: BuildRequest) -> Inputs:
        today = datetime.fromtimestamp(self.clock.wall_ns() / 1e9, tz=UTC).date()
        return gather(
            request,
            source=self.source_for(request),
            compiler=self.compiler_for(request),
            index=self.index_builder,
            today=today,
            precision=self.precision,
        )

    def _under_lock(
        self, request: BuildRequest, inputs: Inputs | PipelineError, *, again: bool
    ) -> BuildReport:
        if isinstance(inputs, Inputs):
            warm = look_warm(self.layout, inputs.identity)
            if warm is not None:
                return self._reused(warm, inputs)
        with self._open(create=True) as store:
            number = store.state.next_build
            self.lock.describe(build=number)
            if isinstance(inputs, PipelineError):
                return self._failed_early(store, number, request, inputs)
            warm = look_warm(self.layout, inputs.identity, store=store)
            if warm is not None:
                return replace(self._reused(warm, inputs), writes=store.writes)
            if inputs.identity in store.state.undone and not again:
                return self._refused(store, number, inputs)
            return self._build(store, number, inputs, again=again)

    def _open(self, *, create: bool) -> AbstractContextManager[Store]:
        return Store.open(
            self.layout,
            clock=self.clock,
            create=create,
            reserve_bytes=self.config.reserve_mb * _MIB,
            host=self.host,
            allow_unknown_filesystem=self.config.allow_unknown_filesystem,
        )

    def _reused(self, warm: Warm, inputs: Inputs) -> BuildReport:
        return BuildReport(
            outcome=BuildOutcome.REUSED,
            build=warm.head.origin,
            generation=warm.head.number,
            identity=inputs.identity,
            manifest_sha256=warm.head.manifest_sha256,
            body_sha256=warm.head.body_sha256,
            tiles=len(inputs.selection.tiles),
            steps_reused=warm.steps,
            files_checked=warm.files,
            warnings=inputs.warnings,
        )

    def _failed_early(
        self, store: Store, number: int, request: BuildRequest, error: PipelineError
    ) -> BuildReport:
        """Record a build whose inputs could not be read."""
        started = BuildStarted(
            identity=None,
            inputs={"flight_id": request.flight_id, "source": request.tiles.source},
            calibration=None,
            again=False,
            host=self.host,
        )
        failure = failure_of(error, error.step or "inputs", error.subject or "")
        ended = failed_event(failure, error, started.inputs)
        store.append_at_any_cost(ended, build=number, started=started)
        return BuildReport(
            outcome=BuildOutcome.FAILED, build=number, writes=store.writes, error=failure, cause=error
        )

    def _refused(self, store: Store, number: int, inputs: Inputs) -> BuildReport:
        origin = store.state.undone[inputs.identity]
        message = f"expected another request than the one of build {origin}, which was rolled back from"
        store.append(BuildRefused(identity=inputs.identity, reason=message), build=number)
        error = RequestRefusedError(
            ErrorKind.ROLLED_BACK, message, hint="c10 build --again (if it is meant to come back)"
        )
        return BuildReport(
            outcome=BuildOutcome.FAILED,
            build=number,
            identity=inputs.identity,
            tiles=len(inputs.selection.tiles),
            writes=store.writes,
            error=failure_of(error, "start", ""),
            warnings=inputs.warnings,
            cause=error,
        )

    def _build(self, store: Store, number: int, inputs: Inputs, *, again: bool) -> BuildReport:
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            run = Run(
                store=store,
                inputs=inputs,
                ports=Ports(
                    compiler=self.compiler_for(inputs.request),
                    batcher=self.batcher,
                    index=self.index_builder,
                    progress=self.progress,
                ),
                number=number,
                scratch=Path(scratch),
                strict=self.config.coverage_strict,
            )
            started = self._started(inputs, again=again)
            generation, failure, cause = None, None, None
            try:
                run.append(replace(started, calibration=run.put(inputs.calibration)))
                _steps(run)
                run.enter("commit")
                generation = store.commit(number)
            except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded and reported
                failure, cause = _record(run, error, started), error
            except BaseException as error:
                _record(run, error, started)
                raise
        return BuildReport(
            outcome=BuildOutcome.FAILED if generation is None else BuildOutcome.BUILT,
            build=number,
            generation=generation.number if generation else _committed_anyway(cause),
            identity=inputs.identity,
            manifest_sha256=generation.manifest_sha256 if generation else None,
            body_sha256=generation.body_sha256 if generation else None,
            tiles=len(inputs.selection.tiles),
            engines_compiled=run.counts.compiled,
            tiles_embedded=run.counts.embedded,
            steps_reused=run.counts.reused,
            files_checked=run.counts.checked,
            writes=store.writes,
            error=failure,
            warnings=inputs.warnings,
            cause=cause,
        )

    def _started(self, inputs: Inputs, *, again: bool) -> BuildStarted:
        """The start of a build, before its calibration is stored."""
        return BuildStarted(
            identity=inputs.identity,
            inputs=inputs.document,
            calibration=None,
            again=again,
            host={**self.host, "source": inputs.request.tiles.source},
        )

    def _require_whole(self, store: Store, target: int) -> None:
        shown = next(found for found in store.state.generations.values() if found.origin == target)
        problems = missing(manifest.parse(manifest.project(store.state, shown)), store.artifacts)
        if problems:
            raise RequestRefusedError(
                ErrorKind.TARGET_DAMAGED,
                f"expected all artifacts of build {target}, found {problems[0]}"
                + (f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""),
                hint="roll back to another generation: c10 log, c10 rollback --to GENERATION",
            )


def _record(run: Run, error: BaseException, started: BuildStarted) -> Failure:
    """Record the failure of a build, and its start where not even that could be written before."""
    failure = failure_of(error, run.step, run.subject)
    try:
        run.append()
    except Exception:  # noqa: BLE001 - finished cells are kept if the journal takes them; the cause goes first
        run.forget_pending()
    event = failed_event(failure, error, {"step": run.step, "subject": failure.subject})
    try:
        run.store.append_at_any_cost(event, build=run.number, started=started)
    except JournalError as full:
        # What went wrong first is what a person must hear of; the next build marks this one as abandoned.
        run.ports.progress.say(f"the failure could not be recorded: {full.message}")
    return failure


def _steps(run: Run) -> None:
    run.enter("plan")
    plan = _plan(run)
    _select(run, plan)
    if prepare_engines(run, plan):
        plan = _plan(run)
    rows = embed_cells(run, plan)
    index = build_index(run, rows)
    geography = survey(run, rows)
    walk_coverage(run, geography, index, rows)


def _plan(run: Run) -> BuildPlan:
    state = run.store.state
    present = sound(run.store.artifacts, needed(state, run.inputs))
    run.hashed.update(present)
    return make_plan(state, run.inputs, present)


def _select(run: Run, plan: BuildPlan) -> None:
    run.enter("tiles")
    selection = run.inputs.selection
    table = encode_tiles(
        (descriptor_id(tile.z, tile.x, tile.y), tile.sha256, tile.captured) for tile in selection.tiles
    )
    selected = TilesSelected(
        digest=run.inputs.document["tiles"]["digest"],
        table=run.put(table),
        count=len(selection.tiles),
        wanted=selection.wanted,
        excluded=len(selection.excluded),
        warnings=run.inputs.warnings,
    )
    run.append(selected, BuildPlanned(steps=plan.summary()))


def _committed_anyway(cause: BaseException | None) -> int | None:
    """The generation of a commit whose files could not be written: the journal holds it, readers do not see it."""
    return cause.generation if isinstance(cause, UnprojectedError) else None


def _require_head(state: State) -> Generation:
    if state.head is None:
        raise RequestRefusedError(
            ErrorKind.NO_GENERATION,
            "expected a committed generation to roll back from, found none",
            hint="c10 log",
        )
    return state.head
