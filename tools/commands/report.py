"""`report`: write a replay as an HTML page. It reads the cache, and writes only the page."""

import os
from pathlib import Path
from typing import Any

import click

from store.base.clock import SystemClock, utc_day
from tools.analysis.replay_document import replay_build
from tools.command import LOCAL_FILE, NUMBER, Answer, Call, shared_options
from tools.forensics.ground.kept_tiles import kept_tiles
from tools.forensics.history import BuildHistory
from tools.output import render
from tools.record_source import read_source, source_options
from tools.report.imagery import imagery_document
from tools.report.page import page
from tools.report.write_page import check_target, write_page


@click.command()
@click.argument("build", metavar="[BUILD | @RECORD]", required=False)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    type=LOCAL_FILE,
    help="Page to write; - is standard output.",
)
@click.option("--at", type=NUMBER, metavar="RECORD", help="Show the state after this record.")
@source_options
@shared_options()
def report(
    call: Call, *, build: str | None, target: Path, at: int | None, journal: Path | None, bundle: Path | None
) -> Answer:
    """Write a build as one HTML page: map, replay, failing inputs, comparison.

    Default: the newest build that was not committed. The page needs no network.
    """
    to_stdout = str(target) == "-"
    if to_stdout and call.as_json:
        raise click.UsageError("expected -o FILE beside --json, found -o -")
    if not to_stdout:
        check_target(target, call.cache if journal is None else _cache_of(journal))
    source = read_source(call, journal, bundle)
    builds = BuildHistory(source=source, at=at)
    document = replay_build(builds, word=build, today=utc_day(SystemClock()))
    data = page(document, _imagery(builds, document["build"])).encode()
    if to_stdout:
        return Answer(raw=data)
    write_page(target, data)
    return Answer(
        document={
            "path": str(target),
            "bytes": len(data),
            **{name: document[name] for name in ("build", "at", "status", "summary")},
        },
        lines=[
            *render.wrap(str(document["summary"])),
            "",
            *render.fields(("page", target), ("size", render.size(len(data)))),
        ],
        lasting=True,
    )


def _imagery(builds: BuildHistory, number: int | None) -> dict[str, Any]:
    if number is None:
        return imagery_document({}, lambda _: (), "a run that never became a build has no tiles")
    kept = kept_tiles(builds, number)
    return imagery_document(kept.counts(), kept.read, kept.reason)


def _cache_of(journal: Path) -> Path | None:
    """Return the cache that a journal is in, if it is in one."""
    folder = Path(os.path.realpath(journal)).parent
    return folder if (folder / "artifacts").is_dir() else None
