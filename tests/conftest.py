"""Fixtures for every test, which tests a run selects, and what of the caller's environment they see."""

import importlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from tests.golden.outward import WRITE, Golden
from tests.sample_request import REQUEST

# Settings of rigs that read them. Tests see no other setting of C10 that the caller's environment holds, and create
# files with the usual permissions.
KNOBS = {"C10_HISTORY_EVENTS", "C10_KILLS", "C10_STORE_MACHINE", "C10_TEST_CHROMIUM", "C10_TEST_CLUSTER"}
for name in [name for name in os.environ if name.startswith("C10_") and name not in KNOBS]:
    del os.environ[name]
os.umask(0o022)

DESELECTED: pytest.StashKey[int] = pytest.StashKey()

# A limit on the time of one example would make every property a test of how busy the machine is.
settings.register_profile("c10", deadline=None)
settings.load_profile("c10")

# A shell that runs the tests in the background has them ignore interrupts, and all that they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files; see `tests/golden/outward.py`."""
    parser.addoption(WRITE, action="store_true", help="write golden files of keys, structures and names anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave deep tests out, unless `-m` selects tests or the command line names their file or a folder of deep tests."""
    if config.option.markexpr:
        return
    named = [Path(word.partition("::")[0]).resolve() for word in config.args]
    wanted = {path for path in named if path.is_file() or _holds_deep_tests_alone(path, items)}
    deep = [
        item
        for item in items
        if item.get_closest_marker("deep") and wanted.isdisjoint({item.path, *item.path.parents})
    ]
    config.stash[DESELECTED] = len(deep)
    if deep:
        items[:] = [item for item in items if item not in set(deep)]
        config.hook.pytest_deselected(items=deep)


def _holds_deep_tests_alone(folder: Path, items: Iterable[pytest.Item]) -> bool:
    return all(item.get_closest_marker("deep") for item in items if folder in item.path.parents)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have a parallel worker hand on how many tests it left out; all workers collect the same tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["deselected"] = session.config.stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take that number from a parallel worker."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[DESELECTED] = output.get("deselected", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many deep tests were left out, and how to run them."""
    count = config.stash.get(DESELECTED, 0)
    if count:
        terminalreporter.write_line(
            f"{count} deep tests were left out; run them with: python -m pytest -m deep"
        )


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
