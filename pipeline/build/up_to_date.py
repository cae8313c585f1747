"""The warm run: recognise that the head is what is asked for, without a write.

It is the run that people start over and over, so nothing is imported here that only work needs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.build.report import BuildOutcome, BuildReport
from pipeline.planning.area_report import warnings_of
from pipeline.planning.inputs import Inputs
from store.cache.projections import signers_of
from store.cache.view import list_cache_files, open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import CoverageWalked
from store.domain.manifest_projection import project
from store.domain.state import Generation, State
from store.manifest.manifest import parse
from store.policy.recovery import ClearScratch, plan
from store.verify.coverage import missing_artifacts, named_by

if TYPE_CHECKING:
    from store.cache.writer import CacheWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """The witness of a warm run: the head, how many files were looked at, the steps it stands for, its area."""

    head: Generation
    chain: str
    files: int
    steps: int
    area: CoverageWalked | None


def look_warm(
    layout: Layout, identity: str, *, key_id: str | None = None, store: "CacheWriter | None" = None
) -> Warm | None:
    """Return the witness if the head shows `identity` and is whole; nothing if there is work to do.

    Args:
        layout: Where the cache is; the caller holds its build lock.
        identity: What is asked for.
        key_id: Whose signature is asked for, if anybody's; another head is built again, from what there is.
        store: The cache, if it is open for writing already and hence recovered.

    Raises:
        DamagedHistoryError: The journal does not fit the files beside it.
        journal.JournalError: The journal cannot be read.
    """
    if store is None and not layout.exists():
        return None
    state = open_view(layout).state if store is None else store.state
    head, build = state.head, state.head_build
    if head is None or build is None or build.identity != identity:
        return None
    if key_id is not None and key_id not in signers_of(head):
        return None
    if store is None and _to_heal(state, layout):
        return None
    artifacts = Artifacts(layout)
    manifest = parse(project(state, head))
    if missing_artifacts(manifest, artifacts):
        return None
    named = named_by(manifest, artifacts)
    cells = len(named) - len({ref.sha256 for _, ref in manifest.artifacts()})
    return Warm(
        head=head,
        chain=state.position.chain,
        files=len(named) + 1,
        steps=len(manifest.engines) + cells + 1,
        area=build.coverage,
    )


def reused(warm: Warm, inputs: Inputs) -> BuildReport:
    """Return the report of a warm run."""
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
        warnings=(*inputs.warnings, *area_warnings(warm.area)),
    )


def area_warnings(area: CoverageWalked | None) -> tuple[str, ...]:
    """Say what of a build's area a camera cannot be found by, if it was walked."""
    if area is None:
        return ()
    return warnings_of(
        wanted=area.wanted, present=area.present, featureless=area.featureless, skipped=area.skipped
    )


def _to_heal(state: State, layout: Layout) -> bool:
    return any(not isinstance(action, ClearScratch) for action in plan(state, list_cache_files(layout)))
