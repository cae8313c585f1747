"""The provisioner: one call from a request to a committed generation, or to nothing changed.

Everything the request names is read first, without touching the cache. Under the build lock a warm run is
recognised from the journal and the file system alone and writes nothing. Otherwise the build is journaled from
its first step; whatever goes wrong is recorded with its step, subject and traceback, and the head does not
move. This module decides whether there is anything to do and accounts for it; `pipeline.steps` walks the plan.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from journal import JournalError
from pipeline.config import C10ProvisionerConfig
from pipeline.descriptors import DescriptorBatcher
from pipeline.engines.port import EngineCompiler
from pipeline.engines_run import EngineRun, EnginesReport
from pipeline.errors import PipelineError, RequestError
from pipeline.failures import failed_event, failure_of
from pipeline.gathering import gather, look_at_models
from pipeline.geography import warnings_of
from pipeline.index import IndexBuilder
from pipeline.inputs import Inputs
from pipeline.locking import Lock
from pipeline.mends import RepairReport
from pipeline.preflight import FreeBytes, require_space_for_build, require_space_for_engines
from pipeline.preview import preview
from pipeline.progress import Progress
from pipeline.recorded import request_facts
from pipeline.repair import Repair
from pipeline.report import BuildOutcome, BuildReport, Failure, PlanReport, RollbackReport
from pipeline.request import BuildRequest
from pipeline.run import Ports, Run
from pipeline.steps import take_steps
from pipeline.tiles.tile import TileMetadataStore
from pipeline.warm import Warm, look_warm
from store import manifest, rollback
from store.collecting import Collection, collect, rehearse
from store.coverage import missing
from store.errors import DiskFullError, ErrorKind, RequestRefusedError, UnprojectedError
from store.events import BuildRefused, BuildStarted, CoverageWalked
from store.facts import Clock
from store.layout import Layout
from store.rebuild import Rebuilt
from store.retention import KeepPolicy
from store.state import Generation, State
from store.transaction import Store
from store.trust import Signer
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
    signing: Callable[[], Signer | None]
    free_bytes: FreeBytes

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
            RequestRefusedError: The signing key cannot be used.
            StoreError, JournalError: The cache cannot be used at all.
        """
        began, signer = monotonic(), self.signing()
        try:
            inputs: Inputs | PipelineError = self._gather(request)
        except RequestError:
            raise
        except PipelineError as error:
            inputs = error
        with self.lock:
            report = self._under_lock(request, inputs, again=again, signer=signer)
        return replace(report, seconds=monotonic() - began)

    def plan(self, request: BuildRequest) -> PlanReport:
        """Tell what a build would do; writes nothing and takes no lock.

        Raises:
            PipelineError: Something the request names is missing, damaged or unusable.
            StoreError, JournalError: The cache cannot be read.
        """
        signer = self.signing()
        return preview(self.layout, self._gather(request), key_id=signer.key_id if signer else None)

    def rollback(self, to: int | None = None, why: str = "") -> RollbackReport:
        """Append a generation that shows an earlier build.

        Args:
            to: A generation whose origin to show; by default the build before the one shown.
            why: For the record.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no such generation, or nothing before the one shown; or the signing key
                cannot be used.
            StoreError: The target's artifacts are not all there; nothing was changed.
        """
        signer = self.signing()
        if not self.layout.exists():
            look(self.layout)
        with self.lock, self._open(create=False, signer=signer) as store:
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
                warnings=_no_longer_signed(before, after),
            )

    def compile_engines_for_corpus(self, request: BuildRequest) -> EnginesReport:
        """Compile every network of a request for this device, without the build lock.

        Returns:
            A report; what fails is reported, not raised. The next build reuses what was compiled.

        Raises:
            RequestError: The request names something that does not exist or makes no sense.
            DiskFullError: The engines would not fit; nothing was begun.
            StoreError, JournalError: The cache cannot be used at all.
        """
        compiler = self.compiler_for(request)
        models = look_at_models(request, compiler, self.precision)
        run = EngineRun(
            layout=self.layout,
            clock=self.clock,
            host=self.host,
            compiler=compiler,
            progress=self.progress,
            least_cosine=request.checks.parity,
            allow_unknown_filesystem=self.config.allow_unknown_filesystem,
        )
        absent = run.absent(models)
        if absent:
            require_space_for_engines(self.layout, absent, self.free_bytes(self.layout.root))
        return run.compile_all(models)

    def collect(self, policy: KeepPolicy, *, dry_run: bool = True) -> Collection:
        """Remove what no kept generation needs, or only tell what that is.

        Raises:
            BuildLockHeldError: A build holds the lock.
            ArtifactsBusyError: An engine run did not finish storing within `lock_timeout_s`.
            RequestRefusedError: There is no cache.
            StoreError, JournalError: The cache cannot be used; what was begun is finished by the next collection.
        """
        if dry_run or not self.layout.exists():
            return rehearse(self.layout, policy)
        with self.lock, self._open(create=False, exclusive=True) as store:
            return collect(store, policy)

    def repair(self, *, dry_run: bool = False) -> RepairReport:
        """Heal whatever can be healed: manifests, signatures, segments, artifacts, strangers.

        Returns:
            What was mended or not, and what a full verification says afterwards.

        Raises:
            BuildLockHeldError: A build holds the lock.
            journal.JournalDamagedError, DamagedHistoryError: The journal itself is damaged; nothing was changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._mending().repair(dry_run=dry_run)

    def rebuild(self) -> tuple[Rebuilt, RepairReport]:
        """Make the journal again from its segments and what still reads of it, then what lies beside it.

        Raises:
            BuildLockHeldError: A build holds the lock.
            DamagedHistoryError: Records are missing, or do not fit the manifests; nothing was changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._mending().rebuild()

    def _mending(self) -> Repair:
        return Repair(
            layout=self.layout,
            lock=self.lock,
            open_store=lambda: self._open(create=False),
            compiler_for=self.compiler_for,
            source_for=self.source_for,
            batcher=self.batcher,
            index=self.index_builder,
            progress=self.progress,
            host=self.host,
            allow_unknown_filesystem=self.config.allow_unknown_filesystem,
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
        self, request: BuildRequest, inputs: Inputs | PipelineError, *, again: bool, signer: Signer | None
    ) -> BuildReport:
        key_id = signer.key_id if signer else None
        if isinstance(inputs, Inputs):
            warm = look_warm(self.layout, inputs.identity, key_id=key_id)
            if warm is not None:
                return self._reused(warm, inputs)
            full = None if self.layout.exists() else self._short_of_space(State(), inputs)
            if full is not None:
                return full
        with self._open(create=True, signer=signer) as store:
            number = store.state.next_build
            self.lock.describe(build=number)
            if isinstance(inputs, PipelineError):
                return self._failed_early(store, number, request, inputs)
            warm = look_warm(self.layout, inputs.identity, key_id=key_id, store=store)
            if warm is not None:
                return replace(self._reused(warm, inputs), writes=store.writes)
            if inputs.identity in store.state.undone and not again:
                return self._refused(store, number, inputs)
            full = self._short_of_space(store.state, inputs)
            if full is not None:
                return replace(full, writes=store.writes)
            return self._build(store, number, inputs, again=again)

    def _open(
        self, *, create: bool, signer: Signer | None = None, exclusive: bool = False
    ) -> AbstractContextManager[Store]:
        return Store.open(
            self.layout,
            clock=self.clock,
            create=create,
            reserve_bytes=self.config.reserve_mb * _MIB,
            host=self.host,
            allow_unknown_filesystem=self.config.allow_unknown_filesystem,
            signer=signer,
            exclusive_within_s=self.config.lock_timeout_s if exclusive else None,
        )

    def _short_of_space(self, state: State, inputs: Inputs) -> BuildReport | None:
        """Return the report of a build that was not begun, since it would not fit."""
        # The reserve of an open cache is taken off already.
        reserve = 0 if state.cache_id else self.config.reserve_mb * _MIB
        try:
            require_space_for_build(self.layout, state, inputs, self.free_bytes(self.layout.root) - reserve)
        except DiskFullError as error:
            return BuildReport(
                outcome=BuildOutcome.FAILED,
                identity=inputs.identity,
                tiles=len(inputs.selection.tiles),
                error=failure_of(error, "space", ""),
                warnings=inputs.warnings,
                cause=error,
            )
        return None

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
            warnings=(*inputs.warnings, *_area_warnings(warm.area)),
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
            started, before = self._started(inputs, again=again), store.state.head
            generation, failure, cause = None, None, None
            try:
                run.append(replace(started, calibration=run.put(inputs.calibration)))
                take_steps(run)
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
            warnings=(
                *inputs.warnings,
                *_area_warnings(store.state.builds[number].coverage if generation else None),
                *_no_longer_signed(before, generation),
            ),
            cause=cause,
        )

    def _started(self, inputs: Inputs, *, again: bool) -> BuildStarted:
        """The start of a build, before its calibration is stored."""
        return BuildStarted(
            identity=inputs.identity,
            inputs=inputs.document,
            calibration=None,
            again=again,
            host={
                **self.host,
                "source": inputs.request.tiles.source,
                **request_facts(inputs.request, self.precision),
            },
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


def _area_warnings(area: CoverageWalked | None) -> tuple[str, ...]:
    if area is None:
        return ()
    return warnings_of(
        wanted=area.wanted, present=area.present, featureless=area.featureless, skipped=area.skipped
    )


def _committed_anyway(cause: BaseException | None) -> int | None:
    """The generation of a commit whose files could not be written: the journal holds it, readers do not see it."""
    return cause.generation if isinstance(cause, UnprojectedError) else None


def _no_longer_signed(before: Generation | None, after: Generation | None) -> tuple[str, ...]:
    if before is None or after is None or not before.signatures or after.signatures:
        return ()
    found = f"expected generation {after.number} to be signed as {before.number} is, found no signing_key"
    return (f"{found}: where a signature is wanted, it will be refused",)


def _require_head(state: State) -> Generation:
    if state.head is None:
        raise RequestRefusedError(
            ErrorKind.NO_GENERATION,
            "expected a committed generation to roll back from, found none",
            hint="c10 log",
        )
    return state.head
