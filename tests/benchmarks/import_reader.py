"""Processor time to import `FlightCache`, as a ratio to importing NumPy: `python -m tests.benchmarks.import_reader`.

Fresh processes take turns, with modules compiled. The first ratio is of whole processes, the second of the import
statements alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
TIMED = "import os, time; began = time.process_time(); {}; print(time.process_time() - began, time.process_time())"
STATEMENTS = {"numpy": "import numpy", "reader": "from store.reader import FlightCache"}


def main() -> None:
    """Print medians in milliseconds, and the ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=25)
    pairs = options.parse_args().pairs
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    with tempfile.TemporaryDirectory() as compiled:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": compiled, "PYTHONPATH": str(ROOT)}
        for _ in range(pairs + 1):
            for name, statement in STATEMENTS.items():
                command = [sys.executable, "-c", TIMED.format(statement)]
                printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                alone, whole = map(float, printed.stdout.split())
                found[name].append((whole * 1e3, alone * 1e3))
    # The first pair compiled the modules.
    medians = {name: [median(each) for each in zip(*runs[1:], strict=True)] for name, runs in found.items()}
    for number, what in enumerate(("processes", "imports alone")):
        numpy, reader = (medians[name][number] for name in ("numpy", "reader"))
        print(f"{what}: numpy {numpy:.0f} ms, reader {reader:.0f} ms, ratio {reader / numpy:.2f}")


if __name__ == "__main__":
    main()
