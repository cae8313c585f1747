"""Measure the recall of `builtin:place` on landscapes that are not in the training data of its whitening.

Run from the root of the repository: `python tests/benchmarks/place_recall.py`. Every distinguishable tile is
searched once under each kind of condition among all tiles of all landscapes. Peers: the same features without
whitening, and their absolute values alone, which is the classical rotation-invariant GIST.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from train_place import FIRST_SEED, MOSAIC, SIZE, centres, embed, session

from pipeline.builtin_model.place import PLACE_MAGNITUDES, place_model
from tests.place_training import feature_model
from tests.terrain_views import CONDITIONS, random_view
from tools.demo.terrain import terrain

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]


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


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    seeds = parser.parse_args().seeds
    if max(seeds) >= FIRST_SEED:
        parser.error(f"seeds from {FIRST_SEED} on belong to training: choose smaller ones")
    tiles, queries = pictures(seeds)
    print(f"seeds {seeds}, {len(tiles)} tiles, R@1 / R@5")
    print(f"{'':24}{'dim':>6}" + "".join(f"{kind:>16}" for kind in queries))
    for name, (model, finish) in methods().items():
        network = session(model)
        stored = finish(embed(network, tiles))
        cells = []
        for taken in queries.values():
            found = recall(stored, finish(embed(network, taken)))
            cells.append(f"{found.first:.3f} / {found.five:.3f}")
        print(f"{name:24}{stored.shape[1]:>6}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
