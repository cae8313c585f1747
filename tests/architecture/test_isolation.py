"""What a run of the tests selects and what it sees of its caller, tried with runs of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = {
    "C10_CACHE": "/nonexistent",
    "C10_CONFIG": "/nonexistent/c10.toml",
    "C10_LOCK_TIMEOUT_S": "soon",
    "C10_SIGNING_KEY": "/nonexistent/key",
    "C10_TRUSTED_KEYS": "/nonexistent/keys",
    "C10_WORKERS": "many",
}
THREE_TESTS = """
import pytest

@pytest.mark.deep
@pytest.mark.parametrize("number", [1, 2])
def test_slow(number): pass

def test_quick(): pass
"""


def run(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={folder}/scratch"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **FOREIGN},
        umask=0,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "passed", "left_out"),
    [
        (["rigs", "-n2"], 1, 2),
        pytest.param(["rigs", "-n0"], 1, 2, marks=pytest.mark.deep),
        (["rigs", "-n0", "-m", "deep"], 2, 0),
        (["rigs/test_three.py", "-n0"], 3, 0),
        pytest.param(["rigs/test_three.py", "-n1"], 3, 0, marks=pytest.mark.deep),
    ],
)
def test_deep_tests_are_left_out_and_counted_unless_they_are_asked_for(tmp_path, arguments, passed, left_out):
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    shutil.copyfile(ROOT / "tests/conftest.py", tmp_path / "conftest.py")
    (tmp_path / "rigs").mkdir()
    (tmp_path / "rigs/test_three.py").write_text(THREE_TESTS)
    output = run(tmp_path, *arguments)
    assert f"{passed} passed" in output
    found = re.findall(r"(\d+) deep tests were left out; run them with: python -m pytest -m deep", output)
    assert found == ([str(left_out)] if left_out else [])


def test_settings_and_permissions_of_the_caller_are_not_seen(tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o777)
    files = ["tests/golden/test_store_v1.py", "tests/tools/commands/test_collect_garbage.py"]
    run(copy, "-n0", *files)
