"""Parse a table of true places: which photographs were taken where, and from how high. Pure.

It is a CSV file with a header. `file`, `lon` and `lat` are required, and one of `altitude_m` and `gsd_m` in each
row; `heading_deg` may be missing or empty. Further columns are ignored.
"""

import csv
import math
from collections.abc import Mapping, Sequence

from pipeline.errors import ErrorKind, RequestError
from store.base.valueclass import valueclass

MAX_PHOTOGRAPHS = 10_000
_REQUIRED = ("file", "lon", "lat")
_SCALES = ("altitude_m", "gsd_m")
_FULL_TURN = 360.0
_HINTS = {
    "lon": "write it in degrees, with a decimal point",
    "lat": "write it in degrees, with a decimal point",
    "altitude_m": "write the metres above ground, with a decimal point",
    "gsd_m": "write the metres of ground per pixel, with a decimal point",
    "heading_deg": "write degrees clockwise from true north, with a decimal point; leave it empty if it is unknown",
}
_SHAPE = "the columns are file, lon, lat, altitude_m or gsd_m, and heading_deg"


@valueclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A row of the table.

    Attributes:
        file: Where the photograph is, from the table's folder.
        place: Longitude and latitude of the ground in its middle, degrees.
        altitude_m: Altitude above ground, metres; exactly one of this and the next is None.
        metres_per_pixel: How much ground a pixel shows, metres.
        heading_deg: Heading of its upper edge, degrees clockwise from true north; None if unknown.
    """

    file: str
    place: tuple[float, float]
    altitude_m: float | None
    metres_per_pixel: float | None
    heading_deg: float | None


def parse_truth(text: str, name: str) -> tuple[Photograph, ...]:
    """Return the rows of a table in their order; `name` is what to call it in messages.

    Raises:
        RequestError: It has no rows, lacks a column, or a row is wrong; the message names row and column.
    """
    lines = csv.reader(text.splitlines(keepends=True), strict=True)
    found: dict[str, Photograph] = {}
    try:
        header = [title.strip() for title in next(lines, [])]
        _require_columns(header, name)
        for cells in lines:
            if any(cell.strip() for cell in cells):
                photograph = _parse_row(header, cells, f"{name}, line {lines.line_num}")
                if photograph.file in found:
                    raise _wrong(
                        f"{name}, line {lines.line_num}: expected each photograph once, "
                        f"found {photograph.file} again",
                        "remove one of the rows",
                    )
                found[photograph.file] = photograph
    except csv.Error as error:
        raise _wrong(f"{name}, line {lines.line_num}: expected CSV, found {error}", _SHAPE) from error
    if not 1 <= len(found) <= MAX_PHOTOGRAPHS:
        raise _wrong(f"{name}: expected 1 to {MAX_PHOTOGRAPHS:,} photographs, found {len(found):,}", _SHAPE)
    return tuple(found.values())


def _require_columns(header: Sequence[str], name: str) -> None:
    missing = [title for title in _REQUIRED if title not in header]
    if not any(title in header for title in _SCALES):
        missing.append(" or ".join(_SCALES))
    if missing:
        columns = f"the column {missing[0]}" if len(missing) == 1 else f"the columns {', '.join(missing)}"
        whole = len(header) == 1 and any(mark in header[0] for mark in ";\t")
        raise _wrong(
            f"{name}: expected {columns}, found {', '.join(header) or 'nothing'}"[:500],
            "separate the columns with commas, and write decimal points" if whole else _SHAPE,
        )
    for title in (*_REQUIRED, *_SCALES, "heading_deg"):
        if header.count(title) > 1:
            raise _wrong(f"{name}: expected the column {title} once, found it twice", "remove one of them")


def _parse_row(header: Sequence[str], cells: Sequence[str], where: str) -> Photograph:
    # A decimal comma shifts the cells behind it: a heading would be taken for what it is not.
    if more := [cell for cell in cells[len(header) :] if cell.strip()]:
        raise _wrong(
            f"{where}: expected {len(header)} values, one for each column, found {len(header) + len(more)}",
            "write decimal points, and quotes around a file name with a comma",
        )
    row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    file = row.get("file", "")
    if not file:
        raise _wrong(f"{where}: expected a file, found none", "name a JPEG, PNG or WebP file")
    lon, lat = _number(row, "lon", where, 180.0), _number(row, "lat", where, 90.0)
    if lon is None or lat is None:
        raise _wrong(f"{where}: expected lon and lat in degrees, found none", "write where it was taken")
    altitude, pixel = _number(row, "altitude_m", where), _number(row, "gsd_m", where)
    if (altitude is None) == (pixel is None):
        raise _wrong(
            f"{where}: expected exactly one of altitude_m and gsd_m, "
            f"found {'neither' if altitude is None else 'both'}",
            "write the altitude above ground in metres, or the metres of ground per pixel; leave the other empty",
        )
    for title, value in (("altitude_m", altitude), ("gsd_m", pixel)):
        if value is not None and value <= 0:
            raise _wrong(f"{where}: expected {title} above 0, found {value:g}", _HINTS[title])
    return Photograph(
        file=file,
        place=(lon, lat),
        altitude_m=altitude,
        metres_per_pixel=pixel,
        heading_deg=_number(row, "heading_deg", where, _FULL_TURN),
    )


def _number(row: Mapping[str, str], title: str, where: str, most: float = math.inf) -> float | None:
    """Return a finite number of at most so much on either side of 0; None for a cell that is empty or missing."""
    text = row.get(title, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and abs(value) <= most:
        return value
    limits = f" from {-most:g} to {most:g}" if most < math.inf else ""
    hint = (
        "look whether lon and lat are exchanged" if math.isfinite(value) and title == "lat" else _HINTS[title]
    )
    raise _wrong(f"{where}: expected {title} as a number{limits}, found {text!r:.60}", hint)


def _wrong(message: str, hint: str) -> RequestError:
    return RequestError(message, hint=hint, kind=ErrorKind.BAD_REQUEST)
