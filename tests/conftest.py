"""Fixtures for every test."""

import importlib
import signal
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import settings

from tests.golden.outward import WRITE, Golden
from tests.sample_request import REQUEST

# A limit on the time of one example would make every property a test of how busy the machine is.
settings.register_profile("c10", deadline=None)
settings.load_profile("c10")

# A shell that runs the tests in the background has them ignore interrupts, and all that they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files; see `tests/golden/outward.py`."""
    parser.addoption(WRITE, action="store_true", help="write golden files of keys, structures and names anew")


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
    """What holds keys, structures and names to those of golden files."""
    return Golden(writes=pytestconfig.getoption(WRITE))


@pytest.fixture(scope="session")
def archives() -> ModuleType:
    """The helper that writes tile archives; only tests that ask for it load what it needs."""
    return importlib.import_module("tests.tile_archives")


@pytest.fixture
def request_text() -> Callable[..., str]:
    """Text of a valid request, with some `old -> new` replacements; each must apply."""

    def make(*changes: tuple[str, str]) -> str:
        text = REQUEST
        for old, new in changes:
            assert old in text, f"{old!r} is not in the request"
            text = text.replace(old, new)
        return text

    return make
