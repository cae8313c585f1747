"""`init`: write a request for imagery."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pipeline.planning.draft_of_source import draft_request
from pipeline.planning.request_draft import RequestDraft
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.request.geometry import E7
from pipeline.request.rules import altitudes
from pipeline.request.validation import InvalidValueError
from pipeline.tiles.sources.registry import open_source
from store.base.clock import SystemClock, utc_day
from store.errors import ErrorKind, RequestRefusedError, TranslateOSErrors
from store.files.regular_file import open_regular
from tools.command import LOCAL_FILE, PATH, Answer, Call, shared_options
from tools.output import render
from tools.output.progress import shown_progress

_CALIBRATION = "calibration.json"


class _Altitudes(click.ParamType[tuple[float, float]]):
    """A height, or the lowest and the highest."""

    name = "altitudes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the lowest and the highest height."""
        try:
            given = [float(part) for part in str(value).split(",")]
            return altitudes(given[0] if len(given) == 1 else given)
        except (ValueError, InvalidValueError):
            self.fail(f"expected a height of 1 to 30000 m, or LOWEST,HIGHEST, found {value!r}", param, ctx)


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=LOCAL_FILE, metavar="FILE", help="The request to write.")
@click.option(
    "--area", type=PATH, metavar="FILE", help="Ground to build: GeoJSON, KML, KMZ, or a plan of a mission."
)
@click.option("--camera", type=PATH, metavar="FILE", help="Calibration of the camera (JSON).")
@click.option(
    "--altitude",
    type=_Altitudes(),
    metavar="M[,M]",
    help="Height of the flight above ground, metres, or lowest and highest; needs --camera.",
)
@click.option("--force", is_flag=True, help="Overwrite the request if it is there.")
@shared_options(cache=False)
def init(
    call: Call,
    *,
    sources: tuple[str, ...],
    output: Path,
    area: Path | None,
    camera: Path | None,
    altitude: tuple[float, float] | None,
    force: bool,
) -> Answer:
    """Write a request with comments for the imagery in SOURCE.

    SOURCE is a folder of tiles, an archive of them, or GeoTIFF files.
    """
    if altitude is not None and camera is None:
        raise click.UsageError("expected --camera FILE with --altitude, found none")
    _check_target(output, force=force)
    base = Path(os.path.realpath(output.parent))
    calibration = base / _CALIBRATION if camera is None else camera
    with shown_progress() as progress:
        source = open_source(
            sources if len(sources) > 1 else sources[0],
            Path.cwd(),
            digest_cache_folder=call.digest_cache_folder(),
            progress=progress,
        )
        draft = draft_request(
            source,
            base=base,
            paths=[_relative(path, base) for path in sources],
            calibration=_relative(calibration, base),
            has_camera=camera is not None or os.path.lexists(calibration),
            altitude_m=altitude,
            area=None if area is None else _relative(area, base),
            today=utc_day(SystemClock()),
        )
    # A calibration that is there already is used as it is.
    if camera is not None or os.path.lexists(calibration):
        read_calibration(draft.request())
    else:
        _write(calibration, "{}\n", force=False)
    _write(output, draft.text(), force=force)
    return _answer(draft, output, calibration)


def _answer(draft: RequestDraft, output: Path, calibration: Path) -> Answer:
    captured = draft.extent.captured
    document = {
        "path": str(output),
        "calibration": str(calibration),
        "bbox": [edge / E7 for edge in draft.box_e7],
        "zoom": list(draft.zoom),
        "metres_per_pixel": None if draft.pixel_m is None else round(draft.pixel_m, 3),
        "captured": None if captured is None else captured.isoformat(),
        "tiles": draft.tiles,
        "wanted": draft.wanted,
        "coverage": round(draft.coverage, 6),
    }
    pixel = "" if draft.pixel_m is None else f", {draft.pixel_m:.2f} m per pixel"
    lines = [
        *render.fields(
            ("request", output),
            ("calibration", calibration),
            ("zoom", f"{draft.zoom[0]} to {draft.zoom[1]}{pixel}"),
            ("tiles", f"{draft.tiles:,} of {draft.wanted:,}"),
            ("captured", captured or "unknown: fill it in"),
        ),
        "",
        f"Correct what is marked in it, then: c10 plan {shlex.quote(str(output))} --cache DIR",
    ]
    return Answer(document=document, lines=lines, lasting=True)


def _relative(path: str | Path, base: Path) -> str:
    """Return a path from the folder of the request; links to folders stay out of it, since `..` does not undo them."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - patterns of tiles are paths, too
    return os.path.relpath(os.path.join(os.path.realpath(folder), name), base)  # noqa: PTH118 - as above


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse a name that is taken, before anything is read."""
    if not target.parent.is_dir():
        raise _refused(
            f"a folder for the request, found none: {target.parent}", "make it, or choose another -o FILE"
        )
    if os.path.lexists(target) and (not force or target.is_symlink() or not target.is_file()):
        mend = ", or add --force to overwrite it" if not force and target.is_file() else ""
        raise _refused(
            f"a new file for the request, found one of this name: {target}", f"choose another -o FILE{mend}"
        )


def _refused(expected: str, hint: str) -> RequestRefusedError:
    return RequestRefusedError(f"expected {expected}", kind=ErrorKind.FILE_SYSTEM, hint=hint)


def _write(target: Path, text: str, *, force: bool) -> None:
    """Write a file, never through a link, and over one that is there only if forced; remove it if that fails."""
    with TranslateOSErrors(f"request {target}"):
        descriptor = open_regular(target, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL))
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            with suppress(OSError):
                target.unlink()
            raise
