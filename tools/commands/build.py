"""`build`: build a flight cache."""

import shlex
from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.report import BuildReport
from tools.command import Answer, Call, print_error, say, shared_options
from tools.commands.plan import plan_answer
from tools.exit_codes import CODES
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, executor_options, provisioner


@click.command()
@REQUEST
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--again", is_flag=True, help="Build it even if it was rolled back from, or is there.")
@executor_options
@shared_options()
def build(
    call: Call,
    *,
    request_file: Path,
    dry_run: bool,
    again: bool,
    **executor: object,
) -> Answer:
    """Build the flight cache that REQUEST describes, or find that it is there already."""
    if dry_run:
        return plan_answer(call, request_file, executor)
    root = call.root
    request = BuildRequest.load(request_file)
    with shown_progress() as progress:
        maker = provisioner(call, progress=progress, **executor)
        report = maker.build_cache_artifacts(request, again=again)
    return build_answer(report, root)


def build_answer(report: BuildReport, root: Path) -> Answer:
    """Turn a report into an answer; what went wrong is told on standard error."""
    document = report.to_document()
    lines = render.build_report(document, report.warnings)
    error = report.error
    if error is None:
        return Answer(document=document, lines=lines)
    where = error.step if error.subject in error.message else f"{error.step} {error.subject}"
    print_error(f"{where}: {error.message}", error.hint)
    if report.build is not None:
        say(f"  -> what happened: c10 replay {report.build} --cache {shlex.quote(str(root))}")
    return Answer(document=document, lines=lines, code=CODES[error.category])
