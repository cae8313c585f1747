"""`report`: one build as one page that people can look at. It reads the cache, and writes nothing but the page."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from store.errors import ErrorKind, RequestRefusedError, from_os_error
from store.files.regular_file import open_regular
from tools.analysis.replay_document import replay as told
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.record_source import read_source, source_options
from tools.report.page import MARK, page

_HEAD: Final = 512
"""So many bytes of a page hold its mark."""


@click.command()
@click.argument("build", metavar="[BUILD | @RECORD]", required=False)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="The page to be made; - is standard output.",
)
@click.option("--at", type=click.IntRange(1), metavar="RECORD", help="As it was after this record.")
@source_options
@shared_options()
def report(
    call: Call, *, build: str | None, target: Path, at: int | None, journal: Path | None, bundle: Path | None
) -> Answer:
    """Draw a build as one page: map, replay, failing inputs, comparison.

    Without BUILD, the newest that did not end in a commit. The page needs no network.
    """
    to_stdout = str(target) == "-"
    if to_stdout and call.as_json:
        raise click.UsageError("expected -o FILE beside --json, found -o -")
    if not to_stdout:
        _require_ours(target, call.cache if journal is None else _beside(journal))
    document = told(read_source(call, journal, bundle), word=build, at=at)
    data = page(document).encode()
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
            *render.facts((("page", target), ("size", render.size(len(data))))),
        ],
    )


def _beside(journal: Path) -> Path | None:
    """The cache whose journal is read, if it was not copied elsewhere."""
    folder = journal.resolve().parent
    return folder if (folder / "artifacts").is_dir() else None


def _require_ours(target: Path, cache: Path | None) -> None:
    """Refuse a target that is part of a cache, or that is something else than an earlier page."""
    if cache is not None and target.resolve().is_relative_to(cache.resolve()):
        raise _refused(target, "one inside of the cache")
    if not target.parent.is_dir():
        raise _refused(target, "that there is no folder for it")
    if os.path.lexists(target) and not _is_page(target):
        raise _refused(target, "something else under this name")


def _is_page(target: Path) -> bool:
    try:
        if not stat.S_ISREG(target.lstat().st_mode):
            return False
        with target.open("rb") as file:
            return MARK in file.read(_HEAD)
    except OSError as error:
        raise from_os_error(error, f"page {target}") from error


def _write(target: Path, data: bytes) -> None:
    """Write the page; one that was cut short by an error is removed, and no file is ever written through a link."""
    try:
        fd = open_regular(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):
                target.unlink()
            raise
    except OSError as error:
        raise from_os_error(error, f"page {target}") from error


def _refused(target: Path, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected a new file for the page or an earlier page, outside of the cache, found {found}: {target}",
        kind=ErrorKind.FILE_SYSTEM,
        hint="choose another -o FILE",
    )
