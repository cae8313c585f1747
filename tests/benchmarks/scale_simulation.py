"""Measure real builds of growing size, and print the table of `docs/scale.md` about very many tiles.

    python -m tests.benchmarks.scale_simulation --json FILE [--only PART ...] [--sizes N ...]
    python -m tests.benchmarks.scale_simulation --json FILE --table [--network-ms MS] [--feed-ms MS]

Each size has a process of its own and so its own peak of memory. The parts: `builds` builds a cache from an
archive with everything but a network (selection, journal, blocks, flat index, checks, walk, commit).
`journals` folds the records of so many cells without their blocks (`long_journals`). `indexes` builds an HNSW
graph of random rows. `embedding` measures milliseconds for a tile of 20 kB on one thread: decoding alone,
with the built-in network, and with a ResNet-50. The results are merged into FILE; `--table` prints the table
that `tests.benchmarks.scale_table` makes of it.
"""

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from pipeline.embed.worker import load_embedder
from pipeline.embed.worker_messages import worker_request, worker_setup
from pipeline.index.faiss_builder import BuiltIndex, FaissIndexBuilder, OnRows
from pipeline.index.plan import IndexPlan, plan_index
from pipeline.request.options import IndexKind, IndexOptions
from pipeline.tiles.images.decode import decode
from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from store.domain import event_codec
from store.domain.events import BuildCommitted, BuildStarted, CellEmbedded, StepStarted
from store.formats import descriptor_block as blocks
from store.formats.descriptor_block import Block
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.benchmarks.caches import BigSite, write_mbtiles
from tests.benchmarks.long_journals import one_journal
from tests.benchmarks.measuring import apart, machine, retained, wall
from tests.benchmarks.ray_overhead import engine_in, one_cell
from tests.benchmarks.scale_table import table

SIZES: Final = (16_384, 65_536, 262_144)
GRAPHS: Final = (8_192, 32_768, 131_072)
DIMENSIONS: Final = 384
CELLS: Final = (4_096, 16_384, 65_536)
PARTS: Final = ("builds", "journals", "indexes", "embedding")

_TURNS: Final = 5
_GATHERINGS: Final = 3
_TILES: Final = 64


def main() -> None:
    """Measure what is asked for, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="what was measured")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N", help="of builds")
    parser.add_argument("--cells", type=int, nargs="+", default=list(CELLS), metavar="N", help="of journals")
    parser.add_argument("--graphs", type=int, nargs="+", default=list(GRAPHS), metavar="N", help="of indexes")
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS, help="of a descriptor")
    parser.add_argument("--table", action="store_true", help="print the table; measure nothing")
    parser.add_argument(
        "--network-ms", type=float, help="cost of a large network per tile; by default as measured"
    )
    parser.add_argument(
        "--feed-ms", type=float, default=13.0, help="what a builder spends on a cell with Ray"
    )
    parser.add_argument("--one", nargs=2, metavar=("PART", "N"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(ONE[asked.one[0]](int(asked.one[1]), asked.dimensions)))
        return
    kept: dict[str, Any] = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    if asked.table:
        print("\n".join(table(kept, network_ms=asked.network_ms, feed_ms=asked.feed_ms)))
        return
    counts = {"builds": asked.sizes, "journals": asked.cells, "indexes": asked.graphs, "embedding": [_TILES]}
    for part in asked.only:
        kept[part] = {}
        for count in counts[part]:
            kept[part][str(count)] = _apart(part, count, asked)
            print(part, count, json.dumps(kept[part][str(count)]), flush=True)
        asked.json.write_text(json.dumps({**kept, "machine": machine()}, indent=1) + "\n")


def _apart(part: str, count: int, asked: argparse.Namespace) -> Mapping[str, Any]:
    given = ["--json", str(asked.json), "--one", part, str(count), "--dimensions", str(asked.dimensions)]
    found: Mapping[str, Any] = apart("tests.benchmarks.scale_simulation", given, what=f"{part} of {count}")
    return found


class _Watched(FaissIndexBuilder):
    """Records how much memory the build had used before its index."""

    peak = 0

    def build(
        self,
        rows: Iterable[Block],
        count: int,
        dimensions: int,
        plan: IndexPlan,
        *,
        fd_path: str,
        on_progress: OnRows | None = None,
    ) -> BuiltIndex:
        """See `FaissIndexBuilder.build`."""
        self.peak = _peak()
        return super().build(rows, count, dimensions, plan, fd_path=fd_path, on_progress=on_progress)


def one_build(count: int, dimensions: int) -> Mapping[str, Any]:
    """Build a cache of so many tiles, and measure the result."""
    with tempfile.TemporaryDirectory(prefix=f"c10-scale-{count}-") as folder:
        site = BigSite(Path(folder) / "site")
        site.number, site.dimensions = count, dimensions
        archive = site.root / "tiles.mbtiles"
        write_mbtiles(archive, count)
        indexer, base = _Watched(), _peak()
        request = site.request(source=archive.name)
        gathering = median(_gathering(site, archive) for _ in range(_GATHERINGS))
        report = site.provisioner(index_builder=indexer).build_cache_artifacts(request)
        layout = Layout(site.cache)
        cold = Layout(site.cache)
        journal = _journal(cold)
        kept = retained(lambda: site.provisioner()._resolve(request))[0]
        time.sleep(2.1)  # younger files are not trusted, and nothing is remembered of them
        site.warm(source=archive.name)
        build = open_view(cold).state.head_build
        if build is None or build.index is None or build.tiles is None:
            raise SystemExit(f"expected a committed build of {count} tiles, found {report.outcome}")
        with FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
            tile_table = cache.manifest.tiles.size
        return {
            **journal,
            "seconds": report.seconds,
            "gather_s": gathering,
            "flat_s": build.index.elapsed_ms / 1000,
            "flat_bytes": build.index.artifact.size,
            "tiles_memory": kept,
            "build_memory": indexer.peak - base,
            "archive_bytes": _folder_bytes(site.root / "memory"),
            "journal_file_bytes": layout.journal.stat().st_blocks * 512,
            "segment_bytes": _folder_bytes(layout.root / "segments"),
            "manifest_bytes": max(path.stat().st_size for path in layout.manifests.iterdir()),
            "tile_table_bytes": tile_table,
            "block_table_bytes": build.index.blocks.size,
        }


def _gathering(site: BigSite, archive: Path) -> float:
    """Return the seconds for resolving a build's inputs; an archive that was just written is hashed whole."""
    archive.touch()
    provisioner, request = site.provisioner(), site.request(source=archive.name)
    return wall(lambda: provisioner._resolve(request))


