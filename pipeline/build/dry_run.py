"""The dry run: say what a build would do, without writing and without a lock."""

from typing import Any

from pipeline.build.report import PlanReport
from pipeline.build.up_to_date import find_up_to_date, report_up_to_date
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.planning.disk_space import estimate_build
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import BuildPlan, make_plan, reusable_artifacts
from pipeline.stages.checks import require_coverage
from pipeline.stages.survey import survey_selection
from store.base.cache_warning import CacheWarning
from store.cache.own_records import OwnRecords
from store.cache.projections import find_unvouched_results
from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import CellEmbedded, StepStarted
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
) -> PlanReport:
    """Return what a build with these inputs, signed with that key, would do.

    Args:
        layout: The cache; it need not exist.
        inputs: What the request names.
        key: The key that would sign, if any.
        keys: That key and the trusted ones, as in `BuildAttempt`.
        own_records: What this machine remembers of its own appends with `key`.
        strict: Whether a build refuses foreign files in the cache.

    Raises:
        NoGoError: The head shows this already, but no trusted key signed it, and none signs here.
        CheckError, ManifestCoverageError: A build would fail: too few tiles are present, or there are foreign files.
        StoreError, journal.JournalError: The cache cannot be read.
    """
    artifacts = Artifacts(layout)
    state = usable_state(layout, keys, own_records)
    plan = make_plan(state, inputs, sizes(artifacts, reusable_artifacts(state, inputs)))
    found = find_up_to_date(layout, inputs.identity, key=key, keys=keys)
    if found is None:
        if strict and layout.exists():
            refuse_foreign_files(find_foreign_files(artifacts))
        present = survey_selection(inputs.selection, None, artifacts)
        require_coverage(present, inputs.request.coverage.min_fraction)
        warnings = (
            *inputs.warnings,
            *inputs.judge(present.counts).warnings,
            *_refusal_warning(state, inputs),
        )
    else:
        warnings = report_up_to_date(found, inputs).warnings
    to_embed = _to_embed(artifacts, state, plan)
    return PlanReport(
        identity=inputs.identity,
        decision="reused" if found else "build",
        steps=plan.summary(),
        tiles=len(inputs.selection.tiles),
        wanted=inputs.selection.wanted,
        to_embed=sum(to_embed.values()),
        seconds=_embedding_seconds(layout, to_embed) if layout.exists() else None,
        chunks=inputs.selection.chunk_count,
        levels=inputs.level_documents(),
        bytes=estimate_build(layout, state, inputs, plan).total,
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
    return history.state


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


def _embedding_seconds(layout: Layout, numbers: dict[str, int]) -> float | None:
    """Return how long it takes to embed these numbers of digests by vector space; None if a rate is not known."""
    if not any(numbers.values()):
        return 0.0
    rates = _embedding_rates(layout)
    if any(space not in rates for space, number in numbers.items() if number):
        return None
    return round(sum(rates.get(space, 0.0) * number for space, number in numbers.items()) / 1e9, 1)


def _embedding_rates(layout: Layout) -> dict[str, float]:
    """Return the nanoseconds per digest of the last build of each vector space."""
    began: dict[tuple[int | None, str], int] = {}
    totals: dict[tuple[int | None, str], int] = {}
    rates = dict[str, float]()
    for entry in read_history(layout).facts:
        match entry.event:
            case StepStarted(kind="cells", key=space):
                began.setdefault((entry.build, space), entry.mono_ns)
            case CellEmbedded(space=space) as made if (entry.build, space) in began:
                each = entry.build, space
                embedded = totals[each] = totals.get(each, 0) + made.embedded
                took = entry.mono_ns - began[each]
                if embedded and took > 0:
                    rates[space] = took / embedded
            case _:
                continue
    return rates


def _refusal_warning(state: State, inputs: Inputs) -> tuple[CacheWarning, ...]:
    undone = undone_text(state, inputs.identity)
    if undone is None:
        return ()
    return (
        CacheWarning(
            kind="rolled-back-from",
            message=f"this is {undone}: it is refused",
            hint=undone_hint(state, inputs.identity),
        ),
    )


def _to_embed(artifacts: Artifacts, state: State, plan: BuildPlan) -> dict[str, int]:
    """Return how many digests must go through each network, by vector space."""
    stale: dict[str, set[str]] = {each.components["space"]: set() for each in plan.cells}
    for each in plan.stale:
        stale[each.components["space"]].update(each.cell.units.hex_digests)
    found = {}
    for space, digests in stale.items():
        known = ReusableRows(artifacts, state.step_cache.blocks_in(space))
        found[space] = sum(digest not in known for digest in digests)
    return found
