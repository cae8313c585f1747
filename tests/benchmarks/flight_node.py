"""Run the example node for a minute at 3 Hz, with a network of the class of ResNet-50 on two processor cores.

Run from the root of the repository, with the extras `cpu` and `test`: `python -m tests.benchmarks.flight_node`.
Two networks run on each frame: the built-in one, which finds the places, and a ResNet-50 with random weights at
224 x 224, which counts for a hundredth of the score. In the same minute new generations are built, the one that
flies is collected, and all files of the cache are written over and removed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

from tests.benchmarks.measuring import machine
from tests.flown import Flight, errors_m, replace_and_destroy, run_node

_MIB: Final = 1 << 20


def main() -> None:
    """Build, fly, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--deadline-ms", type=int, default=400)
    parser.add_argument("--alone", action="store_true", help="leave the cache as it is")
    parser.add_argument(
        "--first", action="store_true", help="run the node before all else (chrt), on a busy machine"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c10-node-") as name:
        flight = Flight(Path(name) / "flight", resnet=True).build()
        before = machine()
        seen = run_node(
            flight,
            *("--unsigned", "--message", "vision_position_estimate"),
            *("--seconds", asked.seconds, "--deadline-ms", asked.deadline_ms),
            meanwhile=None if asked.alone else lambda: replace_and_destroy(flight),
            prefix=(*(("chrt", "--fifo", "10") if asked.first else ()), "taskset", "--cpu-list", "0,1"),
        )
        if seen.done.returncode:
            raise SystemExit(seen.done.stderr)
        counted, errors = json.loads(seen.done.stdout), errors_m(flight, seen).values()
    print(
        f"{counted['p50_ms']} ms p50, {counted['p99_ms']} ms p99 from exposure to answer; {counted['dropped']} dropped"
    )
    print(f"answers: {counted['answers']}; fixes at most {max(errors, default=0):.0f} m off")
    quarter = len(seen.resident) // 4
    print(
        f"resident memory {seen.resident[quarter] / _MIB:.1f} MiB after a quarter of the time, afterwards at most "
        f"{max(seen.resident[quarter:]) / _MIB:.1f}, of which the cache tells {counted['cache_bytes'] / _MIB:.0f}; "
        f"open files {seen.files[quarter]}, afterwards at most {max(seen.files[quarter:])}"
    )
    print(f"{before['processor']}, load {before['load']} before, {machine()['load']} after")


if __name__ == "__main__":
    main()
