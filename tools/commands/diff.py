"""`diff`: two builds side by side."""

from pathlib import Path

import click

from tools.analysis import replay_text
from tools.analysis.replay_document import diff_document
from tools.command import NUMBER, Answer, Call, shared_options
from tools.forensics.history import BuildHistory
from tools.record_source import read_source, source_options


@click.command()
@click.argument("a", type=NUMBER)
@click.argument("b", type=NUMBER)
@source_options
@shared_options()
def diff(call: Call, *, a: int, b: int, journal: Path | None, bundle: Path | None) -> Answer:
    """Compare build B with build A: inputs, artifacts, checks, timings, host, tiles."""
    document = diff_document(BuildHistory(source=read_source(call, journal, bundle)), a, b)
    return Answer(document=document, lines=replay_text.diff_lines(document))
