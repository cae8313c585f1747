"""A value is frozen for the type checker, and compares, hashes and shows itself as a frozen dataclass does."""

import dataclasses
import subprocess
import sys

import pytest

from pipeline.build.report import BuildReport
from pipeline.config import C10ProvisionerConfig
from pipeline.request.request import BuildRequest
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef

ASSIGNMENT = """
from store.base.values import Position
Position().seq = 2
"""


def test_values_compare_hash_and_show_themselves():
    one, same, other = (ArtifactRef(sha256="ab", size=size) for size in (1, 1, 2))
    assert (one == same, one == other, one == ("ab", 1)) == (True, False, False)
    assert len({one, same, other}) == 2
    assert repr(one) == "ArtifactRef(sha256='ab', size=1)"
    assert dataclasses.replace(one, size=2) == other
    with pytest.raises(AttributeError):
        one.typo = 1


def test_the_type_checker_refuses_an_assignment(tmp_path):
    source = tmp_path / "assigns.py"
    source.write_text(ASSIGNMENT)
    options = ["--config-file", "", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "read-only" in done.stdout) == (1, True), done.stdout + done.stderr


@pytest.mark.parametrize("options", [{"frozen": False, "slots": True}, {"frozen": True, "slots": False}])
def test_both_flags_are_needed(options):
    with pytest.raises(TypeError, match="expected a frozen class with slots"):
        valueclass(**options)


@pytest.mark.parametrize("kind", [BuildReport, BuildRequest, C10ProvisionerConfig])
def test_what_programs_hold_is_frozen_at_run_time(kind):
    assert kind.__dataclass_params__.frozen
