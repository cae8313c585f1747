"""Fit a VLAD head on the area: words and projection, and one ONNX file of network and head.

Equal inputs give equal bytes, at any number of threads: the network runs as it does for parity, one picture at a
time, and faiss has one thread and a fixed seed. Another processor or library may give other last bits, and with
them another file.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.embed.cells import Window
from pipeline.embed.worker import Embedder
from pipeline.embed.worker_messages import worker_request
from pipeline.engines.models.model import Model
from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto, read_onnx
from pipeline.engines.onnx.vlad import Projection, add_flat_features, add_vlad
from pipeline.engines.port import EngineJob
from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.index.faiss_builder import import_faiss
from pipeline.planning.heads import Heads
from pipeline.processes.framing import Payload
from pipeline.progress import NoProgress, Progress
from pipeline.request.head_options import HeadOptions
from pipeline.stages.engines.reference import Reference
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.sources.read_tile import SOURCE_CHANGED_HINT
from pipeline.tiles.tile_columns import TileColumns
from store.base.texture import FEATURELESS_BELOW
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import EngineCompiled
from store.runtime.golden_vectors import Vectors
from store.runtime.load import Engine, ExecutionError, RuntimeUnavailableError

Floats = npt.NDArray[np.float32]

WORD_UNITS: Final = 256
"""How many units of the sample, the first ones, the words are fitted on."""

_FEATURES_OF_UNIT: Final = 64
_ITERATIONS: Final = 25
_SEED: Final = 20_111
_LEAST_PER_WORD: Final = 39
"""Local features for each word, below which faiss warns that there are too few."""

_MOST_NUMBERS: Final = 1 << 16
"""Words times channels: the projection has as many columns."""

_UNITS_AT_ONCE: Final = 64
"""How many units are decoded together: tiles under several of them are decoded once."""


def heads_of(
    engines: Sequence[EngineCompiled], layout: Layout, progress: Progress, *, any_sample: bool = False
) -> Heads:
    """Return the heads of some engines of a cache, the preferred ones first; others are fitted."""
    fit = partial(fit_head, progress=progress)
    return Heads(engines=engines, artifacts=Artifacts(layout), fit=fit, any_sample=any_sample)


def fit_head(
    model: Model,
    options: HeadOptions,
    sample: RetrievalUnits,
    shown: ShownTiles,
    *,
    progress: Progress | None = None,
) -> bytes:
    """Fit a head, and return the ONNX file of network and head.

    Args:
        model: The network below the head.
        options: The head.
        sample: What it is fitted on; units over a tile that cannot be decoded, or without texture, are left out.
        shown: Finds the tiles that they show.
        progress: Receives progress reports.

    Raises:
        RequestError: The sample is too small for the head, the head is too large, or a library is not installed.
        CompileError: The network cannot be run, or its operators are too old for a head.
        TileError: A tile changed since it was selected, or cannot be read.
    """
    told, name, what = progress or NoProgress(), model.spec.name, "chunks" if shown.edges else "tiles"
    channels = _channels(model.job)
    _require_sizes(name, options, channels)
    _require_units(name, options, what, len(sample))
    told.start(f"fit the head of {name}", total=min(WORD_UNITS, len(sample)) + len(sample), unit=what)
    rows = _run(model, lambda proto: add_flat_features(proto, model.job.output, channels), told)
    features = [_spread(row.reshape(-1, channels)) for row in rows(sample.take(slice(WORD_UNITS)), shown)]
    words = _fit_words(name, options, np.concatenate([np.zeros((0, channels), np.float32), *features]))
    rows = _run(model, lambda proto: add_vlad(proto, model.job.output, words, None), told)
    vectors = [*rows(sample, shown)]
    _require_units(name, options, what, len(vectors))
    projection = _fit_projection(np.stack(vectors), options.dimensions)
    left_out = len(sample) - len(vectors)
    told.finish(
        f"{left_out} of {len(sample)} {what} left out: damaged, or without texture" if left_out else ""
    )
    proto = _network(model.job)
    add_vlad(proto, model.job.output, words, projection)
    return _serialised(proto)


def _require_sizes(name: str, options: HeadOptions, channels: int) -> None:
    """Refuse a head that is too large, or has more dimensions than there are numbers to project."""
    numbers = options.words * channels
    if numbers > _MOST_NUMBERS:
        raise RequestError(
            f"models.{name}.head.words: expected at most {_MOST_NUMBERS // channels} for features of {channels} numbers,"
            f" found {options.words}",
            hint="lower it",
        )
    if options.dimensions > numbers:
        raise RequestError(
            f"models.{name}.head.dimensions: expected at most {numbers}, words times features of {channels} numbers,"
            f" found {options.dimensions}",
            hint="lower it, or raise head.words",
        )


def _require_units(name: str, options: HeadOptions, what: str, found: int) -> None:
    """Refuse a head with as many dimensions as there are units to fit it on."""
    if found <= options.dimensions:
        lower = f"lower it to {found - 1}, " if found > 2 else ""
        raise RequestError(
            f"models.{name}.head.dimensions: expected less than the number of different {what} with texture in the"
            f" sample of the area, {found}, found {options.dimensions}",
            hint=f"{lower}widen the area{', or raise chunks.overlap' if what == 'chunks' else ''}",
        )


def _network(job: EngineJob) -> Proto:
    return read_onnx(job.onnx, expected_sha256=job.onnx_sha256)


def _serialised(proto: Proto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


def _channels(job: EngineJob) -> int:
    """Return the length of a network's local features, which was required to be fixed."""
    output = next(each for each in _network(job).graph.output if each.name == job.output)
    sizes = output.type.tensor_type.shape.dim
    return int(sizes[1 if len(sizes) == 4 else 2].dim_value)


