"""The worker process that embeds tiles: read, hash, decode, prepare, run.

The bytes that are hashed are the bytes that are decoded, so that no other image gets a known digest when a
source changes during a build. A bad tile does not affect the rest of its window.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.builtin_model.place import FEATURELESS_BELOW, blank_share, texture_energy
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from pipeline.tiles.decode import Picture, decode_picture
from pipeline.tiles.sources.read_tile import read_tile
from store.base.preprocessing import Preprocessing
from store.runtime.load import Engine, load_engine

BLANK_TILE: Final = (
    "expected a descriptor of length 1, found NaN, infinity or zero for a tile without texture"
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
        """Embed one window.

        Args:
            request: For each tile its expected SHA-256 in hexadecimal, and its locator or its encoded bytes.
            progress: Not used: a window is short.

        Returns:
            A map of `vectors`, float32 [n, d], and `texture`, float32 [n], of the good tiles in order, and
                `bad`: for
            each other tile its index in the request, an `ErrorKind` and a message.
        """
        del progress
        bad: dict[int, tuple[str, str]] = {}
        good: list[int] = []
        textures: list[float] = []
        vectors: list[NDArray[np.float32]] = []
        filled = 0
        for number, (sha256, source) in enumerate(request):
            try:
                picture = read_picture(sha256, source)
                self._samples[filled] = self._preprocessing.apply(picture.pixels)
            except TileError as error:
                bad[number] = (error.kind, error.message)
                continue
            good.append(number)
            textures.append(_texture(picture))
            filled += 1
            if filled == len(self._samples):
                vectors.append(self._engine.run(self._samples))
                filled = 0
        if filled:
            vectors.append(self._engine.run(self._samples[:filled]))
        rows = np.concatenate([np.empty((0, self._engine.dimensions), np.float32), *vectors])
        return _answer(rows, np.array(textures, np.float32), good, bad)


def start(first: Message) -> Handler:
    """Load the engine from its file; see `load_embedder`."""
    return load_embedder(Path(first["engine"]["path"]).read_bytes(), first)


def load_embedder(data: bytes, first: Message) -> Handler:
    """Load an engine from its bytes; `first` is `pipeline.embed.batcher.worker_setup`.

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


def _texture(picture: Picture) -> float:
    """Return the texture score, 0 for a tile of which too little can be seen."""
    blank = picture.transparent + blank_share(picture.pixels)
    return texture_energy(picture.pixels) if blank <= MOST_BLANK else 0.0


def _answer(
    rows: NDArray[np.float32],
    textures: NDArray[np.float32],
    good: Iterable[int],
    bad: dict[int, tuple[str, str]],
) -> Payload:
    """Return the answer; a tile whose descriptor is not finite becomes a bad one.

    So does a tile without texture whose descriptor is zero.
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
    kept = finite & (rows.any(axis=1) | (textures >= FEATURELESS_BELOW))
    for number, fine, texture in zip(good, kept, textures, strict=True):
        if not fine and texture < FEATURELESS_BELOW:
            bad[number] = (ErrorKind.BAD_VECTORS, BLANK_TILE)
        elif not fine:
            bad[number] = (ErrorKind.BAD_VECTORS, "expected a finite descriptor, found NaN or infinity")
    return {
        "vectors": rows[kept],
        "texture": textures[kept],
        "bad": [[number, str(kind), message] for number, (kind, message) in sorted(bad.items())],
    }


if __name__ == "__main__":
    serve(start)
