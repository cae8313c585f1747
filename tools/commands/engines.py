"""`engines`: compile the networks of a request, without a build."""

from pathlib import Path

import click

from pipeline import BuildRequest
from pipeline.build.engines_only import EnginesReport
from tools.command import Answer, Call, print_error, shared_options
from tools.exit_codes import CODES, ExitCode
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import REQUEST, provisioner


@click.command()
@REQUEST
@shared_options()
def engines(call: Call, *, request_file: Path) -> Answer:
    """Compile the networks of REQUEST for this device, for the next build. Does not wait for a build."""
    request = BuildRequest.load(request_file)
    with shown_progress() as progress:
        report = provisioner(call, progress=progress).compile_engines_for_corpus(request)
    code = ExitCode.DONE
    if report.error is not None:
        code = CODES[report.error.category]
        print_error(report.error.message, report.error.hint)
    return Answer(document=report.to_document(), lines=_lines(report), code=code, lasting=True)


def _lines(report: EnginesReport) -> list[str]:
    rows = [
        (
            each.model,
            str(each.outcome),
            render.size(each.artifact.size) if each.artifact else None,
            render.seconds(each.seconds),
            each.artifact.sha256[:16] if each.artifact else None,
        )
        for each in report.engines
    ]
    return render.table(("model", "outcome", "size", "took", "sha256"), rows, right="  rr")
