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


@valueclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """One compared field; another that is neither compared nor shown."""

    one: object
    hidden: int = dataclasses.field(default=0, compare=False, repr=False)


@valueclass(frozen=True, slots=True)
class Empty:
    """No field."""


@valueclass(frozen=True, slots=True)
class Own:
    """Methods of its own."""

    one: int

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 7

    def __repr__(self):
        return "own"


def test_options_of_fields_and_methods_of_its_own_count():
    nan = float("nan")
    assert Odd(one=nan, hidden=1) == Odd(one=nan, hidden=2)  # as tuples compare
    assert (Odd(one=1) == Odd(one=2), hash(Odd(one=1)) == hash(Odd(one=1, hidden=3))) == (False, True)
    assert repr(Odd(one=1, hidden=2)) == "Odd(one=1)"
    assert (Empty() == Empty(), len({Empty(), Empty()}), repr(Empty())) == (True, 1, "Empty()")
    assert (Own(1) == Own(2), hash(Own(1)), repr(Own(1))) == (True, 7, "own")
    with pytest.raises(TypeError, match="unhashable"):
        hash(Odd(one=[]))


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
