"""`init`: write a request for imagery."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from pipeline.errors import PipelineError
from pipeline.planning.draft.draft_of_source import draft_request
from pipeline.planning.draft.request_draft import RequestDraft
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.request.geometry import E7
from pipeline.request.rules import altitudes, number
from pipeline.request.validation import InvalidValueError
from pipeline.tiles.sources.registry import open_source
from store.base.cache_warning import CacheWarning
from store.base.clock import SystemClock, utc_day
from store.errors import Category, ErrorKind, RequestRefusedError
from tools.command import LOCAL_FILE, PATH, Answer, Call, shared_options
from tools.output import render
from tools.output.progress import shown_progress
from tools.report.write_page import write_whole

_CALIBRATION: Final = "calibration.json"
_EMPTY_BYTES: Final = 64
"""What is read of a calibration to see whether it is empty."""


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


class _Width(click.ParamType[float]):
    """Width of a corridor."""

    name = "width"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the width."""
        try:
            return number(1, 50_000)(float(value))
        except (ValueError, InvalidValueError):
            self.fail(f"expected a width of 1 to 50000 m, found {value!r}", param, ctx)


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=LOCAL_FILE, metavar="FILE", help="The request to write.")
@click.option(
    "--area", type=PATH, metavar="FILE", help="Ground to build: GeoJSON, KML, KMZ, or a plan of a mission."
)
@click.option(
    "--width",
    type=_Width(),
    metavar="M",
    help="Width of the corridor along the routes of --area, metres; 500 if absent.",
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
    width: float | None,
    camera: Path | None,
    altitude: tuple[float, float] | None,
    force: bool,
) -> Answer:
    """Write a request with comments for the imagery in SOURCE.

    SOURCE is a folder of tiles, an archive of them, or GeoTIFF files.
    """
    if altitude is not None and camera is None:
        raise click.UsageError("expected --camera FILE with --altitude, found none")
    if width is not None and area is None:
        raise click.UsageError("expected --area FILE with a route for --width, found none")
    _check_target(output, force=force)
    base = Path(os.path.realpath(output.parent))
    calibration = base / _CALIBRATION if camera is None else camera
    has_calibration = camera is not None or os.path.lexists(calibration)
    paths, further = [_relative(path, base) for path in sources], _relative(calibration, base)
    ground = None if area is None else _relative(area, base)
    _require_printable(*paths, further, *filter(None, [ground]))
    try:
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
                paths=paths,
                calibration=further,
                has_camera=has_calibration and not _is_empty(calibration),
                altitude_m=altitude,
                area=ground,
                width_m=width,
                today=utc_day(SystemClock()),
            )
    except PipelineError as error:
        error.category = Category.REFUSED  # nothing was built
        raise
    if has_calibration:
        # It is used as it is.
        read_calibration(draft.request())
    _write(draft, output, None if has_calibration else calibration, force=force)
    return _answer(draft, output, calibration)


def _answer(draft: RequestDraft, output: Path, calibration: Path) -> Answer:
    captured, looks = draft.captured, draft.looks
    warnings = [each.to_document() for each in _warnings(draft)]
    document = {
        "path": str(output),
        "calibration": str(calibration),
        "bbox": [edge / E7 for edge in draft.box_e7],
        "width_m": draft.width_m,
        "zoom": list(draft.zoom),
        "metres_per_pixel": None if draft.pixel_m is None else round(draft.pixel_m, 3),
        "captured": None if captured is None else captured.isoformat(),
        "tiles": draft.tiles,
        "wanted": draft.wanted,
        "coverage": round(draft.coverage, 6),
        "localisable": round(draft.localisable, 6),
        "min_fraction": draft.min_fraction,
        "looked_at": looks.seen,
        "unreadable": looks.unreadable,
        "warnings": warnings,
    }
    pixel = "" if draft.pixel_m is None else f", {draft.pixel_m:.2f} m per pixel"
    lines = [
        *render.fields(
            ("request", output),
            ("calibration", calibration),
            ("corridor", _corridor(draft)),
            ("zoom", f"{draft.zoom[0]} to {draft.zoom[1]}{pixel}"),
            ("tiles", f"{draft.tiles:,} of {draft.wanted:,}"),
            ("localisable", f"about {draft.localisable:.0%} of the area" if draft.localisable < 1 else None),
            ("unreadable", f"{looks.unreadable:,} of {looks.seen:,} tiles" if looks.unreadable else None),
            ("captured", captured or "unknown: fill it in"),
        ),
        *render.warning_lines(warnings),
        "",
        f"Correct what is marked in it, then: c10 plan {shlex.quote(str(output))} --cache DIR",
    ]
    return Answer(document=document, lines=lines, lasting=True)


def _corridor(draft: RequestDraft) -> str | None:
    """Return the width of the corridor for a reader; None without routes."""
    if draft.width_m is None:
        return None
    return f"{draft.width_m:g} m wide" + (", assumed: --width M says another" if draft.width_assumed else "")


def _warnings(draft: RequestDraft) -> list[CacheWarning]:
    """Return why no build would take the request as it is, if that is known."""
    if not draft.falls_short:
        return []
    message = f"the imagery has {draft.coverage:.1%} of the area{draft.corridor}"
    message += f"; a build takes no less than {draft.min_fraction:.0%}"
    hint = "correct the area or coverage.min_fraction in the request, or name more imagery"
    return [CacheWarning(kind="coverage", message=message, hint=hint)]


def _relative(path: str | Path, base: Path) -> str:
    """Return a path from the folder of the request; links to folders stay out of it, since `..` does not undo them."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - patterns of tiles are paths, too
    return os.path.relpath(os.path.join(os.path.realpath(folder), name), base)  # noqa: PTH118 - as above


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse a name that is taken, before anything is read."""
    if str(target) == "-":
        raise _refused(
            "a file for the request, found '-'", "name a file: the paths in a request start from its folder"
        )
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


def _require_printable(*paths: str) -> None:
    for path in paths:
        if not path.isprintable():
            raise _refused(
                f"paths that a request can have, found one that cannot be printed: {path}",
                "rename the file or folder",
            )


def _write(draft: RequestDraft, output: Path, calibration: Path | None, *, force: bool) -> None:
    """Write a request, and an empty calibration if there is none yet: both or nothing."""
    if calibration is not None:
        write_whole(calibration, b"{}\n", what="calibration", over=False)
    try:
        write_whole(output, draft.text().encode(), what="request", over=force)
    except BaseException:
        if calibration is not None:
            with suppress(OSError):
                calibration.unlink()
        raise


def _is_empty(calibration: Path) -> bool:
    """Return whether a calibration file is the empty object that stands for one."""
    try:
        with calibration.open("rb") as file:
            return file.read(_EMPTY_BYTES).split() in ([b"{}"], [b"{", b"}"])
    except OSError:
        return False
