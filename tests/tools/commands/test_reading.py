"""What all commands that only read have in common."""

import json
from pathlib import Path

import pytest

from tests.child_python import run_python
from tests.tools.conftest import fingerprint

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("numpy", "faiss", "onnxruntime", "onnx", "rich", "PIL", "mercantile", "pipeline", "simplejpeg")


@pytest.mark.parametrize(
    "command",
    [
        *(("status",), ("doctor",)),
        *(pytest.param(each, marks=pytest.mark.deep) for each in (("log",), ("show", "1"), ("manifest",))),
    ],
)
def test_reading_imports_nothing_heavy(built, command):
    # The table of tile sources, which the doctor reads, is a small part of a package whose parts are heavy.
    heavy = [
        name if command != ("doctor",) else name.replace("pipeline", "pipeline.request.request")
        for name in HEAVY
    ]
    code = (
        "import sys\nfrom tools.cli import cli\n"
        f"try:\n    cli.main({[*command, '--cache', str(built.cache)]!r})\nexcept SystemExit as end:\n"
        f"    heavy = [name for name in {heavy!r} if name in sys.modules]\n"
        "    sys.exit(f'{end.code} {heavy}' if end.code or heavy else 0)\n"
    )
    run_python(code)


@pytest.mark.parametrize(
    "command",
    [("status",), ("log",), ("show", "2"), ("manifest",), ("doctor",), ("verify",), ("verify", "--full")],
)
def test_reading_writes_nothing(world, command):
    before = fingerprint(world.cache)
    assert world.run(*command).exit_code == 0
    assert fingerprint(world.cache) == before


@pytest.mark.parametrize("command", [("status",), ("log",), ("show", "1"), ("manifest",), ("verify",)])
def test_without_a_cache_reading_is_refused_and_creates_none(empty, command):
    result = empty.run(*command, "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["error"]["kind"] == "no-cache"
    assert all(value is None for name, value in document.items() if name != "error")
    assert not empty.cache.exists()


def test_a_damaged_journal_is_exit_7(world):
    path = world.cache / "journal.mdb"
    path.write_bytes(path.read_bytes()[:5000])
    result = world.run("status", "--json")
    assert result.exit_code == 7
    assert json.loads(result.stdout)["error"]["kind"] == "journal-damaged"
    assert result.stderr.startswith("c10: error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["status", "log"])
def test_a_lost_journal_is_no_mirror(world, command):
    (world.cache / "journal.mdb").unlink()
    assert world.json(command, code=7)["error"]["hint"] == f"c10 rebuild --cache {world.cache}"


def test_a_replaced_manifest_is_exit_7(world):
    path = world.manifest_file(3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tinx"))
    assert world.run("status").exit_code == 7
