"""Compute step keys, vector spaces and the build identity. Pure.

Builder, verifier and reader all call these functions, so that they agree. A key is the digest of a document
of named components: everything that the result of its step depends on. The journal keeps the document with
the key, so that a difference between two keys can be explained. Paths, hosts, clocks and C10's own version
are never part of a key.

`RECIPES` holds one integer per step. A developer raises it when a change of the code changes what the step
produces from the same inputs; no other change of C10 may cause work to be repeated.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from store.base.canonical_json import Digest, Document, Value, digest, encode

RECIPES: Mapping[str, int] = {"tiles": 1, "engine": 1, "cell": 2, "index": 1, "checks": 1}

PACK_RECIPE = 1
"""The recipe of packing tiles. It is not among `RECIPES`, which every identity contains."""

_PROOF_RECIPE = 1
"""The recipe of asking for photographs; as above."""

MAX_ZOOM = 25
CELL_SHIFT = 4
"""A cell is 16 x 16 tiles of one zoom."""

ZOOM_SHIFT, X_SHIFT = 58, 25
"""First bits of zoom and column in a descriptor id."""

ONE_PPM = 1_000_000
"""The weight of a network unless one was asked for: 1, in units of 1e-6."""

VIEW_SHIFT = 50
"""First bit of the view in a descriptor id."""
AXIS_MASK, VIEW_MASK = (1 << 25) - 1, (1 << 8) - 1
"""The bits of a column or row, and of a view."""


def descriptor_id(zoom: int, x: int, y: int, view: int = 0) -> int:
    """Pack a tile and view into a non-negative 63-bit id: zoom << 58 | view << 50 | x << 25 | y.

    Ids sort by zoom, view, x, y (XYZ scheme, y grows southwards). View 0 is the tile itself.

    Raises:
        ValueError: A part is outside its range.
    """
    side = 1 << zoom if 0 <= zoom <= MAX_ZOOM else 0
    if not (0 <= x < side and 0 <= y < side and 0 <= view <= VIEW_MASK):
        raise ValueError(f"no tile {zoom}/{x}/{y} view {view}: zoom is 0..{MAX_ZOOM}, x and y below 2^zoom")
    return zoom << ZOOM_SHIFT | view << VIEW_SHIFT | x << X_SHIFT | y


def tile_of(identifier: int) -> tuple[int, int, int, int]:
    """Unpack a descriptor id into (zoom, x, y, view)."""
    return (
        identifier >> ZOOM_SHIFT,
        identifier >> X_SHIFT & AXIS_MASK,
        identifier & AXIS_MASK,
        identifier >> VIEW_SHIFT & VIEW_MASK,
    )


def digest_tile_set(tiles: Iterable[tuple[int, str]]) -> Digest:
    """Return the digest of a set of tiles, given as (descriptor id, SHA-256 of the encoded bytes).

    The packed form that is hashed is, for each tile in ascending order of id, the id as 8 big-endian bytes
    and the 32 bytes of its digest.

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
    """Return the digest of a set of tiles in packed form, in which no id occurs twice."""
    state = hashlib.sha256(b"c10/tile-set/1\0")
    state.update(packed)
    return Digest(state.hexdigest())


def engine_key(components: Document) -> Digest:
    """Return the key of compiling one network."""
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
    """Return the components of a compiled engine: everything that it depends on.

    Args:
        onnx_sha256: Digest of the network with its external weights.
        backend: Compiler family.
        version: Full version of the compiler library.
        target: Device the engine is for.
        precision: Arithmetic of the engine.
        batch: Fixed batch size.
        options: Options of the backend (profiles, flags, limits).
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


def vector_space(
    *, engine: str, preprocessing: Document, precision: str, batch: int, recipe: int | None = None
) -> Digest:
    """Return the key of a vector space, in which descriptors may be compared.

    It depends on the step key of the engine, the preprocessing, precision, batch and the recipe of embedding.
    The recipe, by default today's, belongs to the space and not to the cell, because rows are copied within a
    space.
    """
    components: Document = {
        "engine": engine,
        "preprocessing": preprocessing,
        "precision": precision,
        "batch": batch,
        "recipe": RECIPES["cell"] if recipe is None else recipe,
    }
    return digest("c10/space/1", components)


def space_of_model(model: Document, *, recipe: int | None = None) -> Digest:
    """Return the vector space of a descriptor network, given its document in the inputs of a build.

    Raises:
        KeyError, TypeError: The document names no engine.
    """
    engine = model.get("stand_in", model["engine"])
    return vector_space(
        engine=engine_key(engine),
        preprocessing=model["preprocessing"],
        precision=engine["precision"],
        batch=engine["batch"],
        recipe=recipe,
    )


def joined_space(networks: Sequence[tuple[str, int]]) -> Digest | str:
    """Return the key of the space of joined descriptors; of one network it is that network's own.

    Args:
        networks: Vector space and weight of each network, in the order of their names.
    """
    if len(networks) == 1:
        return networks[0][0]
    return digest("c10/joined-space/1", {"networks": networks_document(networks)})


def networks_document(networks: Sequence[tuple[str, int]]) -> list[Document]:
    """Return vector space and weight of each network as they stand in the components of an index."""
    return [{"space": space, "weight_ppm": weight} for space, weight in networks]


def cell_components(*, space: str, tiles: Iterable[tuple[int, str]] | Digest) -> Document:
    """Return the components of a cell's block: its vector space, and its tiles or the digest of that set."""
    return {"space": space, "tiles": tiles if isinstance(tiles, str) else digest_tile_set(tiles)}