def _run(
    model: Model, change: Callable[[Proto], str], progress: Progress
) -> Callable[[RetrievalUnits, ShownTiles], Iterator[Floats]]:
    """Return what runs a changed network on units, and yields the answer to each that has texture, float32 [d].

    `change` changes the network, and returns the name of its output.
    """
    if model.preprocessing is None:
        raise AssertionError("a descriptor network has an image contract")
    # What comes after the network belongs to descriptors.
    preprocessing = replace(model.preprocessing, normalise=False)
    proto = _network(model.job)
    output = change(proto)
    data = _serialised(proto)
    with tempfile.TemporaryDirectory(prefix="c10-") as folder, _as_bad_model(model):
        path = Path(folder) / "network.onnx"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        reference = Reference(replace(model.job, onnx=path, onnx_sha256=digest, output=output))
        executor = _ReferenceExecutor(reference, preprocessing.shape)
    embedder = Embedder(Engine(executor, batch=reference.fixed_batch or 1), preprocessing)

    def answers(units: RetrievalUnits, shown: ShownTiles) -> Iterator[Floats]:
        for start in range(0, len(units), _UNITS_AT_ONCE):
            part = units.take(slice(start, start + _UNITS_AT_ONCE))
            request, tiles = _request(part, shown)
            with _as_bad_model(model):
                found = embedder.describe(request)
            _require_read(found["bad_tiles"], tiles)
            yield from found["vectors"][found["texture"] >= FEATURELESS_BELOW]
            progress.advance(len(part))

    return answers


class _ReferenceExecutor:
    """Runs a network as it does for parity, where an engine is expected."""

    takes_any_batch = False

    def __init__(self, reference: Reference, sample_shape: tuple[int, ...]) -> None:
        self._reference, self.sample_shape = reference, sample_shape
        self.dimensions = int(reference.run(np.zeros((1, *sample_shape), np.float32)).shape[1])

    def execute(self, batch: Vectors) -> Vectors:
        return self._reference.run(batch)


@contextmanager
def _as_bad_model(model: Model) -> Iterator[None]:
    """Translate the errors of running a network."""
    try:
        yield
    except RuntimeUnavailableError as error:
        raise RequestError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error
    except ExecutionError as error:
        raise bad_model(
            f"expected ONNX Runtime to run the network, to fit its head, found: {error.message}",
            "export the network with operators that ONNX Runtime knows, or remove head",
            model.spec.name,
        ) from error


def _request(units: RetrievalUnits, shown: ShownTiles) -> tuple[Payload, TileColumns]:
    """Return the request for the answers to units, and the tiles that these show."""
    tiles = shown.under(units.ids)
    window = Window(number=0, cells=(), units=units, tiles=tiles, tile_edges=shown.edges)
    return worker_request(window, [list(tile.locator) for tile in tiles]), tiles


def _require_read(bad: Sequence[tuple[int, str, str]], tiles: TileColumns) -> None:
    """Raise `TileError` if a tile changed since it was selected, or cannot be read.

    Tiles that cannot be decoded are left out: their bytes decide that, and the sample's digest names these. A fit
    without others would depend on the moment.
    """
    for index, kind, message in bad:
        if kind != ErrorKind.BAD_TILE:
            place = str(tiles[index].place)
            raise TileError(
                f"tile {place}: {message}",
                hint=SOURCE_CHANGED_HINT,
                kind=ErrorKind(kind),
                subject=place,
            )


def _spread(features: Floats) -> Floats:
    """Return some local features of a unit, evenly spread, float32 [n, c], of all, float32 [t, c]."""
    places = np.unique(np.linspace(0, len(features) - 1, _FEATURES_OF_UNIT).round().astype(np.intp))
    return features[places]


def _fit_words(name: str, options: HeadOptions, features: Floats) -> Floats:
    """Return the words, float32 [words, c]: the means of clusters of local features, float32 [n, c]."""
    most = len(features) // _LEAST_PER_WORD
    if options.words > most:
        raise RequestError(
            f"models.{name}.head.words: expected at most {most}, found {options.words}: the sample of the area has"
            f" {len(features)} local features, of which each word needs {_LEAST_PER_WORD}",
            hint="lower it, or widen the area" if most > 1 else "widen the area: it shows hardly any texture",
        )
    with _one_thread() as faiss:
        means = faiss.Kmeans(
            features.shape[1],
            options.words,
            niter=_ITERATIONS,
            seed=_SEED,
            # Of all features, not of a sample.
            max_points_per_centroid=len(features),
        )
        means.train(features)
    found: Floats = means.centroids
    return found


def _fit_projection(vectors: Floats, dimensions: int) -> Projection:
    """Return mean and first principal axes of VLAD vectors, float32 [n, d]."""
    with _one_thread() as faiss:
        fitted = faiss.PCAMatrix(vectors.shape[1], dimensions)
        fitted.train(vectors)
        axes = faiss.vector_to_array(fitted.A).reshape(dimensions, -1)
        return Projection(mean=faiss.vector_to_array(fitted.mean), axes=axes)


@contextmanager
def _one_thread() -> Iterator[Any]:
    """Give faiss one thread: sums in another order have other last bits."""
    faiss = import_faiss("fitting a head")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
