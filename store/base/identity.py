"""Step keys, vector space and build identity: the one place that computes them.

Builder, verifier and reader call these functions and nothing else, so that they cannot drift apart. A key is
the digest of everything its step's result depends on, as a document of named components; the document travels
with the key in the journal, so that two keys that differ can be explained. Paths, hosts, clocks and C10's own
version never enter. Maps are sorted by the canonical form; lists whose order has no meaning are sorted here.

`RECIPES` holds one integer per step. It is raised by hand when the code of a step changes what the step
produces from the same inputs; nothing else in C10's version may cause work to be done again.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from store.base.canonical_json import Digest, Document, Value, digest, encode

RECIPES: Mapping[str, int] = {"tiles": 1, "engine": 1, "cell": 1, "index": 1, "checks": 1}

MAX_ZOOM = 25
CELL_SHIFT = 4
"""A cell is 16 x 16 tiles of one zoom."""

ZOOM_SHIFT, X_SHIFT = 58, 25
"""Where zoom and column begin in a descriptor id."""

_VIEW_SHIFT, _AXIS_MASK, _VIEW_MASK = 50, (1 << 25) - 1, (1 << 8) - 1


def descriptor_id(zoom: int, x: int, y: int, view: int = 0) -> int:
    """Pack a tile and view into a non-negative 63-bit id: zoom << 58 | view << 50 | x << 25 | y.

    Ids sort by zoom, view, x, y (XYZ scheme, y grows southwards). View 0 is the tile itself.

    Raises:
        ValueError: A part is outside its range.
    """
    side = 1 << zoom if 0 <= zoom <= MAX_ZOOM else 0
    if not (0 <= x < side and 0 <= y < side and 0 <= view <= _VIEW_MASK):
        raise ValueError(f"no tile {zoom}/{x}/{y} view {view}: zoom is 0..{MAX_ZOOM}, x and y below 2^zoom")
    return zoom << ZOOM_SHIFT | view << _VIEW_SHIFT | x << X_SHIFT | y


def tile_of(identifier: int) -> tuple[int, int, int, int]:
    """Unpack a descriptor id into (zoom, x, y, view)."""
    return (
        identifier >> ZOOM_SHIFT,
        identifier >> X_SHIFT & _AXIS_MASK,
        identifier & _AXIS_MASK,
        identifier >> _VIEW_SHIFT & _VIEW_MASK,
    )


def digest_tile_set(tiles: Iterable[tuple[int, str]]) -> Digest:
    """Digest a set of tiles given as (descriptor id, SHA-256 of the encoded bytes).

    Only the set matters, not the order. The hashed form is, for each tile in rising id, the id as 8 big-endian
    bytes and the 32 bytes of its digest.

    Raises:
        ValueError: Two tiles share an id.
    """
    packed, previous = bytearray(), -1
    for identifier, sha256 in sorted(tiles):
        if identifier == previous:
            raise ValueError(f"tile {tile_of(identifier)[:3]} occurs twice")
        previous = identifier
        packed += identifier.to_bytes(8, "big") + bytes.fromhex(sha256)
    return digest_packed_tiles(packed)


def digest_packed_tiles(packed: bytes | bytearray) -> Digest:
    """Digest a set of tiles that is in its hashed form already; the caller made sure that no id occurs twice."""
    state = hashlib.sha256(b"c10/tile-set/1\0")
    state.update(packed)
    return Digest(state.hexdigest())


def engine_key(components: Document) -> Digest:
    """Key of compiling one network. Components: see `engine_components`."""
    return digest("c10/engine/1", components)


def engine_components(
    *,
    onnx_sha256: str,
    backend: str,
    version: str,
    target: str,
    precision: str,
    batch: int,
    options: Document,
) -> Document:
    """Name everything a compiled engine depends on.

    Args:
        onnx_sha256: Digest of the network with its external weights.
        backend: Compiler family.
        version: Its full library version.
        target: Device the engine is for.
        precision: Arithmetic of the engine.
        batch: Fixed batch size.
        options: What the backend adds (profiles, flags, limits).
    """
    return {
        "onnx": onnx_sha256,
        "backend": backend,
        "version": version,
        "target": target,
        "precision": precision,
        "batch": batch,
        "options": options,
        "recipe": RECIPES["engine"],
    }


def vector_space(*, engine: str, preprocessing: Document, precision: str, batch: int) -> Digest:
    """Key of the space in which descriptors may be compared: engine *step key*, image contract, batch, recipe.

    The recipe of embedding belongs to the space and not to the cell, since rows are copied within a space.
    """
    components: Document = {
        "engine": engine,
        "preprocessing": preprocessing,
        "precision": precision,
        "batch": batch,
        "recipe": RECIPES["cell"],
    }
    return digest("c10/space/1", components)


def cell_components(*, space: str, tiles: Iterable[tuple[int, str]] | Digest) -> Document:
    """Name everything one cell's block depends on.

    Args:
        space: Its vector space.
        tiles: The (descriptor id, digest) of its tiles, or the digest of that set.
    """
    return {"space": space, "tiles": tiles if isinstance(tiles, str) else digest_tile_set(tiles)}


def cell_key(components: Document) -> Digest:
    """Key of embedding one cell."""
    return digest("c10/cell/1", components)


def index_components(*, space: str, blocks: str, options: Document, library: str) -> Document:
    """Name everything the index depends on.

    Args:
        space: Vector space of the rows.
        blocks: Digest of the block table, hence of the vectors themselves: the key hangs on what upstream
            steps produced, not on how, so that equal vectors are never indexed twice.
        options: Resolved index options.
        library: Index library and its version.
    """
    return {
        "space": space,
        "blocks": blocks,
        "options": options,
        "library": library,
        "recipe": RECIPES["index"],
    }


def extended_index_components(whole: Document, *, base: str) -> Document:
    """Name everything an index depends on that was not written anew.

    Args:
        whole: Components of the index as it would be if it were.
        base: Digest of the file that it extends.
    """
    return {**whole, "base": base}


def index_key(components: Document) -> Digest:
    """Key of building the descriptor index."""
    return digest("c10/index/1", components)


def build_inputs(
    *,
    flight_id: str,
    sector: str,
    bbox_e7: Sequence[int],
    zoom: Sequence[int],
    origin: Document,
    calibration: str,
    tiles: Document,
    models: Iterable[Document],
    engine: Document,
    index: Document,
    checks: Document,
) -> Document:
    """Gather what a build is defined by; the digest of this document is the build identity.

    Args:
        flight_id: Name of the sortie.
        sector: Sector class.
        bbox_e7: West, south, east, north in 1e-7 degree, WGS 84.
        zoom: Least and greatest zoom, inclusive.
        origin: Take-off point: `lon_e7`, `lat_e7` in 1e-7 degree and `altitude_mm` in millimetres.
        calibration: SHA-256 of the calibration file.
        tiles: `digest` of the tile set and the options that decide what is done with bad tiles.
        models: One document per network, with a unique `name`; their order does not matter.
        engine: Backend, full version, target, precision, batch.
        index: Index options and library.
        checks: Thresholds, as integers.
    """
    ordered = sorted(models, key=lambda model: str(model["name"]))
    return {
        "flight_id": flight_id,
        "sector": sector,
        "bbox_e7": list(bbox_e7),
        "zoom": list(zoom),
        "origin": origin,
        "calibration": calibration,
        "tiles": tiles,
        "models": ordered,
        "engine": engine,
        "index": index,
        "checks": checks,
        "recipes": dict(RECIPES),
    }


def build_identity(inputs: Document) -> Digest:
    """Return the identity of the build that `inputs` defines."""
    return digest("c10/build/1", inputs)


def difference(old: Value, new: Value, path: str = "") -> list[str]:
    """Name the components in which two key documents differ, as dotted paths; equal documents give none."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[str] = []
        for name in sorted({*old, *new}):
            here = f"{path}.{name}" if path else name
            if name not in old or name not in new:
                found.append(here)
            else:
                found.extend(difference(old[name], new[name], here))
        return found
    # By canonical form, in which true is not 1 and a tuple is a list, also inside of lists.
    return [] if encode(old) == encode(new) else [path]
