"""Write-once files: what has its name is durable, and so is the name."""

import pytest

from store.disk.write_once import write_once
from tests.durability import record_durability


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_bytes_come_before_the_name_and_the_folder_after_it(folder, monkeypatch):
    calls = record_durability(monkeypatch)
    assert write_once(folder, "name", b"data", scratch=folder.parent / "scratch")
    assert calls == [("fsync", "draft"), ("link", "name"), ("fsync", "folder")]


def test_a_file_that_is_there_is_made_durable_again(folder, monkeypatch):
    """Whoever linked it may have died before it was."""
    write_once(folder, "name", b"data", scratch=folder.parent / "scratch")
    calls = record_durability(monkeypatch)
    assert not write_once(folder, "name", b"data", scratch=folder.parent / "scratch")
    assert calls == [("fsync", "draft"), ("fsync", "name"), ("fsync", "folder")]


def test_other_bytes_are_never_replaced(folder):
    write_once(folder, "name", b"data", scratch=folder.parent / "scratch")
    with pytest.raises(FileExistsError):
        write_once(folder, "name", b"other", scratch=folder.parent / "scratch")
    assert (folder / "name").read_bytes() == b"data"
