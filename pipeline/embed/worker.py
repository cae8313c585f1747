"""The worker process that embeds: read tiles, hash, decode, cut chunks of ground from them, prepare, run.

The bytes that are hashed are the bytes that are decoded, so that no other image gets a known digest when a
source changes during a build. A bad tile does not affect what shows other ground. Where the units are chunks,
each tile of a window is decoded once.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.builtin_model.place import FEATURELESS_BELOW, blank_share, texture_energy
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from pipeline.tiles.decode import Picture, decode_picture
from pipeline.tiles.sources.read_tile import read_tile
from store.base.identity import AXIS_MASK, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT, tile_of
from store.base.lattice import chunk_of, tile_span
from store.base.level import Level
from store.base.mosaic import render_chunks
from store.base.preprocessing import Pixels, Preprocessing
from store.runtime.load import Engine, load_engine

BLANK_TILE: Final = (
    "expected a descriptor of length 1, found NaN, infinity or zero for a picture without texture"
)
"""What is wrong with a blank tile to which a sound network has no answer."""

_THREADS: Final = 1
MOST_BLANK: Final = 0.25
"""A tile of which more is transparent, black or white is featureless: its place is not found with certainty."""


class Embedder:
    """Embeds windows with one loaded engine."""

    def __init__(self, engine: Engine, preprocessing: Preprocessing) -> None:
        self._engine = engine
        self._preprocessing = preprocessing
        self._samples: NDArray[np.float32] = np.empty((engine.portion, *engine.sample_shape), np.float32)

    def embed(self, request: Message, progress: Progress) -> Payload:
        """Embed one window, as a worker's handler; no progress is reported, since a window is short."""
        del progress
        return self.describe(request)

    def describe(self, request: Message) -> dict[str, Any]:
        """Return the descriptors of one window.

        Args:
            request: `tiles`: for each its descriptor id, its expected SHA-256 in hexadecimal, and its locator, its
                encoded bytes, or why there are none, a map of `kind` and `message`. `chunks`: the ids of the
                chunks to embed, int64 [n]; None where the tiles themselves are the units. `tile_edges`: zoom and
                edge in pixels of the tiles under chunks.

        Returns:
            A map. `good`: the indices of the units that have a descriptor; `vectors`, float32 [n, d], and
            `texture`, float32 [n], theirs. `bad_tiles`: index of each bad tile, an `ErrorKind` and a message;
            `bad_vectors`: the same of each unit whose descriptor cannot be used.
        """
        bad: list[tuple[int, str, str]] = []
        answer = self._describe(show_units(request, self._preprocessing.size, bad))
        return {**answer, "bad_tiles": [list(each) for each in bad]}

    def _describe(self, pictures: Iterable[tuple[int, Pixels, float]]) -> dict[str, Any]:
        """Return the answer for units, given as index, picture and which part of that is blank."""
        numbers: list[int] = []
        textures: list[float] = []
        vectors = [np.empty((0, self._engine.dimensions), np.float32)]
        filled = 0
        for number, pixels, blank in pictures:
            self._preprocessing.apply(pixels, out=self._samples[filled])
            numbers.append(number)
            textures.append(texture_energy(pixels) if blank <= MOST_BLANK else 0.0)
            filled += 1
            if filled == len(self._samples):
                vectors.append(self._engine.run(self._samples))
                filled = 0
        if filled:
            vectors.append(self._engine.run(self._samples[:filled]))
        found = self._preprocessing.finish(np.concatenate(vectors))
        return _answer(found, np.array(textures, np.float32), np.array(numbers, np.int64))


def start(first: Message) -> Handler:
    """Load the engine from its file; see `load_embedder`."""
    return load_embedder(Path(first["engine"]["path"]).read_bytes(), first)


def load_embedder(data: bytes, first: Message) -> Handler:
    """Load an engine from its bytes; `first` is `pipeline.embed.worker_messages.worker_setup`.

    Raises:
        EmbedError: The bytes have another digest, or the engine takes samples of another shape.
        ExecutionError: The engine cannot run here.
    """
    spec, found = first["engine"], hashlib.sha256(data).hexdigest()
    if found != spec["sha256"]:
        raise EmbedError(
            f"expected the engine with SHA-256 {spec['sha256']}, found {found}",
            hint="c10 verify --full",
            kind=ErrorKind.EMBED_FAILED,
        )
    engine = load_engine(
        data,
        backend=spec["backend"],
        version=spec["version"],
        input=spec["input"],
        output=spec["output"],
        batch=spec["batch"],
        threads=_THREADS,
        precision=spec["precision"],
    )
    preprocessing = Preprocessing.from_document(first["preprocessing"])
    if preprocessing.shape != engine.sample_shape:
        raise EmbedError(
            f"expected preprocessing that makes samples of {list(engine.sample_shape)}, found {list(preprocessing.shape)}",
            hint="set the model's size and layout to what its engine takes",
            kind=ErrorKind.EMBED_FAILED,
        )
    return Embedder(engine, preprocessing).embed


def read_picture(sha256: str, source: list[str | int] | bytes) -> Picture:
    """Return a tile's picture.

    Args:
        sha256: Expected SHA-256 of its encoded bytes, in hexadecimal.
        source: Its locator, or its encoded bytes.

    Raises:
        TileError: It cannot be read or decoded, is not square, or its bytes have another digest.
    """
    data = source if isinstance(source, bytes) else read_tile(tuple(source))
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise TileError(
            f"expected a tile with SHA-256 {sha256}, found {found}: the source changed during the build",
            hint="build again once the source is at rest",
            kind=ErrorKind.SOURCE_CHANGED,
        )
    picture = decode_picture(data)
    height, width = picture.pixels.shape[:2]
    if height != width:
        raise TileError(f"expected a square tile, found {width} x {height} pixels")
    return picture


