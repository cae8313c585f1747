"""A value is frozen for the type checker, and compares, hashes and shows itself as a dataclass does."""

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.build.report import BuildReport
from pipeline.config import C10ProvisionerConfig
from pipeline.request.request import BuildRequest
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from tests.child_python import run_python

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


@valueclass(frozen=True, slots=True, kw_only=True)
class Derived(Odd):
    """A field more."""

    more: tuple[int, ...] = ()


@valueclass(slots=True)
class Changing:
    """A value that changes; each begins with a list of its own."""

    items: list[int] = dataclasses.field(default_factory=list)


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


def test_fields_of_a_base_count():
    one, other = Derived(one=1, more=(2,)), Derived(one=1)
    assert (one == other, one == Derived(one=1, more=(2,)), one == Odd(one=1)) == (False, True, False)
    assert [each.name for each in dataclasses.fields(Derived)] == ["one", "hidden", "more"]
    assert repr(other) == "Derived(one=1, more=())"
    assert dataclasses.replace(one, one=3) == Derived(one=3, more=(2,))


@valueclass(slots=True)
class Positional:
    """Takes its field by position."""

    one: int


@valueclass(slots=True)
class More(Positional):
    """A field more."""

    two: int = dataclasses.field(default=2, kw_only=True)
    three: int = 3


def test_a_pattern_has_the_positions_of_the_constructor():
    assert (More.__match_args__, Odd.__match_args__) == (("one", "three"), ())
    match More(1, 5):
        case More(one, three):
            assert (one, three) == (1, 5)


def test_a_plain_class_may_be_derived():
    @valueclass(slots=True)
    class Base:
        """Nothing was made of it when the first value of the class below is created."""

        one: int

    class Plain(Base):
        def __init__(self, one, more):
            super().__init__(one + more)

    assert [Plain(1, 3).one, Plain(2, 3).one, Base(6).one] == [4, 5, 6]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="needs copy.replace")
def test_the_replace_of_copy_replaces():
    assert copy.replace(More(1), two=4) == More(1, two=4)


def test_one_that_changes_has_no_hash_and_shares_nothing():
    one, other = Changing(), Changing()
    one.items.append(1)
    assert (one.items, other.items, one == other, one == Changing([1])) == ([1], [], False, True)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_a_value_that_comes_from_another_process_is_whole():
    """A pickle does not call the constructor, and so nothing was made of its class yet."""
    code = (
        "import pickle, sys; from store.base.values import ArtifactRef; one = pickle.load(sys.stdin.buffer)\n"
    )
    code += "from dataclasses import replace; print(one == replace(one, size=1), repr(one), hash(one) != 0)"
    given = pickle.dumps(ArtifactRef(sha256="ab", size=1))
    done = run_python(code, input=given, text=False)
    assert done.stdout.decode().strip() == "True ArtifactRef(sha256='ab', size=1) True"


def test_threads_that_create_the_first_values_at_once_find_all_defaults():
    for _ in range(50):

        @valueclass(slots=True, kw_only=True)
        class Several:
            """Fields with defaults of both kinds."""

            items: list[int] = dataclasses.field(default_factory=list)
            number: int = 3

        together = threading.Barrier(4)

        def create(together=together, kind=Several):
            together.wait()
            return kind(items=[4]), kind()

        with ThreadPoolExecutor(4) as pool:
            found = [each.result() for each in [pool.submit(create) for _ in range(4)]]
        assert {(tuple(one.items), tuple(two.items), two.number) for one, two in found} == {((4,), (), 3)}


@pytest.mark.deep
def test_the_type_checker_refuses_an_assignment(tmp_path):
    source = tmp_path / "assigns.py"
    source.write_text(ASSIGNMENT)
    options = ["--config-file", "", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "read-only" in done.stdout) == (1, True), done.stdout + done.stderr


def test_slots_are_needed():
    with pytest.raises(TypeError, match="expected a class with slots"):
        valueclass(frozen=True, slots=False)


@pytest.mark.parametrize("kind", [BuildReport, BuildRequest, C10ProvisionerConfig])
def test_what_programs_hold_is_frozen_at_run_time(kind):
    assert kind.__dataclass_params__.frozen
