"""The dry run: say what a build would do, without writing and without a lock."""

from collections.abc import Callable
from typing import Any

from pipeline.build.measure import Machine
from pipeline.build.report import Planned, PlanReport
from pipeline.build.up_to_date import find_up_to_date, report_up_to_date
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.index.plan import likely_index
from pipeline.planning.disk_space import NEW_CACHE, descriptor_length, estimate_build
from pipeline.planning.duration import (
    IndexToWrite,
    PlannedWork,
    StepTime,
    planned_times,
    recorded_times,
    whole_time,
)
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import BuildPlan, make_plan, reusable_artifacts
from pipeline.stages.checks import require_coverage
from pipeline.stages.survey import survey_selection
from pipeline.tiles.retrieval_units import RetrievalUnits
from store.base.cache_warning import CacheWarning
from store.cache.own_records import OwnRecords
from store.cache.projections import find_unvouched_results
from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.repair_commands import cache_option
from store.domain.state import State
from store.policy.rollback import undone_hint, undone_text
from store.policy.vouching import withdraw
from store.trust.signatures import TrustedKey
from store.verify.coverage import find_foreign_files, refuse_foreign_files, sizes


def preview_build(
    layout: Layout,
    inputs: Inputs,
    *,
    key: TrustedKey | None = None,
    keys: tuple[TrustedKey, ...] = (),
    own_records: OwnRecords | None = None,
    strict: bool = False,
    machine: Machine,
    on_planned: Callable[[Planned], object] = lambda _: None,
) -> PlanReport:
    """Return what a build with these inputs, signed with that key, would do.

    Args:
        layout: The cache; it need not exist.
        inputs: What the request names.
        key: The key that would sign, if any.
        keys: That key and the trusted ones, as in `BuildAttempt`.
        own_records: What this machine remembers of its own appends with `key`.
        strict: Whether a build refuses foreign files in the cache.
        machine: What tells how long the build will take.
        on_planned: Called with what would be built, before it is judged whether that would fail.

    Raises:
        NoGoError: The head shows this already, but no trusted key signed it, and none signs here.
        CheckError, ManifestCoverageError: A build would fail: too few tiles are present, or there are foreign files.
        StoreError, journal.JournalError: The cache cannot be read.
    """
    artifacts = Artifacts(layout)
    state = usable_state(layout, keys, own_records)
    plan = make_plan(state, inputs, sizes(artifacts, reusable_artifacts(state, inputs)))
    present = survey_selection(inputs.selection, None, artifacts)
    on_planned(Planned(inputs=inputs, plan=plan, area=present))
    found = find_up_to_date(layout, inputs.identity, key=key, keys=keys)
    if found is None:
        if strict and layout.exists():
            refuse_foreign_files(find_foreign_files(artifacts))
        require_coverage(present, inputs.request.coverage.min_fraction)
        warnings = (
            *inputs.warnings,
            *inputs.judge(present.counts).warnings,
            *_refusal_warning(layout, state, inputs),
        )
    else:
        warnings = report_up_to_date(found, inputs).warnings
    to_embed = _to_embed(artifacts, state, plan)
    work = PlannedWork(inputs=inputs, plan=plan, to_embed=to_embed, index=_index_to_write(inputs, plan))
    times = _times(layout, work, machine)
    return PlanReport(
        identity=inputs.identity,
        decision="reused" if found else "build",
        steps=plan.summary(),
        tiles=len(inputs.selection.tiles),
        wanted=inputs.selection.wanted,
        to_embed=sum(to_embed.values()),
        seconds=whole_time(times),
        time=tuple(each.to_document() for each in times),
        chunks=inputs.selection.chunk_count,
        levels=inputs.level_documents(),
        bytes=estimate_build(layout, state, inputs, plan).total
        + (0 if state.cache_id else NEW_CACHE + machine.reserve_bytes),
        reserve_bytes=0 if state.cache_id else machine.reserve_bytes,
        proof=_proof_document(inputs, plan),
        warnings=warnings,
    )


def usable_state(layout: Layout, keys: tuple[TrustedKey, ...], own_records: OwnRecords | None) -> State:
    """Return the state of a cache without the results that no key vouches for; an empty one if there is no cache."""
    if not layout.exists():
        return State()
    if not keys:
        return open_view(layout).state
    history = read_history(layout)
    state, entries = history.state, history.entries

    def chain_at(seq: int) -> str | None:
        return entries[seq - 1].chain.hex() if seq <= len(entries) else None

    own = () if own_records is None else own_records.ranges(state.cache_id, chain_at)
    withdraw(state, find_unvouched_results(state, entries, keys, own_records=own))
    return state


def _proof_document(inputs: Inputs, plan: BuildPlan) -> dict[str, Any] | None:
    asked = inputs.request.proof
    if asked is None or plan.proof is None:
        return None
    return {
        "table": asked.pictures,
        "pictures": plan.proof.photographs,
        "within_m": asked.within_m,
        "at": asked.at,
        "min": asked.min,
        "near_m": asked.near_m,
        "decision": str(plan.proof.decision),
        "why": plan.proof.why,
    }


def _times(layout: Layout, work: PlannedWork, machine: Machine) -> tuple[StepTime, ...]:
    """Return how long each step takes that runs: from earlier builds here, or else as measured now."""
    facts = read_history(layout).facts if layout.exists() else ()
    times = tuple(planned_times(work, recorded_times(facts, machine.host), machine.host))
    return tuple(machine.measurement(times, layout, work)) if machine.measurement else times


def _index_to_write(inputs: Inputs, plan: BuildPlan) -> IndexToWrite | None:
    if not plan.stale and not plan.index_why:
        return None
    rows, dimensions = (
        inputs.selection.unit_count,
        sum(descriptor_length(each, plan) for each in inputs.descriptors),
    )
    index = likely_index(inputs.request.index, count=rows, dimensions=dimensions)
    return IndexToWrite(index, rows, dimensions)


def _refusal_warning(layout: Layout, state: State, inputs: Inputs) -> tuple[CacheWarning, ...]:
    undone = undone_text(state, inputs.identity)
    if undone is None:
        return ()
    return (
        CacheWarning(
            kind="rolled-back-from",
            message=f"this is {undone}: it is refused",
            hint=undone_hint(state, inputs.identity, option=cache_option(layout)),
        ),
    )


def _to_embed(artifacts: Artifacts, state: State, plan: BuildPlan) -> dict[str, int]:
    """Return how many digests must go through each network, by vector space."""
    stale: dict[str, list[RetrievalUnits]] = {each.components["space"]: [] for each in plan.cells}
    for each in plan.stale:
        stale[each.components["space"]].append(each.cell.units)
    return {
        space: ReusableRows(
            artifacts, state.step_cache.blocks_in(space), RetrievalUnits.joined(units).digests
        ).missing
        for space, units in stale.items()
    }
