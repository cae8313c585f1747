"""Read the photographs of a proof, and say what of it belongs to the identity of a build."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pipeline.errors import RequestError
from pipeline.planning.chunk_levels import ChosenLevel
from pipeline.proof.truth_table import Photograph, parse_truth
from pipeline.request.area import Area
from pipeline.request.files import base_folder, read_request_text
from pipeline.request.geometry import E7, degrees_to_e7, metres_to_mm, scale_to_int
from pipeline.request.proof_options import ProofOptions
from pipeline.request.request import BuildRequest
from store.base.canonical_json import Document, digest
from store.base.geometry.camera import FAR_FROM_LEVEL, Camera
from store.base.geometry.level import tile_side_m
from store.base.identity import proof_key
from store.domain.events import EngineCompiled, Index

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
        sizes: Width and height of each photograph, pixels.
    """

    folder: Path
    photographs: tuple[Photograph, ...]
    sha256: str
    digests: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]

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

    def outside_warning(self, area: Area) -> str | None:
        """Return the warning of photographs whose true place lies outside of an area; None if all lie in it."""
        outside = [row for row in self.photographs if is_outside(row, area)]
        if not outside:
            return None
        exchanged = all(area.contains(*map(degrees_to_e7, reversed(row.place))) for row in outside)
        why = "; lon and lat may be exchanged" if exchanged else ""
        files = some_of([row.file for row in outside])
        return f"{files}: outside of the area of the cache, so that no answer is right{why}"

    def unserved_warning(self, calibration: bytes, sides_m: Sequence[float]) -> str | None:
        """Return the warning of photographs that show much more or less ground than any chunk; None if none does.

        Args:
            calibration: Bytes of the calibration file; without a camera nobody can tell.
            sides_m: Sides of the levels.
        """
        try:
            camera = Camera.from_document(json.loads(calibration))
        except ValueError:
            return None
        far = []
        for row, size in zip(self.photographs, self.sizes, strict=True):
            altitude = (
                (row.metres_per_pixel or 0.0) * camera.scaled_to(*size).fx
                if row.altitude_m is None
                else row.altitude_m
            )
            wanted = camera.wanted_side_m(altitude)
            if all(abs(math.log(side / wanted)) > math.log(FAR_FROM_LEVEL) for side in sides_m):
                far.append((row.file, wanted))
        if not far:
            return None
        sides = ", ".join(f"{side:.0f}" for side in sides_m)
        return (
            f"{some_of([file for file, _ in far])}: best compared by squares of {far[0][1]:.0f} m, and the chunks "
            f"have {sides} m: do altitude_m of the request and of the photographs mean the same, metres above ground?"
        )


def is_outside(row: Photograph, area: Area) -> bool:
    """Return whether the true place of a photograph lies outside of an area."""
    lon, lat = row.place
    return not area.contains(degrees_to_e7(lon), degrees_to_e7(lat))


def read_truth(path: Path) -> TruthTable:
    """Read a table of true places, and each photograph once.

    Raises:
        RequestError: The table is empty or wrong, or a photograph cannot be read, occurs twice or is no picture.
    """
    # Loads Pillow, which most requests do not need.
    from pipeline.tiles.images.photograph import photograph_size, read_photograph  # noqa: PLC0415

    text = read_request_text(path, what="a table of true places", limit=_MAX_TABLE_BYTES)
    folder, rows = base_folder(path), parse_truth(text, path.name)
    digests, sizes, names = list[bytes](), list[tuple[int, int]](), dict[str, str]()
    for row in rows:
        place = folder / row.file
        first = names.setdefault(os.path.normpath(place), row.file)
        if first != row.file:
            raise RequestError(
                f"{path.name}: expected each photograph once, found {first} again as {row.file}",
                hint="remove one of the rows",
            )
        data = read_photograph(place)
        digests.append(sha256(data).digest())
        sizes.append(photograph_size(data, place))
    return TruthTable(
        folder=folder,
        photographs=rows,
        sha256=sha256(text.encode()).hexdigest(),
        digests=tuple(digests),
        sizes=tuple(sizes),
    )


def require_camera(table: TruthTable, calibration: Mapping[str, Any]) -> None:
    """Refuse altitudes if a calibration has no camera, and photographs of another aspect than its.

    Raises:
        RequestError: That is so; the message names a photograph.
    """
    row = next((each for each in table.photographs if each.altitude_m is not None), None)
    try:
        camera = Camera.from_document(calibration)
    except ValueError as error:
        if row is None:
            return
        raise RequestError(
            f"{row.file}: expected a camera in the calibration of the cache for altitude_m, found: {error}",
            hint="give gsd_m instead, or build with a calibration with width, height, fx, fy, cx and cy of this camera",
        ) from error
    for each, size in zip(table.photographs, table.sizes, strict=True):
        try:
            camera.scaled_to(*size)
        except ValueError as error:
            raise RequestError(
                f"{each.file}: {error}", hint="name photographs of this camera, as it took them"
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
    require_camera(table, json.loads(calibration))
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
        # Rounded to 0, a least fraction would let a cache pass that finds no photograph. A millionth of them is one.
        "min_ppm": max(scale_to_int(options.min, _MILLION), int(options.min > 0)),
        **near,
    }


def key_of_proof(
    document: Document, networks: Sequence[tuple[str, int]], engines: Iterable[EngineCompiled], index: Index
) -> str:
    """Return the key of asking for the photographs of a build.

    Args:
        document: The inputs of the build.
        networks: Vector space and weight of each descriptor network.
        engines: The engine that embeds for each of them, in the same order.
        index: The index that is searched.
    """
    return proof_key(
        {
            "engines": [engine.artifact.sha256 for engine in engines],
            "index": index.artifact.sha256,
            "blocks": index.blocks.sha256,
            "networks": [list(network) for network in networks],
            **{
                name: document[name]
                for name in ("bbox_e7", "area", "calibration", "chunks", "proof")
                if name in document
            },
        }
    )


def some_of(files: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(files[:_SHOWN]) + more
