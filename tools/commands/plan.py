"""`plan`: what a build would do."""

from collections.abc import Mapping
from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.strict import refuse_warnings
from pipeline.errors import PipelineError
from store.errors import Category, ManifestCoverageError
from tools.command import Answer, Call, shared_options
from tools.output.plan import plan_report
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, executor_options, planner


@click.command()
@REQUEST
@click.option("--no-measure", is_flag=True, help="Run no network for an estimate of the time.")
@executor_options
@shared_options()
def plan(call: Call, *, request_file: Path, no_measure: bool, **executor: object) -> Answer:
    """Say what a build of REQUEST would do, and why, without doing it.

    Without a cache: for an empty one. Where no earlier build on this machine tells how long it will take, the
    network embeds some tiles for a second.
    """
    return plan_answer(call, request_file, executor, measure=not no_measure)


def plan_answer(
    call: Call,
    request_file: Path,
    executor: Mapping[str, object],
    *,
    strict: bool = False,
    measure: bool = False,
) -> Answer:
    """Return what a build of a request would do; a plan that cannot be made is a refusal, and no failed build."""
    try:
        # Fitting a head takes a while.
        with shown_progress() as progress:
            provisioner = planner(call, progress=progress, **executor)
            request = BuildRequest.load(request_file)
            report = provisioner.plan(request, anywhere=call.cache is None, measure=measure)
        if strict:
            refuse_warnings(report.warnings)
    except (PipelineError, ManifestCoverageError) as error:
        error.category = Category.REFUSED
        raise
    cache = None if call.cache is None else str(call.cache)
    document = {"cache": cache, **report.to_document()}
    return Answer(document=document, lines=plan_report(document))