def cell_key(components: Document) -> Digest:
    """Return the key of embedding one cell."""
    return digest("c10/cell/1", components)


def pack_key(tiles: Digest) -> Digest:
    """Return the key of packing the tiles of one cell, given the digest of that set."""
    return digest("c10/pack/1", {"tiles": tiles, "recipe": PACK_RECIPE})


def index_components(
    *, networks: Sequence[tuple[str, int]], blocks: str, options: Document, library: str
) -> Document:
    """Return the components of an index: everything that it depends on.

    Args:
        networks: Vector space and weight of each network whose descriptors the rows join, by the networks' names.
        blocks: Digest of the block table, hence of the vectors: the key depends on what earlier steps
            produced, not on how, so that equal vectors are never indexed twice.
        options: Resolved index options.
        library: Index library and its version.
    """
    return {
        "space": joined_space(networks),
        "blocks": blocks,
        "options": options,
        "library": library,
        "recipe": RECIPES["index"],
        **({} if len(networks) == 1 else {"networks": networks_document(networks)}),
    }


def spaces_of_index(components: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the vector space of each network whose descriptors an index joins, given the index's components."""
    networks = components.get("networks", [components])
    named = networks if isinstance(networks, Sequence) else ()
    return tuple(str(each.get("space", "")) for each in named if isinstance(each, Mapping))


def extended_index_components(whole: Document, *, base: str) -> Document:
    """Return the components of an extended index: a whole one's, and the digest of the file it extends."""
    return {**whole, "base": base}


def index_key(components: Document) -> Digest:
    """Return the key of building the descriptor index."""
    return digest("c10/index/1", components)


def proof_key(components: Document) -> Digest:
    """Return the key of asking a cache for photographs: engine, index, levels, camera and the proof asked for."""
    return digest("c10/proof/1", {**components, "recipe": _PROOF_RECIPE})


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
    area: Document | None = None,
    chunks: Document | None = None,
    imagery: Document | None = None,
    carry: Document | None = None,
    proof: Document | None = None,
) -> Document:
    """Return the inputs that define a build; the digest of this document is the build identity.

    Args:
        flight_id: Name of the sortie.
        sector: Sector class.
        bbox_e7: West, south, east, north in 1e-7 degree, WGS 84; of the box around an area that is none.
        zoom: Lowest and highest zoom, inclusive.
        origin: Take-off point: `lon_e7`, `lat_e7` in 1e-7 degree and `altitude_mm` in millimetres.
        calibration: SHA-256 of the calibration file.
        tiles: `digest` of the tile set, and the options for bad tiles.
        models: One document per network, with a unique `name`; their order does not matter.
        engine: Backend, full version, target, precision, batch.
        index: Index options and library.
        checks: Thresholds, as integers.
        area: Digest and size of the area's polygons and routes; None for a box.
        chunks: The `levels` of chunks, each with zoom, k, m and tile_edge; None if tiles get the descriptors.
        imagery: `pixel_mm` of each level, as integers: how coarse the imagery is whose tiles are upsampled; None where
            nothing says so.
        carry: `{"tiles": true}` if the cache carries its tiles; None if not.
        proof: Digests of the photographs that must be found, and how many of them; None if none must.
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
        **({} if area is None else {"area": area}),
        **({} if chunks is None else {"chunks": chunks}),
        **({} if imagery is None else {"imagery": imagery}),
        **({} if carry is None else {"carry": carry}),
        **({} if proof is None else {"proof": proof}),
    }


def build_identity(inputs: Document) -> Digest:
    """Return the identity of the build that `inputs` defines."""
    return digest("c10/build/1", inputs)


def difference(old: Value, new: Value, path: str = "") -> list[str]:
    """Return the dotted paths of the components in which two key documents differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[str] = []
        for name in sorted({*old, *new}):
            here = f"{path}.{name}" if path else name
            if name not in old or name not in new:
                found.append(here)
            else:
                found.extend(difference(old[name], new[name], here))
        return found
    # Compare canonical forms, in which true is not 1 and a tuple is a list.
    return [] if encode(old) == encode(new) else [path]
