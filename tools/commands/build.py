"""`build`, `plan` and `rollback`: the commands that work through the provisioner."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from pipeline import BuildRequest, C10ProvisionerConfig, build_cache_provisioner
from pipeline.build.report import BuildReport
from pipeline.progress import Progress
from pipeline.provisioner import CacheProvisioner
from tools.command import Answer, Call, Command, complain, say, shared_options
from tools.exit_codes import CODES
from tools.output import render
from tools.output.progress import shown_progress

REQUEST = click.argument("request_file", metavar="REQUEST", type=click.Path(path_type=Path, readable=False))


def executor_options(command: Command) -> Command:
    """Give a command the options that say where tiles are embedded; it receives them as settings by their names."""
    for option in (
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="That cluster: HOST:PORT, auto, or local for one started here for this command.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            help="Where tiles are embedded: processes here, or actors on a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=int,
            metavar="N",
            help="Embedding processes or actors; one per core if absent.",
        ),
    ):
        command = option(command)
    return command


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
        return _planned(call, request_file, executor)
    root = call.root
    request = BuildRequest.load(request_file)
    with shown_progress() as progress:
        maker = provisioner(call, progress=progress, **executor)
        report = maker.build_cache_artifacts(request, force=again)
    return build_answer(report, root)


@click.command()
@REQUEST
@executor_options
@shared_options()
def plan(call: Call, *, request_file: Path, **executor: object) -> Answer:
    """Say what a build of REQUEST would do, and why; do nothing."""
    return _planned(call, request_file, executor)


@click.command()
@click.option("--to", type=int, metavar="GENERATION", help="A generation; by default the build before.")
@click.option("--why", default="", metavar="TEXT", help="For the record.")
@shared_options()
def rollback(call: Call, *, to: int | None, why: str) -> Answer:
    """Go back to an earlier committed build, as a new generation."""
    report = provisioner(call).rollback(to, why)
    for warning in report.warnings:
        say(f"c10: warning: {warning}")
    document = report.to_document()
    return Answer(document=document, lines=render.rollback_report(document))


def provisioner(call: Call, *, progress: Progress | None = None, **flags: object) -> CacheProvisioner:
    """Put a provisioner together from settings and flags, which are settings by their names.

    Raises:
        click.UsageError: The address of a cluster was given, and tiles are not embedded on one.
        RequestError: A setting is wrong.
    """
    config = C10ProvisionerConfig.from_settings(
        call.settings(**flags), cache_root=call.root, digest_cache_folder=call.digest_cache_folder()
    )
    if flags.get("ray_address") is not None and config.executor != "ray":
        raise click.UsageError(f"expected --executor ray with --ray-address, found {config.executor!r}")
    return build_cache_provisioner(config, progress=progress)


def build_answer(report: BuildReport, root: Path) -> Answer:
    """Turn a report into an answer; what went wrong is told on standard error."""
    document = report.to_document()
    lines = render.build_report(document, report.warnings)
    error = report.error
    if error is None:
        return Answer(document=document, lines=lines)
    where = error.step if error.subject in error.message else f"{error.step} {error.subject}"
    complain(f"{where}: {error.message}", error.hint)
    if report.build is not None:
        say(f"  -> what happened: c10 replay {report.build} --cache {shlex.quote(str(root))}")
    return Answer(document=document, lines=lines, code=CODES[error.category])


def _planned(call: Call, request_file: Path, executor: Mapping[str, object]) -> Answer:
    report = provisioner(call, progress=None, **executor).plan(BuildRequest.load(request_file))
    document = report.to_document()
    return Answer(document=document, lines=render.plan_report(document))
