"""Learn the whitening of `builtin:place` from pairs of a tile and an image of it, on procedural landscapes.

Run from the root of the repository: `python tests/benchmarks/train_place.py --out whitening.bin`. It prints
the digests to pin in `pipeline/builtin_model/place.py`. Eigenvectors differ in their last bits between
machines, so the result is a data file and a build never computes it. The noise covariance is that of the
feature differences within pairs, shrunk towards a multiple of the unit matrix; the projection whitens it and
keeps the directions in which tiles then differ most (linear discriminant analysis with one class per tile).
"""

import argparse
import hashlib
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from pipeline.builtin_model.place import (
    PLACE_DIMENSIONS,
    PLACE_INPUT,
    Whitening,
)
from store.base.texture import FEATURELESS_BELOW, texture_energy
from tests.place_training import encode_whitening, feature_model
from tests.terrain_views import CONDITIONS, random_view
from tools.demo.terrain import terrain

SIZE = 256
MOSAIC = 3328
SHRINKAGE = 0.2
KINDS = ("hard", "rot360", "hard360")
FIRST_SEED = 1000
BATCH = 8

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Features of tiles [n, f], and of the pictures of each of them [n, views, f] for every kind of picture."""

    tiles: Features
    pictures: dict[str, Features]


def session(model: bytes) -> onnxruntime.InferenceSession:
    """Load a network with one thread, so that results are the same on every machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def embed(network: onnxruntime.InferenceSession, pictures: Sequence[Pixels]) -> Features:
    """Run images through a network that takes RGB from 0 to 255; return [n, dimensions]."""
    rows = []
    for first in range(0, len(pictures), BATCH):
        batch = np.stack(pictures[first : first + BATCH]).transpose(0, 3, 1, 2)
        rows.append(network.run(None, {PLACE_INPUT: np.ascontiguousarray(batch, dtype=np.float32)})[0])
    return np.concatenate(rows)


def zooms(seed: int) -> Iterator[Pixels]:
    """Return a landscape, and the same one zoom level above, where a pixel covers four."""
    full = terrain(MOSAIC, seed)
    yield full
    yield np.asarray(Image.fromarray(full).reduce(2))


def centres(mosaic: Pixels) -> Iterator[tuple[int, int]]:
    """Return the centres x, y of the tiles with enough room around them and a recognisable texture."""
    across = mosaic.shape[0] // SIZE
    for row in range(1, across - 1):
        for column in range(1, across - 1):
            tile = mosaic[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            if texture_energy(tile) >= FEATURELESS_BELOW:
                yield column * SIZE + SIZE // 2, row * SIZE + SIZE // 2


def collect(seeds: Sequence[int], views: int) -> Pairs:
    """Embed every distinguishable tile of the landscapes and some images of each."""
    network = session(feature_model())
    tiles: list[Features] = []
    pictures: dict[str, list[Features]] = {kind: [] for kind in KINDS}
    half = SIZE // 2
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        for mosaic in zooms(seed):
            places = list(centres(mosaic))
            tiles.append(
                embed(network, [mosaic[y - half : y + half, x - half : x + half] for x, y in places])
            )
            for kind, rows in pictures.items():
                taken = [
                    random_view(mosaic, place, CONDITIONS[kind], rng=rng)
                    for place in places
                    for _ in range(views)
                ]
                rows.append(embed(network, taken).reshape(len(places), views, -1))
    return Pairs(
        tiles=np.concatenate(tiles), pictures={kind: np.concatenate(rows) for kind, rows in pictures.items()}
    )


def fit(pairs: Pairs, *, shrinkage: float, dimensions: int) -> Whitening:
    """Whiten the differences within pairs, then keep the directions in which tiles differ most."""
    tiles = pairs.tiles.astype(np.float64)
    mean = tiles.mean(0)
    features = tiles.shape[1]
    noise = np.zeros((features, features))
    for rows in pairs.pictures.values():
        apart = (rows - pairs.tiles[:, None]).reshape(-1, features).astype(np.float64)
        noise += apart.T @ apart / len(apart) / len(pairs.pictures)
    noise += shrinkage * np.trace(noise) / features * np.eye(features)
    whiten = np.linalg.inv(np.linalg.cholesky(noise)).T
    spread = (tiles - mean) @ whiten
    _, directions = np.linalg.eigh(spread.T @ spread / len(spread))
    projection = whiten @ directions[:, ::-1][:, :dimensions]
    length = np.sqrt(np.mean(np.sum(((tiles - mean) @ projection) ** 2, 1)))
    return Whitening(mean=mean.astype(np.float32), projection=(projection / length).astype(np.float16))


def main() -> None:
    """Train, write the file, print its digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--landscapes", type=int, default=24)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--shrinkage", type=float, default=SHRINKAGE)
    given = parser.parse_args()
    started = time.monotonic()
    pairs = collect(range(FIRST_SEED, FIRST_SEED + given.landscapes), given.views)
    data = encode_whitening(fit(pairs, shrinkage=given.shrinkage, dimensions=PLACE_DIMENSIONS))
    given.out.write_bytes(data)
    print(f"{len(pairs.tiles)} tiles, {given.views} views of each of {', '.join(KINDS)}")
    print(f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
