"""Read the photographs of a proof, and say what of it belongs to the identity of a build."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pipeline.errors import RequestError
from pipeline.planning.chunk_levels import ChosenLevel
from pipeline.proof.truth_table import Photograph, parse_truth
from pipeline.request.files import base_folder, read_request_text
from pipeline.request.geometry import E7, BoxE7, contains, degrees_to_e7, metres_to_mm, scale_to_int
from pipeline.request.proof_options import ProofOptions
from pipeline.request.request import BuildRequest
from store.base.camera import Camera
from store.base.canonical_json import Document, digest
from store.base.level import tile_side_m

_MAX_TABLE_BYTES: Final = 16 << 20
_MILLION: Final = 1_000_000
_SHOWN: Final = 3


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

    def to_document(self) -> Document:
        """Return what the identity of a build names of it, however many photographs there are."""
        digests = sorted(
            [row.file, found.hex()] for row, found in zip(self.photographs, self.digests, strict=True)
        )
        return {
            "table": self.sha256,
            "photographs": digest("c10/photographs/1", digests),
            "count": len(digests),
        }

    def outside(self, area: BoxE7) -> list[str]:
        """Return the photographs whose true place lies outside of an area."""
        return [row.file for row in self.photographs if is_outside(row, area)]


def is_outside(row: Photograph, area: BoxE7) -> bool:
    """Return whether the true place of a photograph lies outside of an area."""
    lon, lat = row.place
    return not contains(area, degrees_to_e7(lon), degrees_to_e7(lat))


def read_truth(path: Path) -> TruthTable:
    """Read a table of true places, and each photograph once.

    Raises:
        RequestError: The table is empty or wrong, or a photograph cannot be read.
    """
    # Loads Pillow, which most requests do not need.
    from pipeline.tiles.photograph import read_photograph  # noqa: PLC0415

    text = read_request_text(path, what="a table of true places", limit=_MAX_TABLE_BYTES)
    folder, rows = base_folder(path), parse_truth(text, path.name)
    return TruthTable(
        folder=folder,
        photographs=rows,
        sha256=sha256(text.encode()).hexdigest(),
        digests=tuple(sha256(read_photograph(folder / row.file)).digest() for row in rows),
    )


def require_camera(rows: Iterable[Photograph], calibration: Mapping[str, Any]) -> None:
    """Refuse altitudes if a calibration has no camera.

    Raises:
        RequestError: It has none; the message names a photograph.
    """
    row = next((each for each in rows if each.altitude_m is not None), None)
    if row is None:
        return
    try:
        Camera.from_document(calibration)
    except ValueError as error:
        raise RequestError(
            f"{row.file}: expected a camera in the calibration of the cache for altitude_m, found: {error}",
            hint="give gsd_m instead, or build with a calibration with width, height, fx, fy, cx and cy of this camera",
        ) from error


def read_proof(request: BuildRequest, calibration: bytes, levels: Sequence[ChosenLevel]) -> TruthTable | None:
    """Read the photographs of a request's proof; None if it asks for none.

    Raises:
        RequestError: They cannot be used, or no chunk is as near to every place as `within_m` demands.
    """
    options = request.proof
    if options is None:
        return None
    table = read_truth(request.resolve(options.pictures))
    require_camera(table.photographs, json.loads(calibration))
    latitude = request.origin_e7[1] / E7
    steps = (tile_side_m(each.chunks.level.lattice_zoom, latitude) for each in levels)
    least = min(steps) / math.sqrt(2)
    if options.within_m < least:
        raise RequestError(
            f"proof.within_m: expected at least {least:.1f} m, half the diagonal of the finest chunks' steps, "
            f"found {options.within_m:g}",
            hint="raise it: no middle of a chunk is nearer to some places; or raise chunks.overlap",
        )
    return table


def proof_document(options: ProofOptions | None, table: TruthTable | None) -> Document | None:
    """Return what the identity of a build names of its proof, in integers; None without one."""
    if options is None or table is None:
        return None
    near = {} if options.near_m is None else {"near_mm": metres_to_mm(options.near_m)}
    return {
        **table.to_document(),
        "within_mm": metres_to_mm(options.within_m),
        "at": options.at,
        "min_ppm": scale_to_int(options.min, _MILLION),
        **near,
    }


def some_of(files: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(files[:_SHOWN]) + more


def outside_warning(files: Sequence[str]) -> str:
    """Return the warning of photographs outside of the area."""
    return f"{some_of(files)}: outside of the area of the cache, so that no answer is right"
