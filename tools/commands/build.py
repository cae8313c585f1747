"""`build`: build a flight cache."""

import shlex
from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.report import BuildReport
from store.disk.layout import Layout
from tools.command import Answer, Call, print_error, print_message, shared_options
from tools.commands.plan import plan_answer
from tools.exit_codes import CODES
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, executor_options, provisioner


@click.command()
@REQUEST
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--again", is_flag=True, help="Build even what is there already, or was rolled back from.")
@click.option("--strict", is_flag=True, help="Fail before the commit if there is anything to warn of.")
@executor_options
@shared_options()
def build(
    call: Call,
    *,
    request_file: Path,
    dry_run: bool,
    again: bool,
    strict: bool,
    **executor: object,
) -> Answer:
    """Build the flight cache that REQUEST describes. Do nothing if it is there already."""
    if dry_run:
        return plan_answer(call, request_file, executor, strict=strict)
    request = BuildRequest.load(request_file)
    with shown_progress() as progress:
        builder = provisioner(call, progress=progress, **executor)
        report = builder.build_cache_artifacts(request, force=again, strict=strict)
    return build_answer(report, call.root)


def build_answer(report: BuildReport, root: Path) -> Answer:
    """Return the answer of a build; print on standard error what went wrong."""
    document = report.to_document()
    lines = render.build_report(document, first=_shows_nothing(root))
    error = report.error
    if error is None:
        return Answer(document=document, lines=lines, lasting=True)
    where = error.step if error.subject in error.message else f"{error.step} {error.subject}"
    print_error(f"{where}: {error.message}", error.hint)
    if report.build is not None:
        print_message(f"  -> what happened: c10 replay {report.build} --cache {shlex.quote(str(root))}")
    return Answer(document=document, lines=lines, code=CODES[error.category])


def _shows_nothing(root: Path) -> bool:
    """Return whether the cache has no generation, as far as that can be read."""
    try:
        return not Layout(root).manifest_files()
    except OSError:
        return False
