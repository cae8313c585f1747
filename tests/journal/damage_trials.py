"""Damage copies of a sound journal in many ways and read each with the whole package in this one process.

Prints one JSON object: how many trials of each kind gave which outcome, and the wrong contents that were accepted.
That the process reaches its end is half of the test: an unguarded read of such files ends it with a signal.

    python tests/journal/damage_trials.py --trials 20000 --seed 1
"""

import argparse
import collections
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from journal import Journal, JournalDamagedError, JournalError
from journal.safe_reader import snapshot
from journal.testing import sample_record

PAGE = 4096


def grow(path: Path) -> list[dict[bytes, bytes]]:
    """Make a journal with many commits and projections that come, change and go; returns them after every record."""
    history: list[dict[bytes, bytes]] = [{}]
    order = random.Random(1)
    with Journal.open(path) as journal:
        for number in range(1, 151):
            projections: dict[bytes, bytes | None] = {}
            for _ in range(order.randrange(3)):
                name = b"projection-%d" % order.randrange(60)
                projections[name] = (
                    None if order.random() < 0.3 else order.randbytes(order.choice((10, 100, 2500)))
                )
            journal.append([sample_record(number, size=order.choice((0, 100, 300, 2500)))], projections)
            history.append(journal.projections())
    return history


def flip_bit(data: bytearray, order: random.Random) -> None:
    data[order.randrange(len(data))] ^= 1 << order.randrange(8)


def flip_meta_bit(data: bytearray, order: random.Random) -> None:
    data[order.randrange(2) * PAGE + order.randrange(160)] ^= 1 << order.randrange(8)


def flip_header_bit(data: bytearray, order: random.Random) -> None:
    page = order.randrange(2, len(data) // PAGE)
    data[page * PAGE + order.randrange(80)] ^= 1 << order.randrange(8)


def zero_sector(data: bytearray, order: random.Random) -> None:
    at = order.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)


def zero_page(data: bytearray, order: random.Random) -> None:
    at = order.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def junk_page(data: bytearray, order: random.Random) -> None:
    at = order.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = order.randbytes(PAGE)


def swap_pages(data: bytearray, order: random.Random) -> None:
    one, two = (page * PAGE for page in order.sample(range(2, len(data) // PAGE), 2))
    data[one : one + PAGE], data[two : two + PAGE] = data[two : two + PAGE], data[one : one + PAGE]


def truncate(data: bytearray, order: random.Random) -> None:
    del data[order.randrange(len(data)) :]


KINDS = (flip_bit, flip_meta_bit, flip_header_bit, zero_sector, zero_page, junk_page, swap_pages, truncate)


def read(path: Path, *, guarded: bool) -> tuple[list[bytes], dict[bytes, bytes]]:
    if guarded:
        found = snapshot(path, foreign=True)
        if found.damaged:
            raise JournalDamagedError(f"{len(found.damaged)} projections are reported as damaged")
        return [entry.raw for entry in found.entries], found.projections
    with Journal.open(path, readonly=True) as journal:
        raws = [entry.raw for entry in journal.entries()]
        projections = journal.projections()
        journal.verify()
    return raws, projections


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--guarded", action="store_true", help="read through a child process, as a foreign journal"
    )
    options = parser.parse_args()
    order = random.Random(options.seed)
    outcomes: dict[str, collections.Counter[str]] = {kind.__name__: collections.Counter() for kind in KINDS}
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound.mdb")
        history = grow(sound)
        whole = sound.read_bytes()
        expected, _ = read(sound, guarded=False)
        for trial in range(options.trials):
            kind = KINDS[trial % len(KINDS)]
            data = bytearray(whole)
            kind(data, order)
            path = Path(folder, f"trial-{trial % 50}.mdb")
            for name in (path, path.with_name(path.name + "-lock")):
                name.unlink(missing_ok=True)
            path.write_bytes(data)
            try:
                raws, projections = read(path, guarded=options.guarded)
            except JournalError as error:
                outcomes[kind.__name__][str(error.kind)] += 1
                continue
            if raws != expected[: len(raws)] or projections != history[len(raws)]:
                outcomes[kind.__name__]["wrong"] += 1
                wrong.append(trial)
            elif raws == expected:
                outcomes[kind.__name__]["same"] += 1
            else:
                outcomes[kind.__name__]["tail lost"] += 1
    json.dump(
        {"trials": options.trials, "size": len(whole), "wrong": wrong, "outcomes": outcomes},
        sys.stdout,
    )
    sys.stdout.write(os.linesep)


if __name__ == "__main__":
    main()
