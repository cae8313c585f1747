"""Ask a cache for the places of photographs whose true place is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pipeline.errors import RequestError
from pipeline.progress import Progress
from pipeline.proof.measure import MOST_CANDIDATES, Found, found_for, prior
from pipeline.proof.truth_table import Photograph, parse_truth
from pipeline.request.files import base_folder, read_request_text
from pipeline.request.geometry import BoxE7, contains, degrees_to_e7
from pipeline.tiles.photograph import decode_photograph, read_photograph
from store.base.camera import Camera
from store.errors import ArgumentError
from store.reader.answer import Answer
from store.reader.locate import Locator
from store.reader.question import parse_question
from store.runtime.load import EngineRunError

_MAX_TABLE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthTable:
    """A table of true places as it was read.

    Attributes:
        folder: Where the names of its photographs start from.
        photographs: Its rows.
        sha256: Digest of its text.
        digests: Digest of each photograph's file, 32 bytes, in the order of the rows.
    """

    folder: Path
    photographs: tuple[Photograph, ...]
    sha256: str
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A photograph, the whole answer for it, and how far that is off."""

    photograph: Photograph
    answer: Answer
    found: Found


def read_truth(path: Path) -> TruthTable:
    """Read a table of true places, and each photograph once.

    Raises:
        RequestError: The table is empty or wrong, or a photograph cannot be read.
    """
    text = read_request_text(path, what="a table of true places", limit=_MAX_TABLE_BYTES)
    folder, rows = base_folder(path), parse_truth(text, path.name)
    return TruthTable(
        folder=folder,
        photographs=rows,
        sha256=sha256(text.encode()).hexdigest(),
        digests=tuple(sha256(read_photograph(folder / row.file)).digest() for row in rows),
    )


def ask_all(
    table: TruthTable,
    locator: Locator,
    *,
    area: BoxE7,
    near_m: float | None,
    progress: Progress,
) -> list[Asked]:
    """Ask for the place of every photograph, in the order of the rows.

    Args:
        table: The photographs.
        locator: What finds their places.
        area: The box of the cache; a photograph outside of it counts as wrong.
        near_m: If given, chunks within so many metres of a guess alone are searched (`pipeline.proof.measure.prior`).
        progress: Shows how far it is.

    Raises:
        RequestError: A photograph was changed, cannot be decoded or is not of the cache's camera.
        store.runtime.ExecutionError: The network did not run.
    """
    _require_camera(table.photographs, locator)
    progress.start("prove", total=len(table.photographs), unit="photographs")
    asked = []
    for row, digest in zip(table.photographs, table.digests, strict=True):
        asked.append(_ask(row, table.folder / row.file, digest, locator, area=area, near_m=near_m))
        progress.advance()
    progress.finish()
    return asked


def _require_camera(rows: Sequence[Photograph], locator: Locator) -> None:
    """Refuse altitudes before anything is asked, if the calibration has no camera."""
    row = next((each for each in rows if each.altitude_m is not None), None)
    if row is None:
        return
    try:
        Camera.from_document(locator.calibration)
    except ValueError as error:
        raise RequestError(
            f"{row.file}: expected a camera in the calibration of the cache for altitude_m, found: {error}",
            hint="give gsd_m instead, or build with a calibration with width, height, fx, fy, cx and cy of this camera",
        ) from error


def _ask(
    row: Photograph, path: Path, digest: bytes, locator: Locator, *, area: BoxE7, near_m: float | None
) -> Asked:
    data = read_photograph(path)
    if sha256(data).digest() != digest:
        raise RequestError(f"expected {path} to stay as it is, found that it changed", hint="run it again")
    guess = None if near_m is None else (*prior(row.place, digest, near_m), near_m)
    question = parse_question(
        altitude_m=row.altitude_m,
        metres_per_pixel=row.metres_per_pixel,
        heading_deg=row.heading_deg,
        near=guess,
        headings=1,
        pitch_deg=None,
        roll_deg=None,
        k=MOST_CANDIDATES,
    )
    frame = decode_photograph(data, path)
    try:
        answer = locator.locate(frame, question)
    except ArgumentError as error:
        raise RequestError(f"{path}: {error.message}", hint=error.hint) from error
    except EngineRunError as error:
        raise EngineRunError(f"{path}: {error.message}", hint=error.hint) from error
    lon, lat = row.place
    return Asked(
        photograph=row,
        answer=answer,
        found=found_for(
            row.file,
            row.place,
            ((each.longitude, each.latitude) for each in answer.candidates),
            answer.margin,
            outside=not contains(area, degrees_to_e7(lon), degrees_to_e7(lat)),
        ),
    )


def warnings_of(asked: Sequence[Asked], say: Callable[[str], None]) -> None:
    """Say which photographs lie outside of the area, and what made answers doubtful; few lines for many."""
    outside = [each.photograph.file for each in asked if each.found.outside]
    if outside:
        say(f"{_some(outside)} outside of the area of the cache, so that no answer for it is right")
    doubtful = [each for each in asked if each.answer.warnings]
    if doubtful:
        first = doubtful[0]
        say(f"{_some([each.photograph.file for each in doubtful])}: {first.answer.warnings[0]}")


def _some(files: Sequence[str]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more
