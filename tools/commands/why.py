"""`why`: why a step ran, and where an artifact or a tile comes from."""

from pathlib import Path

import click

from tools.analysis import replay_text
from tools.analysis.why import why as explain
from tools.command import NUMBER, Answer, Call, shared_options
from tools.record_source import read_source, source_options


@click.command()
@click.argument("subject")
@click.option(
    "--build",
    "number",
    type=NUMBER,
    metavar="BUILD",
    help="Build to look at; default: the one that the head shows; of a bundle, the one that replay shows.",
)
@source_options
@shared_options()
def why(call: Call, *, subject: str, number: int | None, journal: Path | None, bundle: Path | None) -> Answer:
    """Explain SUBJECT: a step (build, engine/NAME, cells, index, tiles), an artifact or a tile.

    A step: which component of its key changed, and since which build. An artifact (8 or more digits of its
    digest): which step made it. A tile (zoom/x/y or descriptor id): its index row, block, engine, network and
    calibration.
    """
    document = explain(read_source(call, journal, bundle), subject, number=number)
    return Answer(document=document, lines=replay_text.why_lines(document))
