"""Run the steps of a build in order; each stage records its own work."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from journal import Record
from pipeline.build.strict import STEP, refuse_warnings
from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.planning.plan import BuildPlan, Decision, make_plan, reusable_artifacts
from pipeline.progress import file_count
from pipeline.stages.context import BuildContext
from pipeline.stages.embed import prepare_cells
from pipeline.stages.engines.compile import forget_changed_vectors, prepare_engines
from pipeline.stages.engines.stand_in import prepare_stand_in
from pipeline.stages.index import check_area, prepare_index, walk_coverage
from pipeline.stages.packs import prepare_packs
from pipeline.stages.proof import prove_build
from store.cache.projections import find_unvouched_results
from store.domain.events import BuildPlanned, TilesSelected
from store.domain.state import State
from store.policy.vouching import Unvouched, withdraw
from store.runtime.backends.registry import DEFAULT_BACKEND
from store.verify.coverage import find_foreign_files, intact_artifacts, refuse_foreign_files, sizes


def run_steps(run: BuildContext) -> None:
    """Run every step of a started build, up to the commit.

    Raises:
        PipelineError, StoreError, JournalError: A step failed; `run.step` and `run.subject` say which.
    """
    run.enter("coverage", "strangers")
    if run.strict:
        refuse_foreign_files(find_foreign_files(run.store.artifacts))
    run.enter("plan")
    unvouched = _withdraw_unvouched(run)
    plan = _plan(run)
    if made_again := _made_again(run, plan, unvouched):
        run.withdrawn = "; ".join((", ".join(made_again), *unvouched.why))
    _record_plan(run, plan)
    area = check_area(run, None)
    if run.refuses_warnings:
        # What is known now need not wait for hours of work.
        run.enter(STEP, "warnings")
        refuse_warnings((*run.warnings, *run.inputs.judge(area.counts).warnings))
    with _workers_started(run, plan):
        prepare_engines(run, plan)
        for stand_in in plan.stand_ins:
            prepare_stand_in(run, stand_in)
        if forget_changed_vectors(run):
            plan = _plan(run)
        rows = prepare_cells(run, plan)
    index = prepare_index(run, rows)
    geography = check_area(run, rows)
    prove_build(run, index)
    packs = prepare_packs(run, rows)
    walk_coverage(run, geography, index, rows, packs)


def _workers_started(run: BuildContext, plan: BuildPlan) -> AbstractContextManager[None]:
    """Let local workers import their libraries while networks are compiled for ONNX Runtime and checked.

    Other backends compile for minutes, in which waiting workers would only take memory.
    """
    compiles = any(engine.decision is not Decision.REUSE for engine in plan.engines)
    if (
        compiles
        and plan.stale
        and run.inputs.document["engine"]["backend"] == DEFAULT_BACKEND
        and isinstance(run.batcher, LocalDescriptorBatcher)
    ):
        return run.batcher.started(DEFAULT_BACKEND)
    return nullcontext()


def _withdraw_unvouched(run: BuildContext) -> Unvouched:
    """Withdraw and return the results that no key of this builder vouches for."""
    store = run.store
    found = find_unvouched_results(
        store.state, store.journal.entries(), run.keys, own_records=run.own_records
    )
    if run.keys:
        # If another process appends meanwhile, the state is folded again, with all that was forgotten.
        store.event_store.on_folded = partial(_withdraw_again, run)
    run.append(*found.withdrawals)
    withdraw(store.state, found)
    return found


def _made_again(run: BuildContext, plan: BuildPlan, unvouched: Unvouched) -> list[str]:
    """Return what a plan makes again because it was withdrawn, for people."""
    keys = {event.key for event in unvouched.withdrawals}
    engines = [f"engine {each.model.spec.name}" for each in plan.engines if each.model.key in keys]
    names = (((each.components["space"], *each.cell.key), each.key) for each in plan.stale)
    cells = sum(name in unvouched.cells for name in names)
    head = run.store.state.head_build
    index = head is not None and head.index is not None and head.index.key in keys
    proof = head is not None and head.proof is not None and head.proof.key in keys
    units = "chunks" if run.inputs.levels else "tiles"
    return [
        *engines,
        *([f"{cells} cells of {units}"] if cells else []),
        *(["the index"] if index else []),
        *(["the proof by photographs"] if proof else []),
    ]


def _withdraw_again(run: BuildContext, state: State) -> list[Record]:
    """Withdraw what others appended meanwhile; return the records of that, without which no manifest would follow."""
    if state.open_build != run.number:
        return []
    store = run.store.event_store
    found = find_unvouched_results(
        state, store.journal.entries(), run.keys, own=run.number, own_records=run.own_records_now()
    )
    withdraw(state, found)
    return [store.record(event, build=run.number) for event in found.withdrawals]


def _plan(run: BuildContext) -> BuildPlan:
    state, progress = run.store.state, run.ports.progress
    refs = reusable_artifacts(state, run.inputs)
    if refs:
        progress.start("check reused", total=sum(ref.size for ref in set(refs)), unit="bytes")
    present = intact_artifacts(run.store.artifacts, refs, on_progress=progress.advance)
    if refs:
        progress.finish(file_count(len(present)))
    run.hashed.update(present)
    there = sizes(run.store.artifacts, refs)
    run.damaged = sorted({ref.sha256 for ref in refs if ref.sha256 in there and ref.sha256 not in present})
    return make_plan(state, run.inputs, present)


def _record_plan(run: BuildContext, plan: BuildPlan) -> None:
    run.enter("tiles")
    selection = run.inputs.selection
    selected = TilesSelected(
        digest=run.inputs.document["tiles"]["digest"],
        table=run.put(selection.encoded()),
        count=len(selection.tiles),
        wanted=selection.wanted,
        excluded=len(selection.excluded),
        warnings=tuple(map(str, (*run.warnings, *run.inputs.judge(None).warnings))),
    )
    run.append(selected, BuildPlanned(steps=plan.summary()))
