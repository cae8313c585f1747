"""What may import what, checked on the real import graph and in a fresh interpreter."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.child_python import run_python

ROOT = Path(__file__).parents[2]
NAMES = ("journal", "store", "pipeline", "tools")

# What the aircraft must not need: `store.reader`, everything that it imports at import time, and what executes engines.
NOT_ON_BOARD = (
    "journal",
    "lmdb",
    "pipeline",
    "tools",
    "portalocker",
    "faiss",
    "onnxruntime",
    "tensorrt",
    "onnx",
    "click",
    "cryptography",
)

BESIDE_NUMPY = {
    *("_bisect", "_blake2", "_hashlib", "_json", "_opcode", "bisect", "copy", "dataclasses", "dis", "fcntl"),
    *(
        "hashlib",
        "hmac",
        "inspect",
        "json",
        "linecache",
        "mmap",
        "numpy",
        "opcode",
        "org",
        "shlex",
        "token",
        "tokenize",
    ),
}
"""What versions of Python and of NumPy do not import themselves."""

IMPORT_READER = """
import importlib, json, sys
from store.reader import FlightCache
from store.runtime.backends.registry import BACKENDS
for backend in BACKENDS.values():
    importlib.import_module(backend.runtime.partition(":")[0])
print(json.dumps(sorted(sys.modules)))
"""


def test_layers_and_forbidden_imports():
    pytest.importorskip("importlinter")
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = run_python(
        script, env={"PYTHONPATH": str(ROOT), "PATH": "", "NO_COLOR": "1"}, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_reader_needs_neither_journal_nor_work():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_READER],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = json.loads(done.stdout)
    assert "store.reader" in loaded
    assert [name for name in loaded if name.split(".")[0] in NOT_ON_BOARD] == []


def test_the_reader_imports_little_beside_numpy():
    """What it imports decides how long it takes; see `tests/benchmarks/import_reader.py`."""
    done = run_python(
        "import sys, numpy; before = {*sys.modules}\n"
        "from store.reader import FlightCache\n"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before})",
    )
    assert {*done.stdout.split()} - {"store", *BESIDE_NUMPY} == set()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_one_owner(name):
    """Another distribution that ships the same top-level name would silently replace ours."""
    owners = {*metadata.packages_distributions().get(name, ())}
    if not owners:
        pytest.skip("the project is not installed here")
    assert owners == {"c10"}
