"""A process that lacks open files or memory says so, and never reports damage instead."""

import errno
import json
import os
from pathlib import Path

import pytest

from store.cache.view import open_view
from store.disk import artifacts as artifacts_module
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.errors import CacheUnusableError, ErrorKind, from_os_error, is_shortage
from store.files.permissions import writable_folders_at
from store.manifest.manifest import parse
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.verify.coverage import intact_artifacts, missing_artifacts, walk
from store.verify.report import Finding, ProblemKind, diagnose
from store.verify.verify import verify
from tests.child_python import run_python
from tests.played_builds import Scenario
from tests.store_caches import record_builds

ROOT = Path(__file__).parents[3]
SHORT = (errno.EAGAIN, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "cache")
    record_builds(layout, Scenario(version=library_version("onnxruntime") or "1"))
    return layout


def head(layout):
    state = open_view(layout).state
    return parse(project(state, state.head))


def failing(number, *, only):
    """An `os.open` that fails for artifacts."""
    real = os.open

    def opens(path, *arguments, **options):
        if only in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    return opens


@pytest.mark.parametrize("number", SHORT)
def test_the_error_kind_of_a_shortage_blames_this_process(number):
    error = OSError(number, os.strerror(number))
    assert is_shortage(error)
    assert from_os_error(error, "x").kind is ErrorKind.RESOURCES
    assert not is_shortage(OSError(errno.EIO, "x"))


@pytest.mark.parametrize("number", SHORT)
def test_a_shortage_is_no_damage(layout, monkeypatch, number):
    manifest, found = head(layout), Artifacts(layout)
    ref = manifest.calibration
    named = {ref.sha256: ("calibration", ref.size)}
    monkeypatch.setattr(os, "open", failing(number, only=ref.sha256))
    for look_at in (
        lambda: found.damage(ref),
        lambda: found.read(ref),
        lambda: intact_artifacts(found, [ref]),
        lambda: walk(found, named, referenced=frozenset(), full=True),
        lambda: verify(layout),
        lambda: FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED),
    ):
        with pytest.raises(CacheUnusableError) as error:
            look_at()
        assert error.value.kind is ErrorKind.RESOURCES


@pytest.mark.parametrize("number", SHORT)
def test_a_shortage_while_reading_is_no_damage(layout, monkeypatch, number):
    manifest, found = head(layout), Artifacts(layout)

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails)
        with pytest.raises(CacheUnusableError):
            found.damage(manifest.calibration)
    with monkeypatch.context() as patched:
        patched.setattr(artifacts_module.os, "lstat", fails)
        with pytest.raises(CacheUnusableError):
            missing_artifacts(manifest, found)
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(CacheUnusableError):
        writable_folders_at(layout.root)


def test_a_failing_disk_is_damage(layout, monkeypatch):
    manifest = head(layout)
    monkeypatch.setattr(os, "open", failing(errno.EIO, only=manifest.calibration.sha256))
    found = Artifacts(layout).damage(manifest.calibration)
    assert found == f"cannot be read ({os.strerror(errno.EIO)})"
    damaged = Finding(kind=ProblemKind.DAMAGED, subject="calibration", found=found, path="artifacts/ab/ab")
    (problem,) = diagnose([damaged], root=layout.root, named_in={}, head=1, keep_without=lambda _: 0)
    assert problem.fix == f"c10 repair --cache {layout.root}"


STARVED = """
import json, resource, sys
from pathlib import Path
from journal import JournalError
from store.errors import StoreError
from store.verify.report import Depth, ProblemKind
from store.disk.layout import Layout
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.cache.writer import CacheWriter
from store.verify.verify import verify

layout = Layout(Path(sys.argv[1]))

def verified():
    return [str(each) for each in verify(layout, depth=Depth.FULL).problems if each.kind is not ProblemKind.CONTENT]

def read():
    with FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
    return []

def opened():
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
        return list(map(str, store.recovered))

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for act in (verified, read, opened):
    act()
    for limit in range(30):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            said = act()
        except (StoreError, JournalError) as error:
            said = str(error.kind)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(json.dumps([act.__name__, said]))
"""


def test_any_limit_of_open_files_is_enough_or_reported(layout):
    done = run_python(STARVED, layout.root, timeout=300)
    seen = {tuple(map(str, json.loads(line))) for line in done.stdout.splitlines()}
    assert seen >= {(name, said) for name in ("verified", "read", "opened") for said in ("[]", "resources")}
    assert {said for _, said in seen} <= {"[]", "resources", "journal-io"}


@pytest.mark.parametrize("open_it", ["open", "verify"])
def test_a_limit_on_the_size_of_files_is_no_damage(layout, open_it):
    """Sealed memory is a file, too: `ulimit -f` counts for it."""
    code = f"""
import resource, sys
from pathlib import Path
from store.disk.layout import Layout
from store.errors import CacheUnusableError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.verify.report import Depth
from store.verify.verify import verify
flight = FlightCache.open(sys.argv[1], trusted_keys=ALLOW_UNSIGNED)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    if {open_it == "open"}:
        flight.load_all()
    else:
        verify(Layout(Path(sys.argv[1])), depth=Depth.FULL)
except CacheUnusableError as error:
    print(error.kind)
"""
    assert run_python(code, layout.root).stdout.strip() == "resources"
