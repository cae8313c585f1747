import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tiles.digest_cache import RACY_NS, DigestCache, Fingerprint

NOW = 1_800_000_000_000_000_000


def cache(folder, *, subject="xyz:/tiles", now=NOW):
    return DigestCache(folder, subject=subject, now_ns=lambda: now)


def rows(count, *, seed=1):
    random = np.random.default_rng(seed)
    keys = random.integers(-(2**62), 2**62, (count, 5), dtype=np.int64)
    keys[:, 1] = np.arange(count) + 1000 * seed
    return keys, random.integers(0, 256, (count, 32), dtype=np.uint8)


def test_stored_digests_are_found_in_any_order(tmp_path):
    keys, digests = rows(1000)
    cache(tmp_path / "deep" / "folder").store(keys, digests)
    order = np.random.default_rng(3).permutation(1000)
    found, known = cache(tmp_path / "deep" / "folder").lookup(keys[order])
    assert known.all()
    assert (found == digests[order]).all()


def test_every_number_of_a_key_must_match(tmp_path):
    keys, digests = rows(50)
    cache(tmp_path).store(keys, digests)
    for column in range(5):
        changed = keys.copy()
        changed[:, column] += 1
        found, known = cache(tmp_path).lookup(changed)
        assert not known.any()
        assert not found.any()


def test_two_areas_of_one_folder_share_a_cache_file(tmp_path):
    first, second = rows(20, seed=1), rows(30, seed=2)
    cache(tmp_path).store(*first)
    cache(tmp_path).store(*second)
    for keys, digests in (first, second):
        found, known = cache(tmp_path).lookup(keys)
        assert known.all()
        assert (found == digests).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_changed_file_replaces_its_old_row(tmp_path):
    keys, digests = rows(10)
    for step in range(5):
        changed = keys.copy()
        changed[:, 3] += step
        cache(tmp_path).store(changed, digests)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 8 + 32 + 16 + 10 * (5 * 8 + 32)


def test_another_subject_finds_nothing(tmp_path):
    keys, digests = rows(10)
    cache(tmp_path).store(keys, digests)
    assert not cache(tmp_path, subject="other").lookup(keys)[1].any()


def test_a_damaged_cache_is_ignored(tmp_path):
    keys, digests = rows(5)
    cache(tmp_path).store(keys, digests)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert not cache(tmp_path).lookup(keys)[1].any()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        file.write_bytes(damaged)
        assert not cache(tmp_path).lookup(keys)[1].any()
    cache(tmp_path).store(keys, digests)
    assert cache(tmp_path).lookup(keys)[1].all()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    keys, digests = rows(5)
    cache(None).store(keys, digests)
    assert not cache(None).lookup(keys)[1].any()
    (tmp_path / "file").write_text("in the way")
    cache(tmp_path / "file").store(keys, digests)
    assert not cache(tmp_path / "file").lookup(keys)[1].any()


def test_no_link_and_no_pipe_is_followed(tmp_path):
    keys, digests = rows(5)
    cache(tmp_path / "m").store(keys, digests)
    (file,) = (tmp_path / "m").iterdir()
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert not cache(tmp_path / "m").lookup(keys)[1].any()
    file.unlink()
    os.mkfifo(file)
    assert not cache(tmp_path / "m").lookup(keys)[1].any()
    cache(tmp_path / "m").store(keys, digests)
    assert cache(tmp_path / "m").lookup(keys)[1].all()


def test_the_racy_moment_is_before_the_scan():
    assert cache(None).racy_from_ns == NOW - RACY_NS


def test_inodes_use_all_their_bits():
    status = os.stat_result([0o100644, 2**64 - 1, 2**63, 1, 0, 0, 7, 0, 0, 0])
    assert Fingerprint.of(status)[:3] == (-(2**63), -1, 7)


def test_colliding_writers_leave_a_whole_cache(tmp_path):
    script = (
        "import sys; from pathlib import Path; import numpy as np;"
        "from pipeline.tiles.digest_cache import DigestCache;"
        "keys = np.arange(50_000, dtype=np.int64).reshape(10_000, 5); digests = np.ones((10_000, 32), np.uint8);"
        "[DigestCache(Path(sys.argv[1]), subject='s', now_ns=lambda: 0).store(keys, digests) for _ in range(20)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    keys = np.arange(50_000, dtype=np.int64).reshape(10_000, 5)
    while any(writer.poll() is None for writer in writers):
        known = DigestCache(tmp_path, subject="s", now_ns=lambda: 0).lookup(keys)[1]
        assert known.all() or not known.any()
    assert [writer.returncode for writer in writers] == [0, 0, 0]


@given(
    st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 5), unique_by=lambda row: row[:2], max_size=30)
)
def test_lookup_of_arbitrary_keys(tmp_path_factory, given_rows):
    folder = tmp_path_factory.mktemp("cache")
    keys = np.array(given_rows, dtype=np.int64).reshape(-1, 5)
    digests = np.arange(len(keys) * 32, dtype=np.uint32).astype(np.uint8).reshape(len(keys), 32)
    half = len(keys) // 2
    cache(folder).store(keys[:half], digests[:half])
    found, known = cache(folder).lookup(keys)
    assert known.tolist() == [True] * half + [False] * (len(keys) - half)
    assert (found[:half] == digests[:half]).all()


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(tmp_path, count):
    keys, digests = rows(count)
    cache(tmp_path).store(keys, digests)
    assert cache(tmp_path).lookup(keys)[1].tolist() == [True] * count
