"""Run the commands of README's tour and compare what they print with what README shows.

python -m tests.tools.tour     # play the demo, run the tour, write the outputs into README.md
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=```console\n).*?(?=```\n)", re.DOTALL)
PYTHON = re.compile(r"(?<=```python\n).*?(?=```\n)", re.DOTALL)

VARYING = (
    (r"\b[0-9a-f]{16,64}\b", "DIGEST"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "DATE"),
    (r"\b[\d.,]+ (ms|s|min)\b", "TIME"),
    (r"\b[\d.,]+ (B|[KMG]iB)", "SIZE"),
    (r"\b[\d.]+ %", "SHARE"),
    (r"\b0\.\d{4}\b", "SCORE"),
    (r"\b\d+ records\b", "RECORDS"),
)
"""What differs from run to run or between machines, and the word that stands for it."""


def normalised(output: str) -> str:
    """Mask what varies; lines may break elsewhere, since what varies has no fixed length."""
    for pattern, word in VARYING:
        output = re.sub(pattern, word, output)
    return " ".join(output.split())


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output that is shown for it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run(command: str, folder: Path) -> str:
    """Run a command of the tour by a shell and return its standard output; `c10` is this checkout's."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'c10() {{ "{sys.executable}" -m tools.cli "$@"; }}\n{command}'],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def _write_outputs() -> None:
    with tempfile.TemporaryDirectory() as parent:
        run("c10 demo --keep tour", Path(parent))
        folder = Path(parent) / "tour"

        def rerun(block: re.Match[str]) -> str:
            return "".join(f"$ {command}\n{run(command, folder)}" for command, _ in commands(block[0]))

        README.write_text(BLOCK.sub(rerun, README.read_text()))


if __name__ == "__main__":
    _write_outputs()
