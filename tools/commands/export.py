"""`export`: the records of a cache, and artifacts by choice, in one file."""

from pathlib import Path
from typing import Any

import click

from store.transfer.bundle_format import Choice
from store.transfer.export import ExportResult
from store.transfer.export import export as write_bundle
from tools.command import LOCAL_FILE, NUMBER, Answer, Call, print_error, shared_options
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import byte_progress, shown_progress

_MISSING_SHOWN = 20


@click.command()
@click.argument("build", metavar="[BUILD]", required=False, type=NUMBER)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    type=LOCAL_FILE,
    help="Bundle to write.",
)
@click.option(
    "--artifacts",
    "choice",
    type=click.Choice([str(choice) for choice in Choice]),
    help="Artifacts to include; default: all, or for a failed BUILD the inputs of the failing step.",
)
@shared_options()
def export(call: Call, *, build: int | None, target: Path, choice: str | None) -> Answer:
    """Write the journal's records, up to the end of BUILD, and artifacts to one file.

    The file has checksums and the same bytes on any machine. c10 import and c10 replay --bundle read it.
    """
    with shown_progress() as progress:
        on_total, on_bytes = byte_progress(progress, "export")
        found = write_bundle(
            call.layout(),
            target,
            build=build,
            choice=None if choice is None else Choice(choice),
            on_total=on_total,
            on_bytes=on_bytes,
        )
        progress.finish()
    if found.missing:
        count = render.plural(len(found.missing), "artifact")
        print_error(
            f"expected everything that the records need, found {count} missing or damaged; the bundle is written without",
            f"c10 repair --cache {call.root}",
        )
    return Answer(
        document=_document(found),
        lines=_lines(found),
        code=ExitCode.NO_GO if found.missing else ExitCode.DONE,
        lasting=True,
    )


def _document(found: ExportResult) -> dict[str, Any]:
    header = found.header
    return {
        "file": str(found.path),
        "sha256": found.file.sha256,
        "bytes": found.file.size,
        "cache_id": header.cache_id,
        "build": header.build,
        "records": header.records,
        "chain": header.chain,
        "artifacts": {"choice": str(header.choice), "files": header.artifacts, "bytes": header.size},
        "missing": list(found.missing),
    }


def _lines(found: ExportResult) -> list[str]:
    header = found.header
    carried = f"{header.choice}: {render.plural(header.artifacts, 'file')}, {render.size(header.size)}"
    up_to = "" if header.build is None else f", up to the end of build {header.build}"
    more = len(found.missing) - _MISSING_SHOWN
    return [
        f"exported {found.path}",
        "",
        *render.fields(
            ("records", f"{render.number(header.records)}{up_to}"),
            ("artifacts", carried),
            ("size", render.size(found.file.size)),
            ("SHA-256", found.file.sha256),
        ),
        *render.fields(*(("missing", digest) for digest in found.missing[:_MISSING_SHOWN])),
        *(render.fields(("missing", f"and {more:,} more")) if more > 0 else ()),
    ]
