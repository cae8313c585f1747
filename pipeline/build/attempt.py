"""Attempt a build under the build lock, and report how it ended.

A cache that is up to date was recognised before (`pipeline.build.up_to_date`), unless it had to be recovered
first. An attempt is recorded from its first step: refused, since its identity was rolled back from; failed
early, since its inputs could not be read; or built. Any error is recorded with its step, subject and
traceback, and the head does not move. `pipeline.build.steps` runs the steps of the plan.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from journal import JournalError
from pipeline.build.build_warnings import warnings_of_build
from pipeline.build.failure_record import failed_event, failing_inputs, failure_of
from pipeline.build.report import BuildOutcome, BuildReport, Failure
from pipeline.build.steps import run_steps
from pipeline.build.strict import STEP, refuse_warnings
from pipeline.build.up_to_date import find_up_to_date, report_up_to_date
from pipeline.config import C10ProvisionerConfig
from pipeline.embed.batcher import DescriptorBatcher
from pipeline.errors import PipelineError
from pipeline.lock import CacheLock
from pipeline.planning.disk_space import require_space_for_build
from pipeline.planning.duration import EXECUTOR
from pipeline.planning.inputs import Inputs
from pipeline.ports import Ports
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import request_record
from pipeline.stages.context import BuildContext
from pipeline.tiles.sources.registry import library_versions
from store.base.cache_warning import CacheWarning
from store.base.valueclass import valueclass
from store.cache.own_records import OwnRecords
from store.cache.projections import require_may_sign
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.disk.repair_commands import cache_option
from store.domain.events import BuildRefused, BuildStarted
from store.domain.state import State
from store.errors import DiskFullError, ErrorKind, RequestRefusedError, UnprojectedError
from store.policy.rollback import undone_hint, undone_text
from store.policy.vouching import OWN_RECORDS, Ranges
from store.trust.signatures import TrustedKey


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildAttempt:
    """One attempt at a build; the caller holds the lock.

    Attributes:
        inputs: What the request names; or the error of reading it, which is recorded.
        force: Whether to build even if this identity was rolled back from.
        strict: Whether a warning makes the build fail before the commit.
        key: The key that signs the generation, if any.
        keys: That key and the trusted ones: results of builds that others signed are not reused.
        own_records: What this machine remembers of its own appends with `key`.
        open_store: Opens the cache for writing, and creates it if there is none.
        batcher: Creates the port that embeds tiles.
        precision: Replaces the request's precision, if given.
        machine_warnings: What the settings of this machine give rise to.
    """

    request: BuildRequest
    inputs: Inputs | PipelineError
    force: bool
    strict: bool
    key: TrustedKey | None
    keys: tuple[TrustedKey, ...]
    own_records: OwnRecords
    layout: Layout
    lock: CacheLock
    open_store: Callable[[], AbstractContextManager[CacheWriter]]
    batcher: Callable[[], DescriptorBatcher]
    ports: Ports
    settings: C10ProvisionerConfig
    precision: str | None
    machine_warnings: tuple[CacheWarning, ...] = ()

    def run(self) -> BuildReport:
        """Build the cache, or recover it and find it up to date; the caller holds the build lock.

        Raises:
            RequestRefusedError: The signing key may sign no further generation.
            NoGoError: The head shows this already, but no trusted key signed it, and none signs here.
            StoreError, JournalError: The cache cannot be used at all.
        """
        inputs = self.inputs
        if isinstance(inputs, Inputs):
            too_large = None if self.layout.exists() else self._check_space(State(), inputs)
            if too_large is not None:
                return _failed_report(inputs, failure_of(too_large, "space", ""))
        with self.open_store() as store:
            number = store.state.next_build
            self.lock.describe(build=number)
            if isinstance(inputs, PipelineError):
                return self._record_early_failure(store, number, inputs)
            if not self.force:
                found = find_up_to_date(
                    self.layout, inputs.identity, key=self.key, keys=self.keys, store=store
                )
                if found is not None:
                    return replace(report_up_to_date(found, inputs), writes=store.writes)
                if inputs.identity in store.state.undone:
                    return self._refuse(store, number, inputs)
            too_large = self._check_space(store.state, inputs)
            if too_large is not None:
                return self._record_lack_of_space(store, number, inputs, too_large)
            if store.signer is not None:
                require_may_sign(len(store.state.generations) + 1, store.signer, self.keys)
            return self._build(store, number, inputs)

    def _check_space(self, state: State, inputs: Inputs) -> DiskFullError | None:
        """Return the error of a build that is not begun, since the disk is too full; else None."""
        # The reserve of an existing cache is allocated already.
        reserve = 0 if state.cache_id else self.settings.reserve_bytes
        free = self.ports.free_bytes(self.layout.root) - reserve
        try:
            require_space_for_build(self.layout, state, inputs, free)
        except DiskFullError as error:
            return error
        return None

    def _record_lack_of_space(
        self, store: CacheWriter, number: int, inputs: Inputs, error: DiskFullError
    ) -> BuildReport:
        failure = failure_of(error, "space", "")
        report = _failed_report(inputs, failure)
        ended = failed_event(failure, error, {"step": "space"})
        with suppress(JournalError):  # the disk may be too full even for that
            store.append_at_any_cost(ended, build=number, started=self._started_event(inputs))
            report = replace(report, build=number)
        return replace(report, writes=store.writes)

    def _record_early_failure(self, store: CacheWriter, number: int, error: PipelineError) -> BuildReport:
        started = BuildStarted(
            identity=None,
            inputs={"flight_id": self.request.flight_id, "source": self.request.tiles.source_name},
            calibration=None,
            again=False,
            host={**self.ports.host, **request_record(self.request, self.precision)},
        )
        failure = failure_of(error, error.step or "inputs", error.subject or "")
        ended = failed_event(failure, error, started.inputs)
        store.append_at_any_cost(ended, build=number, started=started)
        return BuildReport(outcome=BuildOutcome.FAILED, build=number, writes=store.writes, error=failure)

    def _refuse(self, store: CacheWriter, number: int, inputs: Inputs) -> BuildReport:
        undone = undone_text(store.state, inputs.identity)
        message = f"expected another request than that of {undone}"
        store.append(BuildRefused(identity=inputs.identity, reason=message), build=number)
        error = RequestRefusedError(
            message,
            kind=ErrorKind.ROLLED_BACK,
            hint=undone_hint(store.state, inputs.identity, option=cache_option(store.layout)),
        )
        report = _failed_report(inputs, failure_of(error, "start", ""))
        return replace(report, build=number, writes=store.writes)

    def _build(self, store: CacheWriter, number: int, inputs: Inputs) -> BuildReport:
        event_store, cache_id = store.event_store, store.state.cache_id
        own_records = self.own_records.ranges(cache_id, event_store.chain_at)
        event_store.before_append = self.own_records.note(cache_id)
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            run = BuildContext(
                store=store,
                inputs=inputs,
                ports=self.ports,
                batcher=self.batcher(),
                number=number,
                scratch=Path(scratch),
                strict=self.settings.coverage_strict,
                refuses_warnings=self.strict,
                keys=self.keys,
                machine_warnings=self.machine_warnings,
                own_records=own_records,
                own_records_now=partial(self.own_records.ranges_now, cache_id, event_store.chain_at),
            )
            started, before = self._started_event(inputs, own_records), store.state.head
            generation, committed, failure = None, None, None
            try:
                if inputs.area.encoded is not None:
                    run.put(inputs.area.encoded)
                run.append(replace(started, calibration=run.put(inputs.calibration)))
                run_steps(run)
                if self.strict:
                    run.enter(STEP, "warnings")
                    refuse_warnings(warnings_of_build(run, before))
                run.enter("commit")
                generation = store.commit(number)
                committed = generation.number
                self.own_records.forget(cache_id)
            except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded and reported
                committed, failure = _generation_without_files(error), _record_failure(run, error, started)
            except BaseException as error:
                _record_failure(run, error, started)
                raise
        area = store.state.builds[number].coverage if generation else None
        return BuildReport(
            outcome=BuildOutcome.FAILED if generation is None else BuildOutcome.BUILT,
            build=number,
            generation=committed,
            identity=inputs.identity,
            manifest_sha256=generation.manifest_sha256 if generation else None,
            body_sha256=generation.body_sha256 if generation else None,
            tiles=len(inputs.selection.tiles),
            wanted=inputs.selection.wanted,
            area=area,
            engines_compiled=len(run.counts.networks),
            **_embedded_counts(run),
            steps_reused=run.counts.reused,
            files_checked=run.counts.checked,
            writes=store.writes,
            error=failure,
            warnings=warnings_of_build(run, before),
        )

    def _started_event(self, inputs: Inputs, own_records: Ranges = ()) -> BuildStarted:
        """Return the first event, before the calibration is stored."""
        versions = library_versions(inputs.request.tiles.source, inputs.request.base)
        return BuildStarted(
            identity=inputs.identity,
            inputs=inputs.document,
            calibration=None,
            again=self.force,
            host={
                **self.ports.host,
                EXECUTOR: self.settings.embeds_with,
                "source": inputs.request.tiles.source_name,
                **({"imagery": versions} if versions else {}),
                **({OWN_RECORDS: [list(found) for found in own_records]} if own_records else {}),
                **request_record(inputs.request, self.precision),
            },
        )


def _embedded_counts(run: BuildContext) -> dict[str, int]:
    """Return what the report says of descriptors."""
    chunks, embedded = run.inputs.selection.chunk_count, run.counts.embedded
    if not chunks:
        return {"tiles_embedded": embedded}
    return {"chunks": chunks, "chunks_embedded": embedded, "chunks_copied": run.counts.copied}


def _failed_report(inputs: Inputs, failure: Failure) -> BuildReport:
    return BuildReport(
        outcome=BuildOutcome.FAILED,
        identity=inputs.identity,
        tiles=len(inputs.selection.tiles),
        wanted=inputs.selection.wanted,
        error=failure,
        warnings=(*inputs.warnings, *inputs.judge(None).warnings),
    )


def _record_failure(run: BuildContext, error: BaseException, started: BuildStarted) -> Failure:
    """Record the failure of a build, and its start if that could not be written before."""
    failure = failure_of(error, run.step, run.subject)
    try:
        run.append()
    except Exception:  # noqa: BLE001 - the first error matters; finished cells are kept if possible
        run.drop_deferred()
    event = failed_event(failure, error, failing_inputs(run, error, failure))
    try:
        run.store.append_at_any_cost(event, build=run.number, started=started)
    except JournalError as full:
        # The first error is the one to report; the next build marks this one as abandoned.
        run.ports.progress.say(f"the failure could not be recorded: {full.message}")
    return failure


def _generation_without_files(error: Exception) -> int | None:
    """Return the generation that the journal committed but whose files could not be written."""
    return error.generation if isinstance(error, UnprojectedError) else None
