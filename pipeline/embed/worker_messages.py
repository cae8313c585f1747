"""What a worker that embeds is sent, and what it answers. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.cells import Window
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.tiles.retrieval_units import RetrievalUnits, unit_name
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """An engine for workers to load.

    Attributes:
        path: Its file.
        sha256: Its digest; a worker refuses other bytes.
        backend: Backend that compiled it.
        version: Full version of the backend's library.
        input: Name of the input tensor.
        output: Name of the output tensor.
        batch: Fixed batch size.
        dimensions: Length of a descriptor.
        precision: Arithmetic of the engine, for backends whose engines do not state it.
    """

    path: str
    sha256: str
    backend: str
    version: str
    input: str
    output: str
    batch: int
    dimensions: int
    precision: str | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
class BadImage:
    """A tile that cannot be used, or a unit whose descriptor cannot.

    Attributes:
        identifier: Descriptor id of the tile or chunk.
        sha256: Its digest, hexadecimal.
        kind: The value of an `ErrorKind`, such as "bad-tile".
        message: What is wrong.
    """

    identifier: int
    sha256: str
    kind: str
    message: str

    @property
    def name(self) -> str:
        """The name of the tile or chunk."""
        return unit_name(self.identifier)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowResult:
    """The descriptors of a window.

    Attributes:
        window: The window.
        units: Its units that have a descriptor, in order.
        vectors: Their descriptors, float32 [n, d], finite.
        texture: Their texture scores, float32 [n].
        without: Digests of its other units, hexadecimal.
        bad: Why these have none: its bad tiles, then units whose descriptor cannot be used.
    """

    window: Window
    units: RetrievalUnits
    vectors: NDArray[np.float32]
    texture: NDArray[np.float32]
    without: tuple[str, ...]
    bad: tuple[BadImage, ...]


def window_result(window: Window, value: Message, dimensions: int) -> WindowResult:
    """Return a window's result from a worker's answer; `pipeline.embed.worker` describes the message.

    Raises:
        EmbedError: BAD_VECTORS, the number of rows is not that of the good units, or a row has another
            length.
    """
    good = np.asarray(value["good"], np.intp)
    vectors, texture = value["vectors"], value["texture"]
    if vectors.shape != (len(good), dimensions) or texture.shape != (len(good),):
        raise EmbedError(
            f"expected descriptors as [{len(good)}, {dimensions}], found {list(vectors.shape)}",
            hint="compile the engine again",
            kind=ErrorKind.BAD_VECTORS,
            subject=window_name(window),
        )
    bad = np.ones(len(window.units), np.bool_)
    bad[good] = False
    return WindowResult(
        window=window,
        units=window.units.take(good),
        vectors=vectors,
        texture=texture,
        without=tuple(window.units.take(bad).hex_digests),
        bad=(
            *_bad_images(RetrievalUnits.of_tiles(window.tiles), value["bad_tiles"]),
            *_bad_images(window.units, value["bad_vectors"]),
        ),
    )


def _bad_images(units: RetrievalUnits, problems: Iterable[tuple[int, str, str]]) -> Iterator[BadImage]:
    for index, kind, message in problems:
        yield BadImage(
            identifier=int(units.ids[index]),
            sha256=units.digests[index].tobytes().hex(),
            kind=kind,
            message=message,
        )


def worker_setup(engine: EngineSpec, preprocessing: Preprocessing) -> dict[str, Payload]:
    """Return the first message to a worker: the engine to load, and the preprocessing."""
    return {"engine": asdict(engine), "preprocessing": preprocessing.to_document()}


def worker_request(window: Window, content: Sequence[Payload]) -> Payload:
    """Return the message that asks a worker for the descriptors of a window.

    Args:
        window: The window.
        content: For each tile its locator, or its encoded bytes, or why there are none, as `kind` and `message`.
    """
    tiles = window.tiles
    return {
        "tiles": [list(each) for each in zip(tiles.ids.tolist(), tiles.hex_digests, content, strict=True)],
        "chunks": window.units.ids if window.shows_chunks else None,
        "tile_edges": [list(each) for each in window.tile_edges.items()],
    }


def window_name(window: Window | None) -> str:
    """Return a window's name for messages; None stands for the start of a worker."""
    if window is None:
        return "a worker's start"
    first, last = window.subjects[0], window.subjects[-1]
    cells = first if first == last else f"{first} to {last}"
    what = "chunks" if window.shows_chunks else "tiles"
    return f"window {window.number} (cells {cells}, {len(window.units)} {what})"
