"""Plan a build of an archive in a process of its own, whose seconds and memory `watched` measures.

    python -m tests.benchmarks.planned FOLDER ARCHIVE NUMBER

plans a build of all tiles of an archive in a folder, and prints the seconds that it took, and the greatest resident
memory of its own process in bytes.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

from tests.benchmarks.caches import BigSite
from tests.benchmarks.watched import own_peak


def main() -> None:
    """Plan as the arguments say."""
    folder, archive, number = sys.argv[1:]
    site = BigSite(Path(folder))
    site.number = int(number)
    began = perf_counter()
    plan = site.provisioner().plan(site.request(source=archive))
    took = perf_counter() - began
    if plan.tiles != site.number:
        raise SystemExit(f"expected a plan of {number} tiles, found {plan.tiles}")
    print(json.dumps({"seconds": took, "own": own_peak()}))


if __name__ == "__main__":
    main()
