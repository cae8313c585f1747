import base64
import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from journal import Journal
from journal.record import decode, encode
from journal.safe_reader import snapshot
from journal.testing import sample_record

HERE = Path(__file__).parent
FOLDER = HERE / "journal_v1"

# LMDB files have the byte order and page size of the machine that wrote them; this one is of an x86-64.
pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the file is little-endian")


def generator():
    spec = importlib.util.spec_from_file_location("make_journal_v1", HERE / "make_journal_v1.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path):
    return shutil.copyfile(FOLDER / "journal.mdb", tmp_path / "journal.mdb")


@pytest.fixture(scope="module")
def meaning():
    return json.loads((FOLDER / "journal.json").read_text())


def described(entries):
    return [
        {"seq": entry.seq, "chain": entry.chain.hex(), "raw": base64.b64encode(entry.raw).decode()}
        for entry in entries
    ]


def test_golden_files_were_not_touched():
    # Whoever changes them changes what old caches mean.
    digests = {
        name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        for name in ("journal.json", "journal.mdb")
    }
    assert digests == {
        "journal.json": "cb429af4dc7e4a74935a96dd7b0a303848fecc14c832c097e1c3c6b692972743",
        "journal.mdb": "2708a2a8fc22afb082cc7eb2d9d194afcc81bb84aab4ee8df1befbbecea31475",
    }


def test_golden_journal_reads_as_it_was_written(path, meaning):
    with Journal.open(path, readonly=True) as journal:
        assert described(journal.entries()) == meaning["entries"]
        assert list(journal.read()) == list(generator().RECORDS)
        assert journal.projections() == generator().PROJECTIONS
        assert journal.verify().seq == len(meaning["entries"])


def test_golden_journal_reads_through_a_child(path, meaning):
    found = snapshot(path, foreign=True)
    assert described(found.entries) == meaning["entries"]
    assert {
        name.hex(): base64.b64encode(value).decode() for name, value in found.projections.items()
    } == meaning["projections"]


def test_golden_journal_can_be_continued(path, meaning):
    with Journal.open(path) as journal:
        head = journal.append([sample_record(7)])
    assert head.seq == len(meaning["entries"]) + 1
    assert snapshot(path).head == head


def test_records_still_encode_to_the_golden_bytes(meaning):
    golden = [base64.b64decode(entry["raw"]) for entry in meaning["entries"]]
    assert [encode(record) for record in generator().RECORDS] == golden
    assert [decode(raw) for raw in golden] == list(generator().RECORDS)


def test_a_journal_made_today_means_the_same(tmp_path):
    generator().make(tmp_path / "today")
    assert (tmp_path / "today" / "journal.json").read_bytes() == (FOLDER / "journal.json").read_bytes()
    assert sorted(found.name for found in (tmp_path / "today").iterdir()) == ["journal.json", "journal.mdb"]
