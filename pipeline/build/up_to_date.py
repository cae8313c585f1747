"""Recognise that the head already shows what is requested, without writing.

This is the most frequent run, so this module imports nothing that only work needs.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.build.report import BuildOutcome, BuildReport, counts_of
from pipeline.build.strict import STEP, warnings_error
from pipeline.planning.inputs import Inputs
from store.base.cache_warning import CacheWarning
from store.base.valueclass import valueclass
from store.cache.projections import signatures_of
from store.cache.view import list_cache_files, open_view
from store.disk.artifacts import Artifacts
from store.disk.capture_dates import stored_capture_column
from store.disk.layout import Layout
from store.domain.events import CheckPassed, CoverageWalked
from store.domain.manifest_projection import project
from store.domain.proof import figures_of
from store.domain.state import Generation, State
from store.errors import ErrorKind, NoGoError
from store.formats.capture_dates import parse_capture_column
from store.manifest.manifest import parse
from store.policy.recovery import ClearScratch, plan
from store.trust.signatures import TrustedKey, signature_problems
from store.verify.coverage import missing_artifacts, named_by

if TYPE_CHECKING:
    from store.cache.writer import CacheWriter


@valueclass(frozen=True, slots=True, kw_only=True)
class UpToDate:
    """The head that shows what is requested.

    Attributes:
        head: That generation.
        files: Number of files that were checked.
        steps: Number of steps that are reused.
        area: What is there of its area, if that is recorded.
        proof: What its photographs showed, if there is a proof.
        captured: When its tiles were captured, the column of the tile table; None if it cannot be read.
    """

    head: Generation
    files: int
    steps: int
    area: CoverageWalked | None
    proof: CheckPassed | None
    captured: bytes | None


def find_up_to_date(
    layout: Layout,
    identity: str,
    *,
    key: TrustedKey | None = None,
    keys: Sequence[TrustedKey] = (),
    store: "CacheWriter | None" = None,
) -> UpToDate | None:
    """Return the head if it shows `identity` and is complete; None if there is work to do.

    Args:
        layout: Paths of the cache; the caller holds its build lock.
        identity: The requested build identity.
        key: The key that must have signed the head, if any.
        keys: That key, and the trusted ones with their limits.
        store: The cache, if it is open for writing already and hence recovered.

    Raises:
        NoGoError: The head is complete, no key signs here, and none of the trusted keys signed it.
        DamagedHistoryError: The journal does not fit the files beside it.
        journal.JournalError: The journal cannot be read.
    """
    if store is None and not layout.exists():
        return None
    state = open_view(layout).state if store is None else store.state
    head, build = state.head, state.head_build
    if head is None or build is None or build.identity != identity:
        return None
    own = [each for each in keys if key is not None and each.public == key.public]
    if key is not None and _signature_problems(state, head, (key, *own)):
        return None
    if store is None and _needs_recovery(state, layout):
        return None
    artifacts = Artifacts(layout)
    manifest = parse(project(state, head))
    if missing_artifacts(manifest, artifacts):
        return None
    if key is None and keys and (problems := _signature_problems(state, head, keys)):
        # The same build without a key would be refused again.
        raise NoGoError(
            problems,
            kind=ErrorKind.SIGNATURE,
            hint=f"c10 sign {head.number} (to vouch for it), or c10 build with a signing_key in c10.toml (makes again"
            " what no trusted key signed)",
        )
    named = named_by(manifest, artifacts)
    cells = len(named) - len({ref.sha256 for _, ref in manifest.artifacts()})
    return UpToDate(
        head=head,
        files=len(named) + 1,
        steps=len(manifest.engines) + cells + 1,
        area=build.coverage,
        proof=build.proof,
        captured=stored_capture_column(artifacts, manifest.tiles, tiles=manifest.tile_count),
    )


def _signature_problems(state: State, head: Generation, keys: Sequence[TrustedKey]) -> tuple[str, ...]:
    return signature_problems(project(state, head), signatures_of(head), generation=head.number, keys=keys)


def report_up_to_date(found: UpToDate, inputs: Inputs) -> BuildReport:
    """Return the report of a run that found nothing to do."""
    proof = figures_of(found.proof) if found.proof else None
    return BuildReport(
        outcome=BuildOutcome.REUSED,
        build=found.head.origin,
        generation=found.head.number,
        identity=inputs.identity,
        manifest_sha256=found.head.manifest_sha256,
        body_sha256=found.head.body_sha256,
        tiles=len(inputs.selection.tiles),
        wanted=inputs.selection.wanted,
        area=found.area,
        chunks=inputs.selection.chunk_count,
        chunks_copied=inputs.selection.chunk_count,
        steps_reused=found.steps,
        files_checked=found.files,
        warnings=(
            *inputs.warnings,
            *inputs.judge(counts_of(found.area), proof).warnings,
            *_other_dates_warning(found, inputs),
        ),
    )


def _other_dates_warning(found: UpToDate, inputs: Inputs) -> Iterator[CacheWarning]:
    """Yield a warning if the cache records other capture dates than this request has.

    Dates are no part of the identity (docs/decisions/0002): nothing else says that they were corrected.
    """
    requested, recorded = inputs.selection.capture_column(), found.captured
    if recorded is None or recorded == requested or len(recorded) != len(requested):
        return
    try:
        shown = parse_capture_column(recorded)
    except ValueError:  # damaged, which `c10 verify` reports
        return
    count = int((np.frombuffer(recorded, "<i4") != np.frombuffer(requested, "<i4")).sum())
    yield CacheWarning(
        kind="capture-dates",
        message=f"{count:,} of {len(inputs.selection.tiles):,} tiles have another capture date in this request"
        f" ({inputs.selection.dates}) than in the cache ({shown}), by which status, verify and the aircraft judge ages",
        hint="c10 build --again records those of the request",
    )


def refused_if_reused(report: BuildReport) -> BuildReport:
    """Return the report of a strict run, which fails if it found nothing to do and the head has warnings."""
    if report.outcome is not BuildOutcome.REUSED or not report.warnings:
        return report
    from pipeline.build.failure_record import failure_of  # noqa: PLC0415 - as above

    return BuildReport(
        outcome=BuildOutcome.FAILED,
        identity=report.identity,
        tiles=report.tiles,
        wanted=report.wanted,
        area=report.area,
        chunks=report.chunks,
        seconds=report.seconds,
        error=failure_of(warnings_error(report.warnings), STEP, "warnings"),
        warnings=report.warnings,
    )


def _needs_recovery(state: State, layout: Layout) -> bool:
    return any(not isinstance(action, ClearScratch) for action in plan(state, list_cache_files(layout)))
