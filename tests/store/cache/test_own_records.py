"""Notes of what this machine appended: which lines count, and which do not."""

import os
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from journal.record import Chain, Head
from store.cache.own_records import OwnRecords
from store.trust.signatures import Signer

CACHE = "c" * 32
ALICE, BOB = (Signer.of(Ed25519PrivateKey.from_private_bytes(seed * 32)) for seed in (b"a", b"b"))


def chain(seq):
    return sha256(b"%d" % seq).digest()


def chain_at(seq):
    return chain(seq).hex() if seq <= 100 else None


def note(folder, *ranges, signer=ALICE, cache=CACHE):
    before_append = OwnRecords(folder, signer).note(cache)
    for first, last in ranges:
        before_append(first, Head(last, Chain(chain(last))))


def ranges(folder, *, signer=ALICE, cache=CACHE, at=chain_at):
    return OwnRecords(folder, signer).ranges(cache, at)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "memory"


def notes(folder):
    (path,) = folder.iterdir()
    return path


def test_notes_are_read_back_in_order_and_joined(folder):
    note(folder, (5, 9), (2, 3), (10, 12), (20, 20))
    assert ranges(folder) == ((2, 3), (5, 12), (20, 20))


def test_a_note_counts_only_if_the_journal_has_its_last_record(folder):
    note(folder, (5, 9), (11, 12), (99, 101))
    assert ranges(folder, at=lambda seq: "0" * 64 if seq == 9 else chain_at(seq)) == ((11, 12),)


def test_a_note_that_ends_before_it_begins_does_not_count(folder):
    note(folder, (9, 5))
    assert ranges(folder) == ()


def test_notes_of_another_key_or_cache_do_not_count_under_a_copied_name(folder):
    note(folder, (5, 9))
    path = notes(folder)
    for signer, cache in ((BOB, CACHE), (ALICE, "d" * 32)):
        copy = path.with_name(f"records-{cache}-{signer.key_id}")
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        assert ranges(folder, signer=signer, cache=cache) == ()
    assert ranges(folder) == ((5, 9),)


def test_no_changed_byte_counts(folder):
    note(folder, (5, 9))
    path = notes(folder)
    line = path.read_bytes()
    for place in range(1, len(line) - 1):
        path.write_bytes(
            line[:place] + (b"0" if line[place : place + 1] != b"0" else b"1") + line[place + 1 :]
        )
        assert ranges(folder) == ()


def test_a_line_cut_off_by_a_kill_spoils_no_other(folder):
    note(folder, (5, 9))
    path = notes(folder)
    path.write_bytes(path.read_bytes()[:-40])
    note(folder, (11, 12))
    assert ranges(folder) == ((11, 12),)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602])
def test_a_file_that_others_may_open_does_not_count(folder, mode):
    note(folder, (5, 9))
    notes(folder).chmod(mode)
    assert ranges(folder) == ()


def test_a_link_or_a_file_of_another_user_does_not_count(folder, tmp_path, monkeypatch):
    note(folder, (5, 9))
    path = notes(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert ranges(folder) == ()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert ranges(folder) == ()


def test_forgetting_keeps_what_another_process_noted_meanwhile(folder):
    note(folder, (5, 9))
    own = OwnRecords(folder, ALICE)
    own.ranges(CACHE, chain_at)
    own.note(CACHE)(10, Head(11, Chain(chain(11))))
    note(folder, (20, 21))
    own.forget(CACHE)
    assert ranges(folder) == ((20, 21),)
    OwnRecords(folder, ALICE).forget(CACHE)
    assert ranges(folder) == ((20, 21),)
    own.ranges(CACHE, chain_at)
    own.forget(CACHE)
    assert [*folder.iterdir()] == []
    own.forget(CACHE)


def test_without_a_key_or_a_folder_nothing_is_noted(folder):
    for where, signer in ((None, ALICE), (folder, None)):
        note(where, (5, 9), signer=signer)
        assert ranges(where, signer=signer) == ()
        OwnRecords(where, signer).forget(CACHE)
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_costs_only_the_notes(tmp_path):
    (tmp_path / "file").touch()
    note(tmp_path / "file", (5, 9))
    assert ranges(tmp_path / "file") == ()


def test_the_code_of_a_key_is_its_own():
    assert len(ALICE.authenticate(b"x")) == 32
    assert len({ALICE.authenticate(b"x"), ALICE.authenticate(b"y"), BOB.authenticate(b"x")}) == 3
