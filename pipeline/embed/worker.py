"""The worker process that embeds: read tiles, hash, decode, cut chunks of ground from them, prepare, run.

The bytes that are hashed are the bytes that are decoded, so that no other image gets a known digest when a
source changes during a build. A bad tile does not affect what shows other ground. Where the units are chunks,
each tile of a window is read and hashed once, and decoded and scaled unless what that gave is still kept from
an earlier window.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.samples import KeptTiles, Samples, ShownTile, Unit, levels_by_zoom
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from pipeline.tiles.decode import Picture, decode_picture
from pipeline.tiles.sources.read_tile import read_tile
from store.base.identity import tile_of
from store.base.preprocessing import Preprocessing
from store.base.texture import FEATURELESS_BELOW
from store.runtime.load import Engine, load_engine

BLANK_TILE: Final = (
    "expected a descriptor of length 1, found NaN, infinity or zero for a picture without texture"
)
"""What is wrong with a blank tile to which a sound network has no answer."""

_THREADS: Final = 1
_REPORT_EVERY_S: Final = 0.2
_Used = TypeVar("_Used")
_Item = TypeVar("_Item")
OnDone = Callable[[float], None]
"""Called with the number of units of a window that are done so far."""

MOST_BLANK: Final = 0.25
"""A tile of which more is transparent, black or white is featureless: its place is not found with certainty."""


class Embedder:
    """Embeds windows with one loaded engine."""

    def __init__(self, engine: Engine, preprocessing: Preprocessing) -> None:
        self._engine = engine
        self._preprocessing = preprocessing
        self._samples, self._kept = Samples(preprocessing), KeptTiles()
        self._batch: NDArray[np.float32] = np.empty((engine.portion, *engine.sample_shape), np.float32)
        self._reading_share = 0.5

    def embed(self, request: Message, progress: Progress) -> Payload:
        """Embed one window, as a worker's handler; report a few times a second how many of its units are done."""
        last = time.monotonic()

        def report(done: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _REPORT_EVERY_S:
                last = now
                progress(int(done))

        return self.describe(request, report)

    def describe(self, request: Message, on_done: OnDone = lambda _: None) -> dict[str, Any]:
        """Return the descriptors of one window.

        Args:
            request: `tiles`: for each its descriptor id, its expected SHA-256 in hexadecimal, and its locator, its
                encoded bytes, or why there are none, a map of `kind` and `message`. `chunks`: the ids of the
                chunks to embed, int64 [n]; None where the tiles themselves are the units. `tile_edges`: zoom and
                edge in pixels of the tiles under chunks.
            on_done: Called as units are done; a part of them counts while the tiles under chunks are read.

        Returns:
            A map. `good`: the indices of the units that have a descriptor; `vectors`, float32 [n, d], and
            `texture`, float32 [n], theirs. `bad_tiles`: index of each bad tile, an `ErrorKind` and a message;
            `bad_vectors`: the same of each unit whose descriptor cannot be used.
        """
        bad: list[tuple[int, str, str]] = []
        if request["chunks"] is None:
            pictures = _usable(request["tiles"], lambda *tile: _square_picture(tile[2]), bad)
            found = self._describe(self._samples.of_tiles(pictures), on_done)
        else:
            found = self._describe_chunks(request, bad, on_done)
        return {**found, "bad_tiles": [list(each) for each in bad]}

    def _describe_chunks(
        self, request: Message, bad: list[tuple[int, str, str]], on_done: OnDone
    ) -> dict[str, Any]:
        """Return the answer for chunks. Reading counts as the part of the work that it was in the last window."""
        began, share, count = time.monotonic(), self._reading_share, len(request["chunks"])
        shown = self._shown_tiles(request, bad, lambda part: on_done(share * part * count))
        read = time.monotonic()
        found = self._describe(
            self._samples.of_chunks(request["chunks"], shown),
            lambda done: on_done(share * count + (1 - share) * done),
        )
        self._reading_share = (read - began) / max(time.monotonic() - began, 1e-9)
        return found

    def _shown_tiles(
        self, request: Message, bad: list[tuple[int, str, str]], on_part: Callable[[float], None]
    ) -> dict[int, ShownTile]:
        """Return the tiles under the chunks of a window that can be used, by descriptor id; add others to `bad`.

        `on_part` is called with the part of them that was read.
        """
        edges: dict[int, int] = dict(request["tile_edges"])
        levels = levels_by_zoom(request["chunks"])

        def shown(identifier: int, sha256: str, data: bytes) -> ShownTile:
            zoom = tile_of(identifier)[0]
            key = (sha256, edges[zoom], levels[zoom])
            tile = self._kept.get(key)
            if tile is None:
                picture = _square_picture(data)
                _require_edge(picture, edges[zoom])
                tile = self._samples.shown_tile(picture, levels[zoom])
                self._kept.keep(key, tile)
            return tile

        tiles = _counted(request["tiles"], on_part)
        return {request["tiles"][index][0]: tile for index, tile in _usable(tiles, shown, bad)}

    def _describe(self, units: Iterable[Unit], on_done: OnDone) -> dict[str, Any]:
        """Return the answer for some units."""
        numbers: list[int] = []
        textures: list[float] = []
        vectors = [np.empty((0, self._engine.dimensions), np.float32)]
        filled = 0
        for number, write, blank in units:
            texture = write(self._batch[filled])
            numbers.append(number)
            textures.append(texture if blank <= MOST_BLANK else 0.0)
            filled += 1
            if filled == len(self._batch):
                vectors.append(self._engine.run(self._batch))
                filled = 0
                on_done(len(numbers))
        if filled:
            vectors.append(self._engine.run(self._batch[:filled]))
        found = self._preprocessing.finish(np.concatenate(vectors))
        order = np.argsort(numbers)
        return _answer(
            found[order], np.array(textures, np.float32)[order], np.array(numbers, np.int64)[order]
        )


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
    return _square_picture(read_bytes(sha256, source))


def read_bytes(sha256: str, source: list[str | int] | bytes) -> bytes:
    """Return a tile's encoded bytes; arguments as of `read_picture`.

    Raises:
        TileError: They cannot be read, or have another digest.
    """
    data = source if isinstance(source, bytes) else read_tile(tuple(source))
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise TileError(
            f"expected a tile with SHA-256 {sha256}, found {found}: the source changed during the build",
            hint="build again once the source is at rest",
            kind=ErrorKind.SOURCE_CHANGED,
        )
    return data


def _square_picture(data: bytes) -> Picture:
    picture = decode_picture(data)
    height, width = picture.pixels.shape[:2]
    if height != width:
        raise TileError(f"expected a square tile, found {width} x {height} pixels")
    return picture


def _counted(items: Sequence[_Item], on_part: Callable[[float], None]) -> Iterator[_Item]:
    """Yield items, and call `on_part` with the part of them that is done."""
    for done, item in enumerate(items):
        on_part(done / len(items))
        yield item


def _usable(
    tiles: Iterable[Message], use: Callable[[int, str, bytes], _Used], bad: list[tuple[int, str, str]]
) -> Iterator[tuple[int, _Used]]:
    """Yield index and use of each tile that can be used; add the others to `bad`.

    Every tile is read and hashed, one that was shown before too: so it depends on the source alone, and not on
    which worker showed what, whether a tile is bad.
    """
    for index, (identifier, sha256, content) in enumerate(tiles):
        if isinstance(content, dict):
            bad.append((index, content["kind"], content["message"]))
            continue
        try:
            used = use(identifier, sha256, read_bytes(sha256, content))
        except TileError as error:
            bad.append((index, str(error.kind), error.message))
            continue
        yield index, used


def _require_edge(picture: Picture, edge: int) -> None:
    found = len(picture.pixels)
    if found != edge:
        raise TileError(f"expected a tile of {edge} pixels, as others of its zoom are, found {found}")


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