def show_units(
    request: Message, size: tuple[int, int], bad: list[tuple[int, str, str]]
) -> Iterator[tuple[int, Pixels, float]]:
    """Yield index, picture and blank part of each unit of a window of which all tiles can be used.

    Args:
        request: As for `Embedder.describe`.
        size: Height and width of the pictures of chunks, pixels.
        bad: Receives index, `ErrorKind` and message of each bad tile.
    """
    tiles = _readable(request["tiles"], dict(request["tile_edges"]), bad)
    if request["chunks"] is None:
        yield from ((index, picture.pixels, _blank_part(picture)) for index, picture in tiles)
    else:
        decoded = {request["tiles"][index][0]: picture for index, picture in tiles}
        yield from _cut_chunks(request["chunks"], decoded, size)


def _readable(
    tiles: Message, edges: Mapping[int, int], bad: list[tuple[int, str, str]]
) -> Iterator[tuple[int, Picture]]:
    """Yield index and picture of each tile that can be used; add the others to `bad`."""
    for index, (identifier, sha256, content) in enumerate(tiles):
        if isinstance(content, dict):
            bad.append((index, content["kind"], content["message"]))
            continue
        try:
            picture = read_picture(sha256, content)
            _require_edge(picture, edges.get(tile_of(identifier)[0]))
        except TileError as error:
            bad.append((index, str(error.kind), error.message))
            continue
        yield index, picture


def _require_edge(picture: Picture, edge: int | None) -> None:
    found = len(picture.pixels)
    if edge is not None and found != edge:
        raise TileError(f"expected a tile of {edge} pixels, as others of its zoom are, found {found}")


def _cut_chunks(
    ids: NDArray[np.int64], tiles: Mapping[int, Picture], size: tuple[int, int]
) -> Iterator[tuple[int, Pixels, float]]:
    """Yield index, picture and blank part of each chunk of which all tiles are there; `tiles` by descriptor id."""
    blanks = {identifier: _blank_part(picture) for identifier, picture in tiles.items()}
    # The fields above column and row name the level.
    levels = ids >> VIEW_SHIFT
    for field in np.unique(levels).tolist():
        numbers = np.flatnonzero(levels == field)
        level, _, _ = chunk_of(int(ids[numbers[0]]))
        xs, ys = (ids[numbers] >> X_SHIFT) & AXIS_MASK, ids[numbers] & AXIS_MASK
        whole, blank = _ground_under(level, xs, ys, blanks)
        numbers, blank = numbers[whole], blank[whole]
        places = zip(xs[whole].tolist(), ys[whole].tolist(), strict=True)
        pixels = {
            (x, y): tiles[identifier].pixels
            for identifier in tiles
            for zoom, x, y, _ in (tile_of(identifier),)
            if zoom == level.zoom
        }
        images = render_chunks(level, places, pixels, size)
        yield from zip(numbers.tolist(), images, blank.tolist(), strict=True)


def _ground_under(
    level: Level, xs: NDArray[np.int64], ys: NDArray[np.int64], blanks: Mapping[int, float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return of each chunk whether all of its tiles are there, and which part of its ground is blank.

    `blanks` says by descriptor id which part of a tile is blank.
    """
    if not blanks:
        return np.zeros(len(xs), np.bool_), np.zeros(len(xs))
    known = np.array(sorted(blanks), np.int64)
    parts = np.array([blanks[each] for each in known.tolist()])
    x0, nx, y0, ny = tile_span(level, xs, ys)
    whole, blank = np.ones(len(xs), np.bool_), np.zeros(len(xs))
    for column in range(int(nx.max())):
        for row in range(int(ny.max())):
            # Steps of the chunk on this tile; none beyond its last one.
            across = _steps_on(level, xs, column) * _steps_on(level, ys, row)
            under = level.zoom << ZOOM_SHIFT | (x0 + column) % (1 << level.zoom) << X_SHIFT | (y0 + row)
            at = np.minimum(np.searchsorted(known, under), len(known) - 1)
            whole &= (across == 0) | (known[at] == under)
            blank += across * parts[at]
    return whole, blank / level.m**2


def _steps_on(level: Level, first: NDArray[np.int64], tile: int) -> NDArray[np.int64]:
    """Return how many steps of chunks lie on the tile of a number from their first, along one axis."""
    begin = tile * level.steps_per_tile - (first & level.steps_per_tile - 1)
    steps: NDArray[np.int64] = np.clip(
        np.minimum(begin + level.steps_per_tile, level.m) - np.maximum(begin, 0), 0, None
    )
    return steps


def _blank_part(picture: Picture) -> float:
    """Return which part of a tile is transparent, or in a black or white collar, 0 to 1 or more."""
    return picture.transparent + blank_share(picture.pixels)


def _answer(
    rows: NDArray[np.float32], textures: NDArray[np.float32], numbers: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the answer without descriptors that are not finite, and zeros for pictures without texture."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
    good = finite & (rows.any(axis=1) | (textures >= FEATURELESS_BELOW))
    bad = [
        [
            number,
            str(ErrorKind.BAD_VECTORS),
            BLANK_TILE
            if texture < FEATURELESS_BELOW
            else "expected a finite descriptor, found NaN or infinity",
        ]
        for number, texture in zip(numbers[~good].tolist(), textures[~good].tolist(), strict=True)
    ]
    return {"good": numbers[good], "vectors": rows[good], "texture": textures[good], "bad_vectors": bad}


if __name__ == "__main__":
    serve(start)
