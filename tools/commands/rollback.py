"""`rollback`: go back to an earlier build."""

import click

from tools.command import NUMBER, Answer, Call, shared_options
from tools.output import render
from tools.provisioner import provisioner


@click.command()
@click.option(
    "--to",
    type=NUMBER,
    metavar="GENERATION",
    help="Generation to show again; by default that of the build before.",
)
@click.option("--why", default="", metavar="TEXT", help="Reason to record.")
@shared_options()
def rollback(call: Call, *, to: int | None, why: str) -> Answer:
    """Go back to an earlier committed build, as a new generation."""
    report = provisioner(call).rollback(to, why)
    document = report.to_document()
    lines = [*render.rollback_report(document), *render.warning_lines(document["warnings"])]
    return Answer(document=document, lines=lines, lasting=True)
