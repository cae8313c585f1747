"""No command imports libraries, or modules of Python that take long to load, that it does not use."""

import json

import pytest

from tests.child_python import run_python
from tools.cli import WITHOUT_NUMPY, cli

HEAVY = {
    *(
        "PIL",
        "cryptography",
        "faiss",
        "mercantile",
        "numpy",
        "onnx",
        "onnxruntime",
        "openvino",
        "portalocker",
    ),
    *("ray", "rich", "shapely", "simplejpeg", "tensorrt", "tensorrt_rtx"),
    *("asyncio", "concurrent.futures", "difflib", "email", "http", "importlib.metadata", "multiprocessing"),
    *("secrets", "sqlite3", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "xml", "zipfile"),
}

TILES = {"mercantile", "numpy"}
PICTURES = {"PIL", "simplejpeg"}
WALK = {"concurrent.futures"}
PAGE = {"tempfile"}  # of `importlib.resources`
NETWORK = {"secrets", "subprocess", "tempfile"}
GEOTIFF = {"xml", "zipfile"}  # of rasterio, where it is installed
USED = {
    "init": TILES | PICTURES | WALK | PAGE | GEOTIFF,
    "build": TILES | WALK | PAGE,
    "plan": TILES | WALK | PAGE,
    "rollback": TILES | WALK,
    "engines": TILES | PICTURES | WALK | NETWORK,
    "accept": {"secrets"},
    "gc": TILES | WALK | {"secrets"},
    "query": TILES | PICTURES | NETWORK,
    "replay": TILES,
    "report": TILES | PICTURES | PAGE,
    "diff": TILES,
    "why": TILES,
    "verify": WALK | {"numpy", "secrets"},
    "prove": TILES | PICTURES | NETWORK,
    "doctor": {"email", "importlib.metadata", "tempfile", "zipfile"},
    "repair": TILES | WALK,
    "rebuild": TILES | WALK,
    "export": WALK | {"numpy"},
    "import": WALK | {"numpy"},
    "have": WALK | {"numpy"},
    "mirror": WALK | {"numpy"},
    "sign": TILES | WALK,
    "schema": PAGE | {"numpy"},
    "demo": TILES | PICTURES | WALK | {"secrets", "tempfile"},
}
"""By command, what its modules import; those that are not here import nothing heavy."""

# A fork for each command, so that the modules of all are read from disk once. What the three libraries import that
# every command needs comes first, and is no surplus: it differs between versions of Python.
LOAD = f"""
import json, os, sys
import click, lmdb, msgpack
from click import Context
print(json.dumps(["", sorted({HEAVY!r} & {{*sys.modules}})]), flush=True)
from tools.cli import cli
for name in sys.argv[1:]:
    if not os.fork():
        cli.get_command(Context(cli), name)
        print(json.dumps([name, sorted({HEAVY!r} & {{*sys.modules}})]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(name)
"""


FEW = ("status", "log", "build", "verify", "query", "schema")


@pytest.fixture(
    scope="module",
    params=[FEW, pytest.param(cli.list_commands(None), marks=pytest.mark.deep)],
    ids=["some commands", "all commands"],
)
def loaded(request):
    lines = run_python(LOAD, *request.param).stdout.splitlines()
    found = {name: {*names} for name, names in map(json.loads, lines)}
    assert found.keys() == {"", *request.param}
    return found


@pytest.fixture(scope="module")
def imported(loaded):
    return {name: found for name, found in loaded.items() if name}


def test_every_command_imports_only_what_it_uses(loaded, imported):
    surplus = {name: found - USED.get(name, set()) - loaded[""] for name, found in imported.items()}
    assert {name: found for name, found in surplus.items() if found} == {}


def test_the_table_names_nothing_that_is_not_imported(imported):
    """`simplejpeg` takes the place of Pillow, and what shows pages differs between versions of Python."""
    unused = {
        name: used - imported[name] - PICTURES - PAGE - (GEOTIFF if name == "init" else set())
        for name, used in USED.items()
        if name in imported
    }
    assert {name: found for name, found in unused.items() if found} == {}


def test_commands_without_numpy_are_those_that_do_not_import_it(imported):
    assert {
        name for name, found in imported.items() if "numpy" not in found
    } == WITHOUT_NUMPY & imported.keys()
