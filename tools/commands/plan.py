"""`plan`: what a build would do."""

from collections.abc import Mapping
from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.strict import refuse_warnings
from pipeline.errors import PipelineError
from store.errors import Category, ManifestCoverageError
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, executor_options, provisioner


@click.command()
@REQUEST
@executor_options
@shared_options()
def plan(call: Call, *, request_file: Path, **executor: object) -> Answer:
    """Say what a build of REQUEST would do, and why, without doing it."""
    return plan_answer(call, request_file, executor)


def plan_answer(
    call: Call, request_file: Path, executor: Mapping[str, object], *, strict: bool = False
) -> Answer:
    """Return what a build of a request would do; a plan that cannot be made is a refusal, and no failed build."""
    try:
        # Fitting a head takes a while.
        with shown_progress() as progress:
            report = provisioner(call, progress=progress, **executor).plan(BuildRequest.load(request_file))
        if strict:
            refuse_warnings(report.warnings)
    except (PipelineError, ManifestCoverageError) as error:
        error.category = Category.REFUSED
        raise
    document = report.to_document()
    return Answer(document=document, lines=render.plan_report(document))
