import os
import struct

import pytest

from journal import Journal, JournalDamagedError, JournalMissingError
from journal.errors import JournalResourcesError
from journal.safe_reader import snapshot
from journal.storage import integrity
from journal.storage.environment import open_environment
from journal.storage.integrity import check_structure, require_sound
from journal.storage.meta_pages import read_meta_pages

LAST_PAGE = 16 + 24 + 2 * 48


def test_sound_file_is_healthy(path):
    assert check_structure(path) == ()
    assert require_sound(path)


@pytest.mark.parametrize("last_page", [1 << 62, (1 << 64) - 1, 1 << 40, 100_000])
def test_meta_page_that_claims_too_much_is_damage(path, last_page):
    newest = max(range(2), key=lambda page: read_meta_pages(path)[page])
    with path.open("r+b") as file:
        file.seek(newest * 4096 + LAST_PAGE)
        file.write(struct.pack("=Q", last_page))
    if last_page > 1 << 21:
        with pytest.raises(JournalDamagedError, match="last page"):
            read_meta_pages(path)
        with pytest.raises(JournalDamagedError, match="last page"):
            snapshot(path, foreign=True)
    else:
        assert check_structure(path)
    with pytest.raises(JournalDamagedError):
        Journal.open(path)


def test_truncated_file_is_damage(path):
    for pages in (3, 8, path.stat().st_size // 4096 // 2):
        os.truncate(path, path.stat().st_size - pages * 4096)
        assert check_structure(path)
        with pytest.raises(JournalDamagedError, match="problems found, first"):
            Journal.open(path, readonly=True)


def test_missing_file(tmp_path):
    for use in (read_meta_pages, check_structure):
        with pytest.raises(JournalMissingError):
            use(tmp_path / "none")
        with pytest.raises(JournalMissingError):
            use(tmp_path / "no" / "folder")


def test_the_check_is_undecided_while_a_writer_keeps_committing(path, monkeypatch):
    def commit_meanwhile(_):
        with environment.write() as writer:
            writer.put_meta(b"noise", os.urandom(8))
        return ("looked damaged",)

    environment = open_environment(path, readonly=False)
    monkeypatch.setattr(integrity, "_find_problems", commit_meanwhile)
    assert check_structure(path) is None
    environment.close()


def test_the_check_is_retried_after_a_commit(path, monkeypatch):
    real = integrity._find_problems
    calls = []

    def commit_once(fd):
        if not calls:
            with environment.write() as writer:
                writer.put_meta(b"noise", b"1")
        calls.append(fd)
        return real(fd)

    environment = open_environment(path, readonly=False)
    monkeypatch.setattr(integrity, "_find_problems", commit_once)
    assert check_structure(path) == ()
    assert len(calls) == 2
    environment.close()


def test_an_exception_of_the_checker_is_a_problem(path, monkeypatch):
    def fall(*_, **__):
        raise IndexError("out of range")

    monkeypatch.setattr(integrity.verify, "verify", fall)
    assert check_structure(path) == ("IndexError: out of range",)


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_a_shortage_during_the_check_is_no_damage(path, monkeypatch, error):
    def fall(*_, **__):
        raise error

    monkeypatch.setattr(integrity.verify, "verify", fall)
    with pytest.raises(JournalResourcesError, match="could not be checked"):
        check_structure(path)
