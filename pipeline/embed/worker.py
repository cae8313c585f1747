"""The worker process that embeds: read tiles, hash, decode, cut chunks of ground from them, prepare, run.

The bytes that are hashed are the bytes that are decoded, so that no other image gets a known digest when a
source changes during a build. A bad tile does not affect what shows other ground. Where the units are chunks,
each tile of a window is read and hashed once, and decoded and scaled unless what that gave is still kept from
an earlier window.

Where the engine runs on a GPU, a thread prepares batches while it runs, those of the next window too, so that the
GPU does not wait. On a CPU that would only let two threads wait for the same core.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.samples import KeptTiles, Samples, ShownTile, Unit, levels_by_zoom
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.run_ahead import MOST_ITEMS, run_ahead
from pipeline.processes.serve import Handler, Progress, ReadsAhead, serve
from pipeline.tiles.images.decode import Picture, decode_picture
from pipeline.tiles.sources.read_tile import read_tile
from store.base.identity import tile_of
from store.base.preprocessing import Preprocessing
from store.base.texture import FEATURELESS_BELOW
from store.runtime.backends.registry import BACKENDS
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


@dataclass(slots=True, eq=False)
class Window:
    """A window, and what is known of it without the network.

    Attributes:
        request: As for `Embedder.describe`.
        number: Its number.
        units: Indices of its units that are in batches, in that order.
        textures: Their textures; 0 for a unit of which too much is blank.
        bad: Index of each bad tile, an `ErrorKind` and a message.
    """

    request: Message
    number: int = 0
    units: list[int] = field(default_factory=list)
    textures: list[float] = field(default_factory=list)
    bad: list[tuple[int, str, str]] = field(default_factory=list)


class Embedder:
    """Embeds windows with one loaded engine."""

    def __init__(self, engine: Engine, preprocessing: Preprocessing, *, ahead: bool = False) -> None:
        """Choose engine and preprocessing; `ahead` lets a thread prepare batches while the engine runs."""
        self._engine = engine
        self._preprocessing = preprocessing
        self._samples, self._kept = Samples(preprocessing), KeptTiles()
        self.ahead: Final = ahead
        # Smaller ones ahead: all of them together take half as much memory again.
        count = max(1, engine.portion // engine.batch // 2) * engine.batch if ahead else engine.portion
        self._memory = cycle(
            [np.empty((count, *engine.sample_shape), np.float32) for _ in range(MOST_ITEMS if ahead else 1)]
        )
        self._reading_share = 0.5

    def embed(self, request: Message, progress: Progress) -> Payload:
        """Embed one window, as a worker's handler; report a few times a second how many of its units are done."""
        return self.describe(request, now_and_then(progress))

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
        window = Window(request)
        if self.ahead:
            return self.run(window, run_ahead(self.batches(window)), on_done)
        if request["chunks"] is None:
            return self.run(window, self.batches(window), on_done)
        # Reading counts as the part of the work that it was in the last window.
        share, count = self._reading_share, len(request["chunks"])
        began = read = time.monotonic()

        def on_part(part: float) -> None:
            nonlocal read
            read = time.monotonic()
            on_done(share * part * count)

        batches = self.batches(window, on_part)
        found = self.run(window, batches, lambda done: on_done(share * count + (1 - share) * done))
        self._reading_share = (read - began) / max(time.monotonic() - began, 1e-9)
        return found

    def batches(
        self, window: Window, on_part: Callable[[float], None] = lambda _: None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the samples of a window, float32 [n, *sample_shape], and write down in it which units they are.

        The memory of a batch is used again: for the next one, or ahead for the next but two.

        Args:
            window: The window.
            on_part: Called with the part of the tiles under chunks that was read.
        """
        filled, batch = 0, next(self._memory)
        for number, write, blank in self._units(window, on_part):
            texture = write(batch[filled])
            window.units.append(number)
            window.textures.append(texture if blank <= MOST_BLANK else 0.0)
            filled += 1
            if filled == len(batch):
                yield batch
                filled, batch = 0, next(self._memory)
        if filled:
            yield batch[:filled]

    def run(self, window: Window, batches: Iterable[NDArray[np.float32]], on_done: OnDone) -> dict[str, Any]:
        """Return the answer for a window, all of whose batches go through the network; see `describe`."""
        vectors = [np.empty((0, self._engine.dimensions), np.float32)]
        done = 0
        for batch in batches:
            vectors.append(self._engine.run(batch))
            done += len(batch)
            on_done(done)
        found, order = self._preprocessing.finish(np.concatenate(vectors)), np.argsort(window.units)
        numbers, textures = np.array(window.units, np.int64), np.array(window.textures, np.float32)
        answer = _answer(found[order], textures[order], numbers[order])
        return {**answer, "bad_tiles": [list(each) for each in window.bad]}

    def _units(self, window: Window, on_part: Callable[[float], None]) -> Iterator[Unit]:
        """Yield the units of a window that can be embedded, and write its bad tiles down in it."""
        tiles, chunks = window.request["tiles"], window.request["chunks"]
        if chunks is None:
            pictures = _usable(tiles, lambda *tile: _square_picture(tile[2]), window.bad)
            return self._samples.of_tiles(pictures)
        return self._samples.of_chunks(chunks, self._shown_tiles(window, on_part))

    def _shown_tiles(self, window: Window, on_part: Callable[[float], None]) -> dict[int, ShownTile]:
        """Return the tiles under the chunks of a window that can be used, by descriptor id."""
        request = window.request
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
        return {request["tiles"][index][0]: tile for index, tile in _usable(tiles, shown, window.bad)}


class AheadEmbedder:
    """Embeds windows as its embedder does, in a worker: a thread prepares the batches of the next window, too."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def read_ahead(self, requests: Iterator[Message]) -> Iterator[tuple[int, "_Prepared"]]:
        """Yield each window with its batches, as they are ready; see `pipeline.processes.serve.ReadsAhead`."""
        for window, steps in groupby(run_ahead(self._steps(requests)), itemgetter(0)):
            yield window.number, (window, steps)

    def __call__(self, prepared: "_Prepared", progress: Progress) -> Payload:
        """Return the answer for a window."""
        window, steps = prepared
        return self._embedder.run(window, _batches_of(steps), now_and_then(progress))

    def _steps(self, requests: Iterable[Message]) -> Iterator["_Step"]:
        for number, request in requests:
            window = Window(request, number)
            try:
                for batch in self._embedder.batches(window):
                    yield window, batch
            except Exception as error:  # noqa: BLE001 - raised when the window is answered
                yield window, error
            else:
                yield window, None


_Step: TypeAlias = tuple[Window, NDArray[np.float32] | Exception | None]
"""A batch of a window, or the error that ended it, or None at its end."""
_Prepared: TypeAlias = tuple[Window, Iterator[_Step]]


def _batches_of(steps: Iterator[_Step]) -> Iterator[NDArray[np.float32]]:
    """Yield batches until the end of their window: what follows may be long in coming."""
    for _, batch in steps:
        if isinstance(batch, Exception):
            raise batch
        if batch is None:
            return
        yield batch


def now_and_then(progress: Progress) -> OnDone:
    """Return what reports how many units are done, a few times a second."""
    last = time.monotonic()

    def report(done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REPORT_EVERY_S:
            last = now
            progress(int(done))

    return report


def start(first: Message) -> Handler | ReadsAhead:
    """Load the engine from its file; see `load_embedder`."""
    embedder = load_embedder(Path(first["engine"]["path"]).read_bytes(), first)
    return AheadEmbedder(embedder) if embedder.ahead else embedder.embed


def load_embedder(data: bytes, first: Message) -> Embedder:
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
    return Embedder(engine, preprocessing, ahead=BACKENDS[spec["backend"]].on_gpu)


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
