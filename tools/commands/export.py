"""`export`: the records of a cache, and artifacts by choice, in one file."""

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from store.errors import ErrorKind, RequestRefusedError
from store.transfer.bundle_format import Choice
from store.transfer.export import ExportResult
from store.transfer.export import export as write_bundle
from store.transfer.have import Have, read_have
from tools.command import NUMBER, Answer, Call, print_error, print_message, shared_options
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import byte_progress, shown_progress
from tools.streams import FILE_OR_STDIN, FILE_OR_STDOUT, standard_input, standard_output

_MISSING_SHOWN = 20


@click.command()
@click.argument("build", metavar="[BUILD]", required=False, type=NUMBER)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    type=FILE_OR_STDOUT,
    help="Bundle to write; - is standard output.",
)
@click.option(
    "--artifacts",
    "choice",
    type=click.Choice([str(choice) for choice in Choice]),
    help="Artifacts to include; default: all, or for a failed BUILD the inputs of the failing step.",
)
@click.option(
    "--have",
    "known",
    metavar="FILE",
    type=FILE_OR_STDIN,
    help="Leave out the artifacts that another copy has: FILE is what c10 have printed there; - is standard input.",
)
@shared_options()
def export(
    call: Call, *, build: int | None, target: Path | str, choice: str | None, known: Path | str | None
) -> Answer:
    """Write the journal's records, up to the end of BUILD, and artifacts to one file.

    The file has checksums and the same bytes on any machine. c10 import and c10 replay --bundle read it.

    With -o - the bundle is the standard output, and what is said goes to standard error; there is no --json.
    """
    if target == "-" and call.as_json:
        raise click.UsageError("expected --json or -o -, found both: standard output is the bundle")
    writing = standard_output("a bundle") if isinstance(target, str) else nullcontext(target)
    with writing as to, shown_progress(bars=isinstance(to, Path)) as progress:
        said = None if known is None else _read_have(known)
        on_total, on_bytes = byte_progress(progress, "export")
        found = write_bundle(
            call.layout(),
            to,
            build=build,
            choice=None if choice is None else Choice(choice),
            have=said,
            on_total=on_total,
            on_bytes=on_bytes,
        )
        progress.finish()
    if found.missing:
        count = render.plural(len(found.missing), "artifact")
        print_error(
            f"expected everything that the records need, found {count} missing or damaged; the bundle is written without",
            f"c10 repair --cache {shlex.quote(str(call.root))}",
        )
    code = ExitCode.NO_GO if found.missing else ExitCode.DONE
    if found.path is None:
        print_message("\n".join(_lines(found)))
        return Answer(code=code)
    return Answer(document=_document(found), lines=_lines(found), code=code, lasting=True)


def _read_have(file: Path | str) -> Have:
    if isinstance(file, str):
        return read_have(standard_input("what c10 have prints"), "standard input")
    try:
        with file.open("rb") as opened:
            return read_have(opened, str(file))
    except OSError as error:
        raise RequestRefusedError(
            f"{file}: expected what c10 have printed, found {error.strerror}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="name another --have FILE",
        ) from error


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
        "held": found.held,
        "missing": list(found.missing),
    }


def _lines(found: ExportResult) -> list[str]:
    header = found.header
    held = f"; {render.number(found.held)} are there already" if found.held else ""
    carried = f"{header.choice}: {render.plural(header.artifacts, 'file')}, {render.size(header.size)}{held}"
    up_to = "" if header.build is None else f", up to the end of build {header.build}"
    more = len(found.missing) - _MISSING_SHOWN
    return [
        f"exported {found.path or 'to standard output'}",
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
