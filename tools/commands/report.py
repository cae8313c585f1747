"""`report`: write a replay as an HTML page. It reads the cache, and writes only the page."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from store.base.clock import SystemClock, utc_day
from store.errors import ErrorKind, RequestRefusedError, TranslateOSErrors
from store.files.regular_file import open_regular
from tools.analysis.replay_document import replay_build
from tools.command import LOCAL_FILE, NUMBER, Answer, Call, shared_options
from tools.forensics.history import BuildHistory
from tools.forensics.kept_tiles import kept_tiles
from tools.output import render
from tools.record_source import read_source, source_options
from tools.report.imagery import imagery_document
from tools.report.page import MARK, page

_HEAD: Final = 512
"""Length of the beginning of a page that holds its mark, bytes."""


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
        _check_target(target, call.cache if journal is None else _cache_of(journal))
    source = read_source(call, journal, bundle)
    builds = BuildHistory(source=source, at=at)
    document = replay_build(builds, word=build, today=utc_day(SystemClock()))
    data = page(document, _imagery(builds, document["build"])).encode()
    if to_stdout:
        return Answer(raw=data)
    _write(target, data)
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
    folder = journal.resolve().parent
    return folder if (folder / "artifacts").is_dir() else None


def _check_target(target: Path, cache: Path | None) -> None:
    """Refuse to write into a cache, or over anything that is not an earlier page."""
    if cache is not None and target.resolve().is_relative_to(cache.resolve()):
        raise _refused(target, "one inside of the cache")
    if not target.parent.is_dir():
        raise _refused(target, "that there is no folder for it")
    if os.path.lexists(target) and not _is_page(target):
        raise _refused(target, "something else under this name")


def _is_page(target: Path) -> bool:
    with TranslateOSErrors(f"page {target}"):
        if not stat.S_ISREG(target.lstat().st_mode):
            return False
        with target.open("rb") as file:
            return MARK in file.read(_HEAD)


def _write(target: Path, data: bytes) -> None:
    """Write the page, never through a link; remove it again if an error cuts it short."""
    with TranslateOSErrors(f"page {target}"):
        fd = open_regular(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):
                target.unlink()
            raise


def _refused(target: Path, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected a new file for the page or an earlier page, outside of the cache, found {found}: {target}",
        kind=ErrorKind.FILE_SYSTEM,
        hint="choose another -o FILE",
    )
