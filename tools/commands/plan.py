"""`plan`: what a build would do."""

from collections.abc import Mapping
from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.report import Planned
from pipeline.build.strict import refuse_warnings
from pipeline.errors import PipelineError
from store.errors import Category, ManifestCoverageError
from tools.analysis.plan_page import plan_page
from tools.command import LOCAL_FILE, Answer, Call, print_message, shared_options
from tools.output.plan import plan_report
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, executor_options, planner
from tools.report.page import page
from tools.report.write_page import check_target, write_page


@click.command()
@REQUEST
@click.option(
    "--map",
    "map_file",
    type=LOCAL_FILE,
    metavar="FILE",
    help="Write the area as a page: outline, holes, ages of the imagery, what is embedded.",
)
@click.option("--no-measure", is_flag=True, help="Run no network for an estimate of the time.")
@executor_options
@shared_options()
def plan(
    call: Call, *, request_file: Path, map_file: Path | None, no_measure: bool, **executor: object
) -> Answer:
    """Say what a build of REQUEST would do, and why, without doing it.

    Without a cache: for an empty one. Where no earlier build on this machine tells how long it will take, the
    network embeds some tiles for a second.
    """
    if str(map_file) == "-":
        raise click.UsageError("expected --map FILE, found -: the plan is on standard output")
    return plan_answer(call, request_file, executor, measure=not no_measure, map_file=map_file)


def plan_answer(
    call: Call,
    request_file: Path,
    executor: Mapping[str, object],
    *,
    strict: bool = False,
    measure: bool = False,
    map_file: Path | None = None,
) -> Answer:
    """Return what a build of a request would do; a plan that cannot be made is a refusal, and no failed build.

    The map is written also if the build would be refused: it shows the holes.
    """
    if map_file is not None:
        check_target(map_file, call.cache, option="--map")
    found = list[Planned]()
    try:
        # Fitting a head takes a while.
        with shown_progress() as progress:
            report = planner(call, progress=progress, **executor).plan(
                BuildRequest.load(request_file),
                anywhere=call.cache is None,
                measure=measure,
                on_planned=found.append,
            )
        if strict:
            refuse_warnings(report.warnings)
    except (PipelineError, ManifestCoverageError) as error:
        error.category = Category.REFUSED
        if map_file is not None and found:
            _write_map(map_file, plan_page(found[0], None, found[0].inputs.today, error))
            print_message(f"{map_file} shows what is there")
        raise
    document = {
        "cache": None if call.cache is None else str(call.cache),
        "map": None if map_file is None else str(map_file),
        **report.to_document(),
    }
    if map_file is not None:
        _write_map(map_file, plan_page(found[0], document, found[0].inputs.today))
    return Answer(document=document, lines=plan_report(document), lasting=map_file is not None)


def _write_map(target: Path, document: Mapping[str, object]) -> None:
    write_page(target, page(document).encode())
