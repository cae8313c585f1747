"""No library that C10 loads sends telemetry."""

import ast
import os
from pathlib import Path

import pytest

from tests.child_python import run_python

ROOT = Path(__file__).parents[2]
LOADER = ROOT / "store/runtime/backends/onnxruntime.py"
LOADS = """
import sys
from pathlib import Path
from store.runtime.load import load_engine
from tests.small_builds import BATCH, tiny_network
import importlib.metadata
{before}
engine = load_engine(
    tiny_network(), backend="onnxruntime", version=importlib.metadata.version("onnxruntime"), input="input",
    output="descriptor", batch=BATCH,
)
"""
BARE = """
import onnxruntime
from tests.small_builds import tiny_network
onnxruntime.InferenceSession(tiny_network(), providers=["CPUExecutionProvider"])
"""


def left_by(code, folder):
    """Return the files that a process leaves in its cache folder."""
    # The library sends none under test services, which it detects by their variables.
    silenced = {"ORT_DISABLE_TELEMETRY", "CI"}
    environ = {name: value for name, value in os.environ.items() if name not in silenced}
    environ |= {"XDG_CACHE_HOME": str(folder), "HOME": str(folder)}
    run_python(code, env=environ)
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_engine_writes_no_telemetry_files(tmp_path):
    assert left_by(LOADS.format(before=""), tmp_path) == []


def test_the_library_by_itself_would_write_telemetry_files(tmp_path):
    """If this fails, the library sends no telemetry any more, and the test above is not needed."""
    if not left_by(BARE, tmp_path):
        pytest.skip("this release keeps nothing by itself")


def test_the_library_is_loaded_in_one_place():
    found = []
    for package in ("journal", "store", "pipeline", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "onnxruntime" in text else ():
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                if "onnxruntime" in names:
                    found.append(str(path))
                called = isinstance(node, ast.Call) and any(
                    isinstance(each, ast.Constant) and each.value == "onnxruntime" for each in node.args
                )
                if called and "import" in ast.unparse(node.func) and path != LOADER:
                    found.append(str(path))
    assert found == []
