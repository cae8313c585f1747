"""Fixtures for every test, which tests a run selects, and what of the caller's environment they see."""

import fcntl
import gc
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import is_hypothesis_test, settings

from tests.conformance.cpp_reader import compiled
from tests.golden.outward import WRITE, Golden
from tests.sample_request import REQUEST

# All settings that tests read. Every other setting of C10 that the caller's environment holds is taken away, before a
# test or a process that it starts can see it, and files get the usual permissions.
KNOBS = {
    "C10_KILLS",  # kills of each phase of a build: tests/crash/test_kill.py
    "C10_STORE_MACHINE",  # random histories of a store: tests/stateful/test_store_machine.py
    "C10_TEST_CHROMIUM",  # the browser that draws the report page: tests/tools/report/browser.py
}
for name in [name for name in os.environ if name.startswith("C10_") and name not in KNOBS]:
    del os.environ[name]
os.umask(0o022)

# Bytecode is written though the caller's environment forbids it, as images of containers do: without it each of a
# thousand processes compiles what it imports, and each parallel worker rewrites the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Scratch folders are in memory where there is room (a run needs less than 2 GiB, `pyproject.toml` has passed tests take
# theirs away) and programs may run: each of a thousand caches has hundreds of folders, and every write to it is synced.
MEMORY_DISK = "/dev/shm"
if "TMPDIR" not in os.environ and os.access(MEMORY_DISK, os.W_OK):
    disk = os.statvfs(MEMORY_DISK)
    if disk.f_bavail * disk.f_frsize >= 4 << 30 and not disk.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = MEMORY_DISK
        tempfile.tempdir = None  # pytest asked before

DESELECTED: pytest.StashKey[int] = pytest.StashKey()

# A limit on the time of one example would make every property a test of how busy the machine is. The default run tries
# a tenth of the examples of a property, always the same, so that it reaches the same branches; with the deep tests,
# and where its file is named, all are tried, and others each time.
settings.register_profile("quick", deadline=None, max_examples=10, derandomize=True)
settings.register_profile("whole", deadline=None)
settings.load_profile("quick")

# A shell that runs the tests in the background has them ignore interrupts, `nohup` a closed terminal, and all that they
# start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files; see `tests/golden/outward.py`."""
    parser.addoption(WRITE, action="store_true", help="write golden files of keys, structures and names anew")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples of a property are tried, before a test module is imported."""
    if config.option.markexpr == "deep" or _named_files(config):
        settings.load_profile("whole")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector the thousands of tests, which stay to the end: it would walk them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run the tests of one file, and tests whose output is to be seen (`-s`), in this process."""
    return 0 if len(_named_files(config)) == 1 or config.option.capture == "no" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave deep tests out, unless `-m` selects tests or the command line names their file.

    Properties belong to the deep tests, too, where `-m` selects them.
    """
    if config.option.markexpr:
        for item in items if config.option.markexpr == "deep" else ():
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker("deep")
        return
    named = _named_files(config)
    deep = [item for item in items if item.get_closest_marker("deep") and item.path not in named]
    if deep:
        config.stash[DESELECTED] = len(deep)
        config.hook.pytest_deselected(items=deep)
        left_out = set(deep)
        items[:] = [item for item in items if item not in left_out]


def _named_files(config: pytest.Config) -> set[Path]:
    paths = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return {path for path in paths if path.is_file()}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have a parallel worker hand on how many tests it left out; all workers collect the same tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["deselected"] = session.config.stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take that number from a parallel worker."""
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("deselected", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many deep tests were left out, and how to run them."""
    count = config.stash.get(DESELECTED, 0)
    if count:
        terminalreporter.write_line(
            f"{count} deep tests were left out; run them with: python -m pytest -m deep"
        )


@pytest.fixture(scope="session", autouse=True)
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands keep digests of tiles and networks outside of any cache: not those of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))
        yield


@pytest.fixture(scope="session")
def cpp_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader in C++, compiled once for all parallel workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cpp-reader"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder / "reader" if (folder / "reader").exists() else compiled(folder)


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
