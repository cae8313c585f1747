"""The two homes of opening regular files: the journal's, and the one of everything above."""

import os
from pathlib import Path

import pytest

import journal.regular_file
import store.files.regular_file
from store.files.regular_file import (
    NotRegularError,
    open_below,
    open_folder,
    open_regular,
    read_own,
    read_regular,
)
from tests.damaging import replace_by

HOMES = (journal.regular_file, store.files.regular_file)
SHAPES = ("folder", "pipe", "socket", "link", "dangling", "device")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    return Path("x")


def descriptors():
    return sorted(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("home", HOMES)
def test_other_files_are_refused_without_waiting(path, home, shape, flags):
    replace_by(path, shape)
    before = descriptors()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - what kind it is, the next line asks
        home.open_regular(path, flags)
    assert home.is_wrong_file_type(caught.value)
    assert descriptors() == before
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("home", HOMES)
def test_a_regular_file_is_opened_and_not_inherited(path, home):
    with pytest.raises(FileNotFoundError) as caught:
        home.open_regular(path)
    assert not home.is_wrong_file_type(caught.value)
    fd = home.open_regular(path, os.O_RDWR | os.O_CREAT)
    assert os.write(fd, b"data") == 4
    assert not os.get_inheritable(fd)
    os.close(fd)
    fd = home.open_regular(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    os.close(fd)


def test_a_link_is_followed_only_on_request(path):
    path.write_bytes(b"data")
    replace_by(path, "link")
    fd = open_regular(path, follow_symlinks=True)
    assert os.read(fd, 10) == b"data"
    os.close(fd)
    Path("zero").symlink_to("/dev/zero")
    with pytest.raises(NotRegularError):
        open_regular("zero", follow_symlinks=True)


def test_no_part_of_a_name_below_a_folder_is_a_link(path):
    (path / "b").mkdir(parents=True)
    (path / "b" / "file").touch()
    (path / "link").symlink_to("b")
    folder, before = open_folder(Path.cwd()), len(descriptors())
    os.close(open_below("x/b/file", folder))
    for name in ("x/link/file", "x/link", "x/b", "x/b/none", "none/b/file"):
        with pytest.raises(OSError):  # noqa: PT011 - whichever it is
            open_below(name, folder)
    assert len(descriptors()) == before
    os.close(folder)
    with pytest.raises(NotADirectoryError):
        open_folder("x/link")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user as root")
def test_the_file_of_another_user_is_refused(path):
    path.write_bytes(b"12345")
    assert (read_own(path), read_own(path, limit=2)) == (b"12345", b"12")
    os.chown(path, 1, -1)
    with pytest.raises(NotRegularError, match="another user's"):
        read_own(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_neither_waits_nor_follows_links(path, shape):
    replace_by(path, shape)
    before = descriptors()
    assert read_regular(path, limit=100) is None
    assert descriptors() == before


def test_reading_has_a_limit(path):
    path.write_bytes(b"12345")
    assert read_regular(path, limit=5) == b"12345"
    assert read_regular(path, limit=4) is None
    with pytest.raises(FileNotFoundError):
        read_regular("y", limit=4)
