import os

import pytest

from journal.fsync import fsync_dir, fsync_file, link_durably
from tests.durability import record_durability


def test_folder_by_path_and_by_descriptor(tmp_path, monkeypatch):
    calls = record_durability(monkeypatch)
    fsync_dir(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fsync_dir(fd)
    assert calls == [("fsync", tmp_path.name)] * 2
    os.fstat(fd)  # still open
    os.close(fd)


def test_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        fsync_dir(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        fsync_dir(tmp_path / "none")


def test_file_is_no_link(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    fsync_file(tmp_path / "file")
    with pytest.raises(OSError, match="link"):
        fsync_file(tmp_path / "link")


def test_link_never_replaces_a_file(tmp_path):
    (tmp_path / "new").write_bytes(b"new")
    link_durably(tmp_path / "new", tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == b"new"
    (tmp_path / "newer").write_bytes(b"newer")
    with pytest.raises(FileExistsError):
        link_durably(tmp_path / "newer", tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == b"new"


def test_a_link_and_its_folder_are_durable(tmp_path, monkeypatch):
    (tmp_path / "new").write_bytes(b"new")
    calls = record_durability(monkeypatch)
    link_durably(tmp_path / "new", tmp_path / "name")
    assert calls == [("fsync", "new"), ("link", "name"), ("fsync", tmp_path.name)]