def _journal(layout: Layout) -> dict[str, Any]:
    """Return what the journal holds: records and their bytes by kind, and the seconds between them."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    began = ended = first = last = 0
    cells = block_bytes = 0
    for fact in read_history(layout).facts:
        tag, _, payload = event_codec.encode(fact.event)
        counts[tag] += 1
        sizes[tag] += len(json.dumps(payload, default=str))
        match fact.event:
            case BuildStarted():
                began = fact.mono_ns
            case BuildCommitted():
                ended = fact.mono_ns
            case StepStarted(kind="cells"):
                first = first or fact.mono_ns
            case CellEmbedded(block=block):
                cells, last, block_bytes = cells + 1, fact.mono_ns, block_bytes + block.size
            case _:
                pass
    return {
        "records": dict(counts),
        "record_bytes": dict(sizes),
        "cells": cells,
        "block_bytes": block_bytes,
        "cells_s": (last - first) / 1e9,
        "recorded_s": (ended - began) / 1e9,
    }


def one_index(count: int, dimensions: int) -> Mapping[str, Any]:
    """Build an HNSW graph of random rows."""
    plan = plan_index(IndexOptions(kind=IndexKind.HNSW), count=count, dimensions=dimensions)
    with tempfile.NamedTemporaryFile() as file:
        base, blocks, builder = _peak(), _blocks(count, dimensions), FaissIndexBuilder()
        seconds = wall(lambda: builder.build(blocks, count, dimensions, plan, fd_path=file.name))
        size = Path(file.name).stat().st_size
        return {"hnsw_s": seconds, "hnsw_bytes": size, "hnsw_memory": _peak() - base}


def _blocks(count: int, dimensions: int) -> Iterator[Block]:
    """Yield blocks of random unit vectors."""
    places = np.arange(256)
    for cell in range(count // 256):
        vectors = np.random.default_rng(cell).standard_normal((256, dimensions), np.float32)
        yield Block(
            zoom=20,
            cell_x=cell,
            cell_y=0,
            dimensions=dimensions,
            ids=np.sort(blocks.descriptor_ids(np.full(256, 20), 16 * cell + places // 16, places % 16)),
            digests=np.zeros((256, 32), np.uint8),
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            texture=np.ones(256, np.float32),
        )


def one_embedding(count: int, dimensions: int) -> Mapping[str, Any]:
    """Measure milliseconds for a tile on one thread: decoding, and all work of a worker with a network."""
    del dimensions
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        window = one_cell(Path(name), count)
        contents = [(tile.sha256, Path(str(tile.locator[1])).read_bytes()) for tile in window.tiles]
        found["tile_bytes"] = sum(len(data) for _, data in contents) / count
        found["hash_ms"] = _per_tile(lambda: [sha256(data).digest() for _, data in contents], count)
        found["decode_ms"] = _per_tile(lambda: [decode(data) for _, data in contents], count)
        for network in ("none", "place", "resnet50"):
            spec, preprocessing = engine_in(Path(name), network)
            setup: Any = worker_setup(spec, preprocessing)
            handler = load_embedder(Path(spec.path).read_bytes(), setup).embed
            request = worker_request(window, [data for _, data in contents])
            found[f"{network}_ms"] = _per_tile(lambda: handler(request, lambda _: None), count)  # noqa: B023
    return found


def _one_journal(count: int, dimensions: int) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix=f"c10-scale-{count}-") as folder:
        return one_journal(Path(folder), count, dimensions)


ONE: Final[Mapping[str, Callable[[int, int], Mapping[str, Any]]]] = {
    "builds": one_build,
    "journals": _one_journal,
    "indexes": one_index,
    "embedding": one_embedding,
}


def _per_tile(work: Callable[[], object], count: int) -> float:
    return 1000 * median(wall(work) for _ in range(_TURNS)) / count


def _peak() -> int:
    """Return the greatest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
