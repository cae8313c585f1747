"""Floors are kept whatever happens to the file: they rise, or everything is refused."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import ErrorKind, NoGoError, StoreError
from store.trust.rollback_protection import LINE_BYTES, RollbackProtection
from tests.damaging import replace_by
from tests.durability import record_durability
from tests.examples_tried import examples

A, B = "a" * 32, "b" * 32
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "floors"


def damaged(path):
    with pytest.raises(NoGoError) as error:
        RollbackProtection.load(path)
    assert error.value.kind is ErrorKind.FLOOR
    assert str(path) in error.value.message
    return error.value


def test_floors_are_kept(path):
    floors = RollbackProtection.load(path)
    assert dict(floors) == {}
    assert not path.exists(), "looking makes no file"
    floors.adopt(A, 3)
    floors.adopt(B, 0)
    floors.advance(A, 7)
    assert dict(floors) == dict(RollbackProtection.load(str(path))) == {A: 7, B: 0}
    assert (len(floors), A in floors, "c" * 32 in floors) == (2, True, False)
    assert path.read_bytes().splitlines()[0].startswith(b"a" * 32 + b" 000000000000000003 ")
    assert path.stat().st_size == 3 * LINE_BYTES


def test_a_floor_is_never_lowered(path, monkeypatch):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 5)
    before = path.read_bytes()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a floor that stands needs no file"))
    floors.adopt(A, 2)
    floors.advance(A, 4)
    floors.advance(A, 5)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert floors[A] == RollbackProtection.load(path)[A] == 5


def test_a_line_that_another_process_left_unsynced_is_synced_before_it_counts(path, monkeypatch):
    RollbackProtection.load(path).adopt(A, 5)
    calls = record_durability(monkeypatch)
    floors = RollbackProtection.load(path)
    floors.advance(A, 5)
    assert calls == [("fsync", "floors")]


@pytest.mark.parametrize(
    ("number", "counts"), [(errno.EROFS, True), (errno.EINVAL, True), (errno.EIO, False)]
)
def test_a_file_that_cannot_be_synced_counts_only_where_nobody_writes(path, monkeypatch, number, counts):
    RollbackProtection.load(path).adopt(A, 5)

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if counts:
        assert RollbackProtection.load(path)[A] == 5
    else:
        with pytest.raises(StoreError, match="floors"):
            RollbackProtection.load(path)


def test_a_file_that_cannot_be_read_is_an_error(path, monkeypatch):
    RollbackProtection.load(path).adopt(A, 5)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match="floors"):
        RollbackProtection.load(path)


def test_an_unknown_cache_has_to_be_adopted(path):
    with pytest.raises(NoGoError, match="expected a known cache") as error:
        RollbackProtection.load(path).advance(A, 5)
    assert "adopt" in error.value.hint
    assert not path.exists()


@pytest.mark.parametrize(
    "cache_id", ["", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n", "../" + "a" * 29, None, 7]
)
def test_an_invalid_cache_id_is_refused(path, cache_id):
    with pytest.raises(ValueError, match="cache id"):
        RollbackProtection.load(path).adopt(cache_id, 1)
    assert not path.exists()


@pytest.mark.parametrize("generation", [-1, 10**18, 1.5, True, "3", None])
def test_an_invalid_generation_is_refused(path, generation):
    with pytest.raises(ValueError, match="generation"):
        RollbackProtection.load(path).adopt(A, generation)
    assert not path.exists()


def test_the_highest_line_counts(path):
    floors = RollbackProtection.load(path)
    for generation in (3, 9):
        floors.adopt(A, generation)
    low, high = path.read_bytes()[:LINE_BYTES], path.read_bytes()[LINE_BYTES:]
    path.write_bytes(high + low + low)
    assert RollbackProtection.load(path)[A] == 9


@pytest.mark.parametrize("length", range(LINE_BYTES))
def test_a_torn_last_line_is_ignored(path, length):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 3)
    floors.adopt(A, 123)
    os.truncate(path, LINE_BYTES + length)
    floors = RollbackProtection.load(path)
    assert dict(floors) == {A: 3}
    floors.advance(A, 50)
    floors.adopt(B, 1)
    assert dict(RollbackProtection.load(path)) == {A: 50, B: 1}
    assert path.stat().st_size == 3 * LINE_BYTES


@pytest.mark.parametrize("zeros", [1, LINE_BYTES, 3 * LINE_BYTES, 3 * LINE_BYTES + 5])
def test_zeros_at_the_end_are_a_torn_line(path, zeros):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 3)
    os.truncate(path, LINE_BYTES + zeros)
    floors = RollbackProtection.load(path)
    floors.advance(A, 4)
    assert dict(RollbackProtection.load(path)) == {A: 4}


@pytest.mark.parametrize("place", range(0, 2 * LINE_BYTES, 5))
def test_damage_is_never_a_lower_floor(path, place):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 3)
    floors.adopt(A, 9)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert "delete it" in damaged(path).hint
    with pytest.raises(NoGoError):
        floors.advance(A, 10)
    assert path.read_bytes() == data


@pytest.mark.parametrize("content", [b"x" * 64, b"\n" * 64, bytes(64) + b"x" * 64, b"floors\n" * 100])
def test_foreign_files_are_damage(path, content):
    path.write_bytes(content)
    damaged(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "sparse", "device"])
def test_a_path_that_is_no_file(path, what):
    replace_by(path, what)
    damaged(path)
    with pytest.raises(StoreError):
        RollbackProtection(path).adopt(A, 1)


def test_a_folder_that_cannot_be_written(tmp_path):
    floors = RollbackProtection.load(tmp_path / "nowhere" / "floors")
    with pytest.raises(StoreError, match="floors"):
        floors.adopt(A, 1)
    assert dict(floors) == {}


@pytest.mark.parametrize("written", [0, 10, 63])
def test_a_full_disk_raises_no_floor(path, monkeypatch, written):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 1)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:written], at))
    with pytest.raises(StoreError) as error:
        floors.advance(A, 5)
    assert error.value.kind is ErrorKind.DISK_FULL
    monkeypatch.undo()
    assert floors[A] == RollbackProtection.load(path)[A] == 1
    floors.advance(A, 5)
    assert RollbackProtection.load(path)[A] == 5


def test_a_floor_counts_once_it_is_durable(path, monkeypatch):
    """A power cut after a flight must not make an older card acceptable."""
    calls = record_durability(monkeypatch)
    floors = RollbackProtection.load(path)
    floors.adopt(A, 3)
    assert calls == [("fsync", path.parent.name), ("write", path.name), ("fsync", path.name)]
    monkeypatch.undo()

    def fail_on_files(fd, real=os.fsync):
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "the disk refuses")
        real(fd)

    monkeypatch.setattr(os, "fsync", fail_on_files)
    with pytest.raises(StoreError):
        floors.advance(A, 5)
    assert floors[A] == 3


def test_two_objects_raise_floors_in_one_file(path):
    one, other = RollbackProtection.load(path), RollbackProtection.load(path)
    one.adopt(A, 5)
    other.adopt(A, 3)
    assert (other[A], RollbackProtection.load(path)[A]) == (5, 5)
    other.adopt(B, 2)
    one.advance(A, 6)
    assert dict(one) == {A: 6, B: 2}
    assert path.stat().st_size == 3 * LINE_BYTES


def test_a_writer_locks_the_file(path, monkeypatch):
    real, tried = os.pwrite, []

    def pwrite(fd, data, at):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tried.append(at)
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    floors = RollbackProtection.load(path)
    floors.adopt(A, 1)
    floors.advance(A, 2)
    assert tried == [0, LINE_BYTES]


def test_a_lock_that_is_never_released_holds_up_no_flight(path, monkeypatch):
    """Who may read the file may lock it."""
    monkeypatch.setattr("store.trust.rollback_protection._LOCK_TIMEOUT_S", 0.05)
    floors = RollbackProtection.load(path)
    floors.adopt(A, 1)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(
            StoreError, match=f"floors {path}: expected a file that no other process"
        ) as caught:
            floors.advance(A, 2)
        assert (caught.value.kind, floors[A]) == (ErrorKind.BUSY, 1)
    floors.advance(A, 2)
    assert dict(RollbackProtection.load(path)) == {A: 2}


def test_a_lock_that_is_released_in_time_is_waited_for(path):
    floors = RollbackProtection.load(path)
    floors.adopt(A, 1)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = Timer(0.05, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        timer.start()
        floors.advance(A, 2)
        timer.join()
    assert floors[A] == 2


def test_processes_raise_floors_in_one_file(path):
    code = (
        "import sys; from store.trust.rollback_protection import RollbackProtection\n"
        "for generation in range(40): RollbackProtection.load(sys.argv[1]).adopt(sys.argv[2] * 32, generation)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=ROOT) for name in ("a", "b", "a")
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert dict(RollbackProtection.load(path)) == {A: 39, B: 39}


ACTIONS = st.lists(
    st.tuples(st.sampled_from([A, B]), st.integers(0, 20), st.integers(0, LINE_BYTES - 1)), max_size=12
)


@settings(max_examples=examples(60), deadline=None)
@given(ACTIONS)
def test_any_history_with_a_cut_after_each_step(actions):
    """After each raise the power may fail during the next one, which leaves a part of its line."""
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder, "floors"), {}
        for cache_id, generation, torn in actions:
            floors = RollbackProtection.load(path)
            assert dict(floors) == model
            floors.adopt(cache_id, generation)
            model[cache_id] = max(generation, model.get(cache_id, 0))
            os.truncate(path, path.stat().st_size // LINE_BYTES * LINE_BYTES)
            with path.open("ab") as file:
                file.write((b"%s %018d " % (cache_id.encode(), 10**17)).ljust(LINE_BYTES, b"0")[:torn])
        assert dict(RollbackProtection.load(path)) == model
