"""The console script where the packages of the ground are missing, as on an aircraft."""

import re
from pathlib import Path

import pytest

from store.toml import tomllib
from tests.child_python import run_python
from tools.error_report import report_error
from tools.ground_packages import GROUND_PACKAGES

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
missing = sys.argv[1]
class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
sys.argv = ["c10", *sys.argv[2:]]
from tools.start import main
main()
"""
INTERRUPTED = """
import sys
from importlib.abc import MetaPathFinder
class Interrupted(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "tools.cli":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from tools.start import main
main()
"""


def test_the_packages_are_those_of_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["ground"]
    assert {re.split(r"[^a-z0-9-]", each)[0] for each in extra} == GROUND_PACKAGES
    base = {re.split(r"[^a-z0-9-]", each)[0] for each in project["dependencies"]}
    assert base == {"numpy", "cryptography", "pillow"}


@pytest.mark.parametrize("package", ["click", "msgpack"])
def test_a_missing_package_is_one_line_that_says_what_to_install(package, tmp_path):
    done = run_python(WITHOUT, package, "status", "--cache", tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("c10: error:") == 1
    assert package in done.stderr
    assert "pip install 'c10[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_while_it_starts_is_told_as_at_any_time(options):
    done = run_python(INTERRUPTED, "status", *options, check=False)
    assert (done.returncode, done.stderr) == (130, "c10: error: interrupted\n  -> run it again\n")
    assert ('"kind": "interrupted"' in done.stdout) == bool(options)


def test_a_missing_module_of_our_own_is_a_fault():
    done = run_python(WITHOUT, "tools.cli", "status", check=False)
    assert done.returncode == 1
    assert "No module named 'tools.cli'" in done.stderr


def test_with_json_the_error_has_its_kind(capsys):
    error = ModuleNotFoundError("No module named 'shapely'", name="shapely")
    assert report_error(error, shape={}, as_json=True) == 2
    assert '"kind": "missing-package"' in capsys.readouterr().out


def test_it_starts_the_command_line():
    done = run_python("import sys; sys.argv[1:] = ['--help']\nfrom tools.start import main\nmain()")
    assert "c10 demo" in done.stdout
