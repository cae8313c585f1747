"""Append to a journal as fast as a disk lets it until killed; prints a line once it is running. Started by tests.

In memory, where nothing is synced, the journal would soon be so large that every look at it takes seconds.
"""

import sys
import time
from pathlib import Path

from journal import Journal
from journal.testing import sample_record


def main() -> None:
    with Journal.open(Path(sys.argv[1])) as journal:
        number = journal.head.seq
        while True:
            number += 1
            # Projections of changing size, so that pages are freed, reused and spilled.
            projections: dict[bytes, bytes | None] = {b"%d" % (number % 50): bytes(number * 37 % 6000)}
            if number % 7 == 0:
                projections[b"%d" % (number * 3 % 50)] = None
            journal.append([sample_record(number, size=number * 13 % 300)], projections)
            time.sleep(0.001)
            if number % 16 == 0:
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
