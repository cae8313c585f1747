"""The steps of a build, in their order; each stage does its own work and journals it."""

from pipeline.planning.plan import BuildPlan, needed
from pipeline.planning.plan import plan as make_plan
from pipeline.stages.compile import prepare_engines, vectors_forgotten
from pipeline.stages.context import Run
from pipeline.stages.embed import prepare_cells
from pipeline.stages.index import prepare_index, survey, walk_coverage
from pipeline.stages.stand_in import prepare_stand_in
from store.domain.events import BuildPlanned, TilesSelected
from store.verify.coverage import find_foreign_files, intact_artifacts, refuse_foreign_files


def take_steps(run: Run) -> None:
    """Take every step of a build that was begun, up to the commit.

    Raises:
        PipelineError, StoreError, JournalError: A step failed; `run.step` and `run.subject` tell which.
    """
    run.enter("coverage", "strangers")
    if run.strict:
        refuse_foreign_files(find_foreign_files(run.store.artifacts))
    run.enter("plan")
    plan = _plan(run)
    _select(run, plan)
    prepare_engines(run, plan)
    if plan.stand_in is not None:
        prepare_stand_in(run, plan.stand_in)
    if vectors_forgotten(run):
        plan = _plan(run)
    rows = prepare_cells(run, plan)
    index = prepare_index(run, rows)
    geography = survey(run, rows)
    walk_coverage(run, geography, index, rows)


def _plan(run: Run) -> BuildPlan:
    state, progress = run.store.state, run.ports.progress
    refs = needed(state, run.inputs)
    if refs:
        progress.start("check what exists", total=sum(ref.size for ref in set(refs)), unit="bytes")
    present = intact_artifacts(run.store.artifacts, refs, on_progress=progress.advance)
    if refs:
        progress.finish(f"{len(present)} files")
    run.hashed.update(present)
    return make_plan(state, run.inputs, present)


def _select(run: Run, plan: BuildPlan) -> None:
    run.enter("tiles")
    selection = run.inputs.selection
    selected = TilesSelected(
        digest=run.inputs.document["tiles"]["digest"],
        table=run.put(selection.encoded()),
        count=len(selection.tiles),
        wanted=selection.wanted,
        excluded=len(selection.excluded),
        warnings=run.inputs.warnings,
    )
    run.append(selected, BuildPlanned(steps=plan.summary()))
