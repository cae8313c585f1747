"""Measure the recall of `builtin:place` on landscapes that are not in the training data of its whitening.

Run from the root of the repository: `python tests/benchmarks/place_recall.py`. Every distinguishable tile is
searched once under each kind of condition among all tiles of all landscapes. Peers: the same features without
whitening, and their absolute values alone, which is the classical rotation-invariant GIST.

Then photographs like those of the demonstration, of each landscape on another day, are searched among the chunks
of that landscape: squares of 189 m every 27 m.
"""

import argparse
import io
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from train_place import FIRST_SEED, MOSAIC, SIZE, centres, embed, session

from pipeline.builtin_model.place import PLACE_MAGNITUDES, place_model
from store.base.geometry.camera import cut_square
from tests.place_training import feature_model
from tests.terrain_views import CONDITIONS, random_view
from tools.demo.photographs import take_photographs
from tools.demo.region import CAMERA, LATER
from tools.demo.terrain import terrain

PIXEL_M = 0.423
CHUNK = 448
STEP = 64
PHOTOGRAPHS = 24

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]
Metres = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Shares of queries whose own tile came first, and among the first five."""

    first: float
    five: float


def unit(rows: Rows) -> Rows:
    """Scale every row to unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def recall(tiles: Rows, queries: Rows) -> Recall:
    """Return the recall; query i belongs to tile i, and all rows have unit length."""
    scores = queries @ tiles.T
    own = scores[np.arange(len(queries)), np.arange(len(queries))]
    better = (scores > own[:, None]).sum(1)
    return Recall(first=float((better < 1).mean()), five=float((better < 5).mean()))


def pictures(seeds: Sequence[int]) -> tuple[list[Pixels], dict[str, list[Pixels]]]:
    """Return all distinguishable tiles of the landscapes, and one image of each under each condition."""
    tiles: list[Pixels] = []
    queries: dict[str, list[Pixels]] = {kind: [] for kind in CONDITIONS}
    half = SIZE // 2
    for seed in seeds:
        mosaic = terrain(MOSAIC, seed)
        rng = np.random.default_rng([seed, 2])
        for x, y in centres(mosaic):
            tiles.append(mosaic[y - half : y + half, x - half : x + half].copy())
            for kind, taken in queries.items():
                taken.append(random_view(mosaic, (x, y), CONDITIONS[kind], rng=rng))
    return tiles, queries


def methods() -> dict[str, tuple[bytes, Callable[[Rows], Rows]]]:
    """Return what is compared: a network, and what is done with its output."""
    features = feature_model()
    return {
        "builtin:place": (place_model(), lambda rows: rows),
        "without whitening": (features, unit),
        "absolute values alone": (features, lambda rows: unit(rows[:, :PLACE_MAGNITUDES])),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Chunks of one landscape, photographs of it cut to the same size, and how far each is from each chunk.

    Attributes:
        chunks: Pictures of the chunks.
        middles: Their middles, metres, float64 [chunks, 2].
        photographs: Squares of the photographs, turned north.
        away: Distance of each photograph from each chunk's middle, metres, float64 [photographs, chunks].
    """

    chunks: list[Pixels]
    middles: Metres
    photographs: list[Pixels]
    away: Metres


def flight(seed: int) -> Flight:
    """Return what is searched for, and among what, in one landscape."""
    ground = Image.fromarray(terrain(MOSAIC, seed))
    corners = range(0, MOSAIC - CHUNK + 1, STEP)
    boxes = [(x, y, x + CHUNK, y + CHUNK) for y in corners for x in corners]
    chunks = [np.asarray(ground.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for box in boxes]
    middles = (np.array(boxes, np.float64)[:, :2] + CHUNK / 2) * PIXEL_M
    photographs, places = [], []
    for taken in take_photographs(terrain(MOSAIC, seed, LATER), PIXEL_M, PHOTOGRAPHS, seed=seed):
        with Image.open(io.BytesIO(taken.data)) as picture:
            frame = np.asarray(picture.convert("RGB"))
        photographs.append(
            cut_square(
                frame,
                metres_per_pixel=taken.altitude_m / CAMERA["fx"],
                side_m=CHUNK * PIXEL_M,
                heading_deg=taken.heading_deg,
                size=(SIZE, SIZE),
            )
        )
        places.append(taken.at_px)
    away = np.linalg.norm(np.array(places)[:, None] * PIXEL_M - middles[None], axis=2)
    return Flight(chunks=chunks, middles=middles, photographs=photographs, away=away)


def found(flown: Flight, stored: Rows, queries: Rows) -> Metres:
    """Return for each photograph how far off the best chunk is and the best of ten, and the margin, [n, 3]."""
    rows = []
    for scores, away in zip(queries @ stored.T, flown.away, strict=True):
        order = np.argsort(-scores)
        apart = np.linalg.norm(flown.middles - flown.middles[order[0]], axis=1) > CHUNK * PIXEL_M
        rows.append((away[order[0]], away[order[:10]].min(), scores[order[0]] - scores[apart].max()))
    return np.array(rows)


def print_chunks(seeds: Sequence[int]) -> None:
    """Print the recall of photographs among chunks, over all landscapes."""
    networks = {name: (session(model), finish) for name, (model, finish) in methods().items()}
    rows: dict[str, list[Metres]] = {name: [] for name in networks}
    for seed in seeds:
        flown = flight(seed)
        for name, (network, finish) in networks.items():
            stored, queries = (finish(embed(network, each)) for each in (flown.chunks, flown.photographs))
            rows[name].append(found(flown, stored, queries))
    print(f"\n{len(seeds) * PHOTOGRAPHS} photographs, each among {len(flown.chunks)} chunks of its landscape")
    columns = ("20 m first", "50 m first", "50 m in ten", "50 m, surer half")
    print(f"{'':24}" + "".join(f"{column:>18}" for column in columns))
    for name, parts in rows.items():
        first, ten, margin = np.concatenate(parts).T
        surer = first[np.argsort(-margin)[: len(first) // 2]]
        shares = (
            (each <= metres).mean() for each, metres in ((first, 20), (first, 50), (ten, 50), (surer, 50))
        )
        print(f"{name:24}" + "".join(f"{share:>18.3f}" for share in shares))


def print_tiles(seeds: Sequence[int]) -> None:
    """Print the recall of tiles under each kind of condition."""
    tiles, queries = pictures(seeds)
    print(f"seeds {seeds}, {len(tiles)} tiles, R@1 / R@5")
    print(f"{'':24}{'dim':>6}" + "".join(f"{kind:>16}" for kind in queries))
    for name, (model, finish) in methods().items():
        network = session(model)
        stored = finish(embed(network, tiles))
        cells = []
        for taken in queries.values():
            share = recall(stored, finish(embed(network, taken)))
            cells.append(f"{share.first:.3f} / {share.five:.3f}")
        print(f"{name:24}{stored.shape[1]:>6}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    seeds = parser.parse_args().seeds
    if max(seeds) >= FIRST_SEED:
        parser.error(f"seeds from {FIRST_SEED} on belong to training: choose smaller ones")
    print_tiles(seeds)
    print_chunks(seeds)


if __name__ == "__main__":
    main()
