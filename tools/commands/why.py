"""`why`: why a step ran, and where an artifact or a tile comes from."""

from pathlib import Path

import click

from tools.analysis import replay_text
from tools.analysis.why import why as explanation
from tools.command import Answer, Call, shared_options
from tools.record_source import read_source, source_options


@click.command()
@click.argument("subject")
@click.option(
    "--build", "number", type=click.IntRange(1), metavar="BUILD", help="Of which build; the one shown."
)
@source_options
@shared_options()
def why(call: Call, *, subject: str, number: int | None, journal: Path | None, bundle: Path | None) -> Answer:
    """Explain SUBJECT: a step (build, engine/NAME, cells, index, tiles), an artifact, a tile.

    A step: which component of its key changed, since which build. An artifact, by 8 or more digits: what made it. A tile, as
    zoom/x/y or descriptor id: from its row of the index to engine, network and calibration.
    """
    document = explanation(read_source(call, journal, bundle), subject, number=number)
    return Answer(document=document, lines=replay_text.why_lines(document))
