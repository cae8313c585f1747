"""How a program on board uses the reader: arguments of all kinds, missing packages, little memory, a closed cache."""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from store.base.identity import descriptor_id
from store.errors import CacheUnusableError, ErrorKind, NoGoError, RequestRefusedError, StoreError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime import ExecutionError
from store.runtime.faiss_install import installed_faiss
from store.runtime.load import RuntimeUnavailableError
from store.trust.key_files import write_key_pair
from tests.small_builds import ZOOM, Site, spread

ROOT = Path(__file__).parents[3]
USES = {
    "verify": lambda cache: cache.verify(),
    "engine": lambda cache: cache.engine("place"),
    "engine_bytes": lambda cache: cache.engine_bytes("place"),
    "index": lambda cache: cache.descriptor_index(),
    "calibration": lambda cache: cache.calibration(),
    "tile": lambda cache: cache.tile(1),
    "load_all": lambda cache: cache.load_all(),
    "readiness": lambda cache: cache.readiness(),
}


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A cache, and the public key that signed it."""
    site = Site(tmp_path_factory.mktemp("use"))
    site.write_tiles(spread())
    key = write_key_pair(site.root / "key")
    report = site.provisioner(signing_key=key.private, workers=1).build_cache_artifacts(site.request())
    assert report.error is None
    return site.cache, key.public_bytes.hex()


@pytest.fixture(scope="module")
def built(signed):
    return signed[0]


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "cache")


@pytest.fixture
def cache(built):
    with FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED) as cache:
        yield cache


def test_all_is_loaded_before_take_off(copy):
    with FlightCache.open(copy, trusted_keys=ALLOW_UNSIGNED) as cache:
        loaded = cache.load_all()
        for path in copy.rglob("*"):
            if path.is_file():
                path.write_bytes(b"")  # also behind the descriptors that the reader holds
        assert loaded.calibration == cache.calibration() == {"focal": 35}
        frame = np.zeros((1, *loaded.engines["place"].sample_shape), np.float32)
        assert loaded.index.search(loaded.engines["place"].run(frame), 3)[1].shape == (1, 3)
        assert cache.tile(descriptor_id(ZOOM, *next(iter(spread()))[1:])).z == ZOOM
        assert cache.descriptor_index().ntotal == 40


@pytest.mark.parametrize("use", USES)
def test_a_closed_cache_says_so(built, use):
    cache = FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED)
    cache.close()
    with pytest.raises(
        RequestRefusedError, match="expected an open cache, found one that was closed"
    ) as error:
        USES[use](cache)
    assert error.value.kind is ErrorKind.CLOSED


def test_texts_of_objects_are_short(cache):
    assert repr(cache).startswith("FlightCache(generation 1 of cache ")
    assert repr(cache.engine("place")) == "Engine(batch=4, sample_shape=(3, 32, 32), dimensions=16)"
    assert repr(cache.descriptor_index()) == "DescriptorIndex(kind='flat', rows=40, dimensions=16)"
    cache.close()
    assert repr(cache).endswith("closed)")


def test_numbers_of_numpy_are_numbers(built):
    with FlightCache.open(
        os.fsencode(built), trusted_keys=ALLOW_UNSIGNED, floor=np.int64(1), generation=np.uint8(1)
    ) as cache:
        found = cache.tile(np.int64(descriptor_id(ZOOM, *next(iter(spread()))[1:])))
        assert json.loads(json.dumps(found))[0] == ZOOM
        index = cache.descriptor_index(threads=2)
        assert index.search(np.eye(1, 16, dtype=np.float32), np.int32(2))[1].shape == (1, 2)


@pytest.mark.parametrize("copied", [pickle.dumps, deepcopy])
def test_open_files_are_not_copied(cache, copied):
    """The copy would close files of others: numbers of open files mean something in one process alone."""
    with pytest.raises(TypeError, match="cannot be pickled or copied; open it where it is used"):
        copied(cache)


def test_an_argument_of_another_type_leaves_no_file_open(built):
    before = [*Path("/proc/self/fd").iterdir()]
    with pytest.raises(TypeError):
        FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, proofs=5)
    assert [*Path("/proc/self/fd").iterdir()] == before


@pytest.mark.parametrize("threads", [1025, 10**30])
def test_more_threads_than_a_process_can_start_are_refused(cache, threads):
    """The libraries end the process if they cannot start their threads."""
    loads = (lambda: cache.engine("place", threads=threads), lambda: cache.load_all(threads=threads))
    for load in (*loads, lambda: cache.descriptor_index(threads=threads)):
        with pytest.raises(ValueError, match="expected threads of at most 1024"):
            load()


def test_a_picture_that_is_none_is_refused(cache):
    with pytest.raises(ValueError, match="expected a picture"):
        cache.describe(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize("value", ["4", 4.0, True, b"4", [4]])
def test_other_arguments_are_refused_by_name(built, cache, value):
    for name in ("floor", "generation"):
        with pytest.raises(TypeError, match=f"expected {name} as a whole number"):
            FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, **{name: value})
    with pytest.raises(TypeError, match="expected the floor of 'x' as a whole number"):
        FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, floor={"x": value})
    for load in (lambda: cache.engine("place", threads=value), lambda: cache.descriptor_index(threads=value)):
        with pytest.raises(TypeError, match="expected threads as a whole number"):
            load()
    with pytest.raises(TypeError, match="expected a descriptor id as a whole number"):
        cache.tile(value)
    with pytest.raises(ExecutionError, match="expected k as a whole number"):
        cache.descriptor_index().search(np.eye(1, 16, dtype=np.float32), value)


def test_more_rows_than_memory_holds_are_not_asked_for(cache):
    """Faiss reserves k places for each query, so that an id in place of k would end the process."""
    query = np.eye(1, 16, dtype=np.float32)
    assert cache.descriptor_index().search(query, 65_536)[1].shape == (1, 65_536)
    with pytest.raises(ExecutionError, match="expected k of at most 65536, found 65537"):
        cache.descriptor_index().search(query, 65_537)


def test_numbers_that_are_too_low_are_refused_by_name(built, cache):
    for name, value in (("floor", -1), ("generation", 0)):
        with pytest.raises(ValueError, match=f"expected {name} of at least {value + 1}, found {value}"):
            FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, **{name: value})
    with pytest.raises(ValueError, match="expected threads of at least 1, found 0"):
        cache.load_all(threads=0)


@pytest.mark.parametrize(
    "samples",
    [
        [[0.0]],
        None,
        np.zeros((1, 3, 32, 32)),
        np.zeros((1, 3, 8, 9), np.float32),
        np.zeros((3, 32, 32), np.float32),
        np.float32(1),
        np.zeros((), np.float32),
    ],
)
def test_other_samples_and_queries_are_refused(cache, samples):
    with pytest.raises(ExecutionError, match=r"expected samples as float32 \[n, 3, 32, 32\], found") as error:
        cache.engine("place").run(samples)
    assert (error.value.kind, isinstance(error.value, StoreError)) == (ErrorKind.ENGINE_RUN, True)
    with pytest.raises(ExecutionError, match=r"expected queries as float32 \[n, 16\], found"):
        cache.descriptor_index().search(samples, 1)
    with pytest.raises(ValueError, match=r"expected a picture uint8 \[h, w, 3\], found"):
        cache.preprocessing.apply(samples)


def test_memory_order_and_write_protection_do_not_matter(cache):
    engine, index = cache.engine("place"), cache.descriptor_index()
    rng = np.random.default_rng(3)
    samples = rng.random((4, 3, 32, 32), np.float32)
    expected = engine.run(samples)
    locked = samples.copy()
    locked.setflags(write=False)
    for same in (np.asfortranarray(samples), samples[::-1].copy()[::-1], locked):
        np.testing.assert_array_equal(engine.run(same), expected)
        np.testing.assert_array_equal(
            index.search(np.asfortranarray(expected), 2)[1], index.search(expected, 2)[1]
        )
    frame = rng.integers(0, 255, (20, 30, 3), np.uint8)
    turned = np.ascontiguousarray(frame[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(cache.preprocessing.apply(turned), cache.preprocessing.apply(frame))


def test_a_missing_pillow_is_reported_before_take_off(built, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else real(name, *rest)
    )
    with pytest.raises(CacheUnusableError, match="expected the Python package pillow, which scales") as error:
        FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED)
    assert (error.value.kind, error.value.hint) == (ErrorKind.PACKAGE, "pip install pillow")
    FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, flown=False).close()


def test_packages_that_an_import_hook_refuses_are_reported(built, cache, monkeypatch):
    class Hook:
        @staticmethod
        def find_spec(name, *_):
            if name in {"PIL", "faiss"}:
                raise ModuleNotFoundError(f"No module named {name!r}")

    for name in ("PIL", "faiss"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hook, *sys.meta_path])
    with pytest.raises(CacheUnusableError, match="expected the Python package pillow"):
        FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED)
    installed_faiss.cache_clear()
    with pytest.raises(RuntimeUnavailableError, match="expected the Python package 'faiss', found none"):
        cache.descriptor_index()


def test_a_pillow_that_does_not_load_is_reported_before_take_off(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    frame = np.zeros((8, 8, 3), np.uint8)
    for use in (cache.load_all, lambda: cache.describe(frame)):
        with pytest.raises(CacheUnusableError, match="expected the Python package pillow"):
            use()


def test_a_look_from_the_ground_opens_caches_of_other_versions(built, monkeypatch):
    monkeypatch.setattr("store.runtime.capabilities.library_version", {"onnxruntime": "1.0"}.get)
    with pytest.raises(NoGoError, match=r"made by onnxruntime .*, found 1\.0 here"):
        FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED)
    with FlightCache.open(built, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        assert cache.calibration() == {"focal": 35}
        with pytest.raises(NoGoError, match=r"found 1\.0 here"):
            cache.engine("place")


READS_AS_NOBODY = """
import os, sys
from store.reader import ALLOW_UNSIGNED, FlightCache, TrustedKey
keys = [TrustedKey(bytes.fromhex(sys.argv[3]))]
FlightCache.open(sys.argv[2], trusted_keys=keys).close()  # nobody may not import what it needs
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for trusted in (keys, ALLOW_UNSIGNED):
    try:
        FlightCache.open(sys.argv[1], trusted_keys=trusted).close()
        print("opens")
    except Exception as error:
        print(error.kind)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("closed", "told"),
    [
        pytest.param("", ["permission"] * 2, marks=pytest.mark.deep),
        pytest.param("manifests", ["permission"] * 2, marks=pytest.mark.deep),
        ("manifests/*.json", ["permission"] * 2),
        ("artifacts/??/*", ["permission"] * 2),
        ("manifests/*.sig*", ["permission", "opens"]),
        ("manifests/*.sig", ["opens"] * 2),
    ],
)
def test_files_that_may_not_be_read_are_no_damage(signed, copy, tmp_path, closed, told):
    (signature,) = copy.glob("manifests/*.sig")
    shutil.copy(signature, signature.with_suffix(".sig2"))
    for path in copy.glob(closed) if closed else [copy]:
        path.chmod(0)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READS_AS_NOBODY, str(copy), *map(str, signed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == told


STARVED = """
import resource, sys
from store.base.preprocessing import Preprocessing
from store.errors import StoreError
from store.reader import FlightCache, TrustedKey

keys = [TrustedKey(bytes.fromhex(sys.argv[2]))]
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(float(sys.argv[3]) * (1 << 20))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with FlightCache.open(sys.argv[1], trusted_keys=keys) as cache:
        cache.verify()
        cache.load_all()
    print("flies")
except StoreError as error:
    print(error.kind, error.message[:300])
"""


@pytest.fixture(scope="module")
def starved(signed, tmp_path_factory):
    """Run the reader in a process with so much address space left; its modules are compiled before.

    Without memory for its compiler, CPython 3.10 finds errors of syntax in sound files.
    """
    environ = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled")),
    }

    def run(mebibytes):
        script = [sys.executable, "-c", STARVED, *map(str, signed), str(mebibytes)]
        return subprocess.run(
            script, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120
        )

    assert run(100_000).stdout == "flies\n"
    return run


@pytest.mark.parametrize(
    "mebibytes",
    [
        *(1, 18, 90, 280, 600),
        *(
            pytest.param(each, marks=pytest.mark.deep)
            for each in (0, 0.75, 3, 6, 12, 25, 40, 60, 130, 180, 230)
        ),
    ],
)
def test_a_shortage_of_memory_is_a_shortage(starved, mebibytes):
    done = starved(mebibytes)
    expected = ["flies", "resources"] if mebibytes < 600 else ["flies"]
    assert done.stdout.split()[:1] in [[word] for word in expected], done.stdout + done.stderr[-800:]
