"""One attempt at a build, under the build lock: from what is there to a report of what became of it.

What is there as it is wanted was recognised before (`pipeline.build.up_to_date`), unless it has to be healed first. An attempt is
journaled from its first step: refused, since its identity was rolled back from; failed early, since its inputs could not
be read; or built. Whatever goes wrong is recorded with its step, subject and traceback, and the head does not move. This
module decides whether there is anything to do and accounts for it; `pipeline.build.steps` walks the plan.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from journal import JournalError
from pipeline.build.failure_record import failed_event, failing_inputs, failure_of
from pipeline.build.report import BuildOutcome, BuildReport, Failure
from pipeline.build.steps import run_steps
from pipeline.build.up_to_date import area_warnings, find_up_to_date, reused
from pipeline.config import C10ProvisionerConfig
from pipeline.embed.batcher import DescriptorBatcher
from pipeline.errors import PipelineError
from pipeline.lock import Lock
from pipeline.planning.disk_space import require_space_for_build
from pipeline.planning.inputs import Inputs
from pipeline.ports import Ports
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import request_record
from pipeline.stages.context import BuildContext
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain.events import BuildRefused, BuildStarted
from store.domain.state import Generation, State
from store.errors import DiskFullError, ErrorKind, RequestRefusedError, UnprojectedError


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildAttempt:
    """What a build is attempted from, and with.

    Attributes:
        request: What is wanted.
        inputs: What the request names; or why that could not be read, which is recorded.
        again: Whether to build even if this identity was rolled back from.
        key_id: The key that a generation is to be signed with, if any.
        layout: Where the cache lies.
        lock: The build lock, which the caller holds; it is told the number of the build.
        open_store: Opens the cache for writing, and makes it if there is none.
        batcher: Gives what embeds tiles.
        ports: What else does the work.
        settings: What the operator set.
        precision: What replaces the request's precision, if anything.
    """

    request: BuildRequest
    inputs: Inputs | PipelineError
    again: bool
    key_id: str | None
    layout: Layout
    lock: Lock
    open_store: Callable[[], AbstractContextManager[CacheWriter]]
    batcher: Callable[[], DescriptorBatcher]
    ports: Ports
    settings: C10ProvisionerConfig
    precision: str | None

    def make(self) -> BuildReport:
        """Build the cache, or heal it and find it as it is wanted; the caller holds the build lock.

        Raises:
            StoreError, JournalError: The cache cannot be used at all.
        """
        inputs = self.inputs
        if isinstance(inputs, Inputs):
            full = None if self.layout.exists() else self._short_of_space(State(), inputs)
            if full is not None:
                return full
        with self.open_store() as store:
            number = store.state.next_build
            self.lock.describe(build=number)
            if isinstance(inputs, PipelineError):
                return self._failed_early(store, number, inputs)
            again = self.again
            warm = (
                None
                if again
                else find_up_to_date(self.layout, inputs.identity, key_id=self.key_id, store=store)
            )
            if warm is not None:
                return replace(reused(warm, inputs), writes=store.writes)
            if inputs.identity in store.state.undone and not again:
                return self._refused(store, number, inputs)
            full = self._short_of_space(store.state, inputs)
            if full is not None:
                return replace(full, writes=store.writes)
            return self._build(store, number, inputs)

    def _short_of_space(self, state: State, inputs: Inputs) -> BuildReport | None:
        """Return the report of a build that was not begun, since it would not fit."""
        # The reserve of an open cache is taken off already.
        reserve = 0 if state.cache_id else self.settings.reserve_bytes
        free = self.ports.free_bytes(self.layout.root) - reserve
        try:
            require_space_for_build(self.layout, state, inputs, free)
        except DiskFullError as error:
            return BuildReport(
                outcome=BuildOutcome.FAILED,
                identity=inputs.identity,
                tiles=len(inputs.selection.tiles),
                error=failure_of(error, "space", ""),
                warnings=inputs.warnings,
            )
        return None

    def _failed_early(self, store: CacheWriter, number: int, error: PipelineError) -> BuildReport:
        """Record a build whose inputs could not be read."""
        started = BuildStarted(
            identity=None,
            inputs={"flight_id": self.request.flight_id, "source": self.request.tiles.source},
            calibration=None,
            again=False,
            host={**self.ports.host, **request_record(self.request, self.precision)},
        )
        failure = failure_of(error, error.step or "inputs", error.subject or "")
        ended = failed_event(failure, error, started.inputs)
        store.append_at_any_cost(ended, build=number, started=started)
        return BuildReport(outcome=BuildOutcome.FAILED, build=number, writes=store.writes, error=failure)

    def _refused(self, store: CacheWriter, number: int, inputs: Inputs) -> BuildReport:
        origin = store.state.undone[inputs.identity]
        message = f"expected another request than the one of build {origin}, which was rolled back from"
        store.append(BuildRefused(identity=inputs.identity, reason=message), build=number)
        error = RequestRefusedError(
            message, kind=ErrorKind.ROLLED_BACK, hint="c10 build --again (if it is meant to come back)"
        )
        return BuildReport(
            outcome=BuildOutcome.FAILED,
            build=number,
            identity=inputs.identity,
            tiles=len(inputs.selection.tiles),
            writes=store.writes,
            error=failure_of(error, "start", ""),
            warnings=inputs.warnings,
        )

    def _build(self, store: CacheWriter, number: int, inputs: Inputs) -> BuildReport:
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            run = BuildContext(
                store=store,
                inputs=inputs,
                ports=self.ports,
                batcher=self.batcher(),
                number=number,
                scratch=Path(scratch),
                strict=self.settings.coverage_strict,
            )
            started, before = self._started(inputs), store.state.head
            generation, committed, failure = None, None, None
            try:
                run.append(replace(started, calibration=run.put(inputs.calibration)))
                run_steps(run)
                run.enter("commit")
                generation = store.commit(number)
                committed = generation.number
            except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded and reported
                committed, failure = _committed_anyway(error), _record(run, error, started)
            except BaseException as error:
                _record(run, error, started)
                raise
        return BuildReport(
            outcome=BuildOutcome.FAILED if generation is None else BuildOutcome.BUILT,
            build=number,
            generation=committed,
            identity=inputs.identity,
            manifest_sha256=generation.manifest_sha256 if generation else None,
            body_sha256=generation.body_sha256 if generation else None,
            tiles=len(inputs.selection.tiles),
            engines_compiled=len(run.counts.networks),
            tiles_embedded=run.counts.embedded,
            steps_reused=run.counts.reused,
            files_checked=run.counts.checked,
            writes=store.writes,
            error=failure,
            warnings=(
                *inputs.warnings,
                *area_warnings(store.state.builds[number].coverage if generation else None),
                *no_longer_signed(before, generation),
            ),
        )

    def _started(self, inputs: Inputs) -> BuildStarted:
        """The start of a build, before its calibration is stored."""
        return BuildStarted(
            identity=inputs.identity,
            inputs=inputs.document,
            calibration=None,
            again=self.again,
            host={
                **self.ports.host,
                "source": inputs.request.tiles.source,
                **request_record(inputs.request, self.precision),
            },
        )


def _record(run: BuildContext, error: BaseException, started: BuildStarted) -> Failure:
    """Record the failure of a build, and its start where not even that could be written before."""
    failure = failure_of(error, run.step, run.subject)
    try:
        run.append()
    except Exception:  # noqa: BLE001 - finished cells are kept if the journal takes them; the cause goes first
        run.drop_deferred()
    event = failed_event(failure, error, failing_inputs(run, error, failure))
    try:
        run.store.append_at_any_cost(event, build=run.number, started=started)
    except JournalError as full:
        # What went wrong first is what a person must hear of; the next build marks this one as abandoned.
        run.ports.progress.say(f"the failure could not be recorded: {full.message}")
    return failure


def _committed_anyway(error: Exception) -> int | None:
    """The generation of a commit whose files could not be written: the journal holds it, readers do not see it."""
    return error.generation if isinstance(error, UnprojectedError) else None


def no_longer_signed(before: Generation | None, after: Generation | None) -> tuple[str, ...]:
    """A warning where a signed generation is followed by one that is not."""
    if before is None or after is None or not before.signatures or after.signatures:
        return ()
    found = f"expected generation {after.number} to be signed as {before.number} is, found no signing_key"
    return (f"{found}: where a signature is wanted, it will be refused",)
