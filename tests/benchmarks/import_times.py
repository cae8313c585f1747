"""What each command imports, and how much processor time that takes: `python -m tests.benchmarks.import_times`.

Prints a table in Markdown. Each command runs with `--help`, and those that take little time also on a small cache,
where they import what they work with. Fresh processes take turns, with modules compiled. Time is that of user and
system together, as a ratio to a process that imports click, lmdb and msgpack; modules are those beyond its own.
Each pair that is done gets a line on standard error.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from click import Context

from tests.small_builds import Site, picture
from tools.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PEER = "import click, lmdb, msgpack"
COMMAND = "import sys; sys.argv[0] = 'c10'; from tools.start import main; main()"
LIST_MODULES = "\nfinally:\n    import sys; print(*sys.modules, file=sys.stderr)"
WORK = {
    "status": "--cache CACHE",
    "log": "--cache CACHE",
    "show": "1 --cache CACHE",
    "manifest": "--cache CACHE",
    "accept": "1 --cache CACHE",
    "gc": "--cache CACHE",
    "replay": "1 --cache CACHE",
    "diff": "1 1 --cache CACHE",
    "verify": "--unsigned --cache CACHE",
    "doctor": "--cache CACHE",
    "have": "--cache CACHE",
    "plan": "REQUEST --cache CACHE",
    "build": "REQUEST --cache CACHE",
    "schema": "request",
}
"""Arguments of the commands that take little time; the build finds nothing to do."""
OURS = {"journal", "store", "pipeline", "tools"}
LIBRARIES = {
    *("PIL", "cryptography", "faiss", "mercantile", "numpy", "onnx", "onnxruntime", "pmtiles", "portalocker"),
    *("rich", "shapely", "simplejpeg", "sqlite3"),
}


class Table:
    """Runs processes in turns, and prints what they took."""

    def __init__(self, environment: Mapping[str, str], pairs: int) -> None:
        self._environment, self._pairs = environment, pairs
        self._own = self._modules(PEER, [])

    def row(self, name: str, arguments: Sequence[str]) -> None:
        """Measure one command, print its line."""
        ratios, times = [], []
        for number in range(self._pairs + 1):  # the first compiles the modules
            ours, theirs = self._time(COMMAND, arguments), self._time(PEER, [])
            what = f"pair {number} of {self._pairs}" if number else "modules compiled"
            print(f"{name}: {what}, {ours * 1e3:.0f} ms", file=sys.stderr, flush=True)
            if number:
                ratios.append(ours / theirs)
                times.append(ours * 1e3)
        found = self._modules(COMMAND, arguments) - self._own
        ours_found = {each for each in found if each.partition(".")[0] in OURS}
        libraries = sorted(LIBRARIES & found)
        print(
            f"| {name} | {median(times):.0f} | {median(ratios):.2f} | {len(ours_found)} "
            f"| {len(found - ours_found)} | {', '.join(libraries)} |",
            flush=True,
        )

    def _time(self, code: str, arguments: Sequence[str]) -> float:
        """Return the seconds of processor time of a process."""
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        said = child.stderr.read() if child.stderr else b""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in {0, 5}:  # 5: NO-GO, by an expired capture date
            raise SystemExit(f"expected {arguments} to succeed, found {child.returncode}: {said[-2000:]!r}")
        return used.ru_utime + used.ru_stime

    def _modules(self, code: str, arguments: Sequence[str]) -> set[str]:
        command = [sys.executable, "-c", f"try:\n    {code}{LIST_MODULES}", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return {*done.stderr.splitlines()[-1].split()}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=9)
    options.add_argument("commands", nargs="*", help="some commands instead of all")
    given = options.parse_args()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder) / "site")
        for place in range(16):
            site.write(f"tiles/6/{place}/0.png", picture(place))
        request = site.write_request()
        if (report := site.build()).error is not None:
            raise SystemExit(f"expected a build, found {report.error}")
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": f"{folder}/compiled", "HOME": folder}
        table = Table(environment, given.pairs)
        print("| command | ms | ratio | modules of C10 | others | libraries |\n|---|---|---|---|---|---|")
        for name in given.commands or cli.list_commands(Context(cli)):
            table.row(f"`{name} --help`", [name, "--help"])
            if name in WORK:
                places = {"CACHE": str(site.cache), "REQUEST": str(request)}
                table.row(f"`{name}`", [name, *(places.get(word, word) for word in WORK[name].split())])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
