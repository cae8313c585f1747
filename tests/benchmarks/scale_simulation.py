"""What many tiles cost, from what their cells cost: a journal of so many embedded cells is written and read back.

Run from the root of the repository: `python tests/benchmarks/scale_simulation.py [--cells N ...]`. One line of JSON per
size: bytes of a record on disk, microseconds to append it (16 to a durable transaction) and to decode it, and bytes of
memory that its decoded fact keeps. `docs/scale.md` multiplies these.
"""

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from journal import Journal, Record
from store import codec
from store.events import ArtifactRef, CellEmbedded

BATCH = 16


def cell(number: int) -> CellEmbedded:
    """A cell of 256 tiles; no two are alike."""
    name = sha256(str(number).encode()).hexdigest()
    return CellEmbedded(
        space="0" * 64,
        zoom=18,
        cell_x=number % 16_384,
        cell_y=number // 16_384,
        key=sha256(name.encode()).hexdigest(),
        components={"tiles": name, "space": "0" * 64},
        engine="1" * 64,
        block=ArtifactRef(sha256=name, size=256 * 1_100),
        rows=256,
        embedded=256,
        copied=0,
    )


def records(count: int) -> Iterator[Record]:
    """The records of so many cells."""
    for number in range(count):
        tag, version, payload = codec.encode(cell(number))
        yield Record(tag=tag, version=version, build=1, wall_ns=1, mono_ns=number, payload=payload)


def measured(count: int, folder: Path) -> dict[str, float]:
    """Write, read back and keep so many cells."""
    path, work = folder / f"{count}.journal", list(records(count))
    Journal.create(path, work[:BATCH], scratch=folder / "scratch", allow_unknown_filesystem=True)
    with Journal.open(path, allow_unknown_filesystem=True) as journal:
        begun = time.perf_counter()
        for start in range(BATCH, count, BATCH):
            journal.append(work[start : start + BATCH])
        append = time.perf_counter() - begun
        begun = time.perf_counter()
        for record in journal.read():
            codec.decode(record.tag, record.version, record.payload)
        read = time.perf_counter() - begun
        del work
        tracemalloc.start()
        kept = {
            number: codec.decode(record.tag, record.version, record.payload)
            for number, record in enumerate(journal.read())
        }
        memory = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return {
        "cells": len(kept),
        "bytes_per_cell": path.stat().st_blocks * 512 / count,
        "append_us": 1e6 * append / count,
        "read_us": 1e6 * read / count,
        "memory_per_cell": memory / count,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    with tempfile.TemporaryDirectory() as name:
        for count in parser.parse_args().cells:
            print(json.dumps(measured(count, Path(name))), flush=True)


if __name__ == "__main__":
    main()
