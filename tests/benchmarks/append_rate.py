"""Measure how fast the journal appends, in comparison with LMDB that commits the same bytes.

Run from the root of the repository: `python tests/benchmarks/append_rate.py [FOLDER]`. Both sides write the
same keys and values into files of their own in one folder, opened with the same settings, with one durable
transaction for each append. They take turns append by append, so that other load affects both. A round gives
the median time of each side; the result is the median of the rounds' ratios. The bytes for LMDB are prepared;
encoding, the chain and all checks count as time of the journal.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lmdb

from journal import Journal, Record
from journal.record import EMPTY, encode, link
from journal.storage.open_environment import MAP_BYTES
from journal.testing import sample_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Appends per second in one round, from the median append, of the journal and of LMDB."""

    journal: float
    raw: float

    @property
    def ratio(self) -> float:
        """The journal's rate over LMDB's."""
        return self.journal / self.raw


def batches(rounds: int, appends: int, records: int, size: int) -> list[list[list[Record]]]:
    """Return distinct records by round and append."""
    numbers = iter(range(rounds * appends * records))
    return [
        [[sample_record(next(numbers), size=size) for _ in range(records)] for _ in range(appends)]
        for _ in range(rounds)
    ]


def stored(work: list[list[list[Record]]]) -> list[list[list[tuple[bytes, bytes]]]]:
    """Return the keys and values that a journal stores for `work`."""
    seq, chain = EMPTY
    found = []
    for turn in work:
        found.append([])
        for batch in turn:
            pairs = []
            for record in batch:
                raw = encode(record)
                seq, chain = seq + 1, link(chain, raw)
                pairs.append((seq.to_bytes(8, "big"), chain + raw))
            found[-1].append(pairs)
    return found


def open_raw(path: Path) -> tuple[lmdb.Environment, "lmdb._Database"]:
    """Open an LMDB file with the settings of a journal."""
    env = lmdb.open(
        os.fsencode(path),
        map_size=MAP_BYTES,
        subdir=False,
        max_dbs=3,
        max_spare_txns=0,
        max_readers=254,
        lib_version=0,
    )
    return env, env.open_db(b"records")


def clocked(work: Callable[[], object]) -> float:
    """Return the seconds that it took."""
    began = perf_counter()
    work()
    return perf_counter() - began


def measure(folder: Path, *, rounds: int, appends: int, records: int, size: int) -> list[Round]:
    """Let both sides write the same bytes, in turns."""
    work = batches(rounds, appends, records, size)
    ready = stored(work)
    env, database = open_raw(folder / "raw.mdb")

    def put(pairs: list[tuple[bytes, bytes]]) -> None:
        with env.begin(write=True) as txn:
            for key, value in pairs:
                txn.put(key, value, append=True, overwrite=False, db=database)

    found = []
    with env, Journal.open(folder / "journal.mdb", allow_unknown_filesystem=True) as journal:
        for turn, ready_turn in zip(work, ready, strict=True):
            ours, theirs = [], []
            for number, (batch, pairs) in enumerate(zip(turn, ready_turn, strict=True)):
                sides = [(ours, partial(journal.append, batch)), (theirs, partial(put, pairs))]
                for times, side in reversed(sides) if number % 2 else sides:
                    times.append(clocked(side))
            found.append(Round(journal=1 / median(ours), raw=1 / median(theirs)))
        expected = [value for turn in ready for pairs in turn for _, value in pairs]
        if [entry.chain + entry.raw for entry in journal.entries()] != expected:
            raise SystemExit("expected both sides to have stored the same bytes, found others in the journal")
    return found


def main() -> None:
    """Print a row for each number of records in an append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--appends", type=int, default=400)
    parser.add_argument("--size", type=int, default=300, help="bytes of filling in a record")
    parser.add_argument("--records", type=int, nargs="*", default=[1, 8, 64])
    asked = parser.parse_args()
    print("records  journal/s   LMDB/s   ratio: median  (least, greatest)")
    for records in asked.records:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            found = measure(
                Path(folder), rounds=asked.rounds, appends=asked.appends, records=records, size=asked.size
            )
        ratios = sorted(turn.ratio for turn in found)
        print(
            f"{records:7}  {median(turn.journal for turn in found):9,.0f}"
            f"  {median(turn.raw for turn in found):7,.0f}"
            f"   {median(ratios):13.3f}  ({ratios[0]:.3f}, {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
