"""Compare a journal with a list: appends, refusals, reopening, a second process, and a writer that is killed."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from journal import Head, HeadMovedError, Journal, JournalMissingError
from journal.errors import JournalMisuseError
from journal.record import EMPTY, Chain, Entry, encode, link
from journal.safe_reader import snapshot
from journal.testing import records, sample_record
from tests.examples_tried import examples

ROOT = Path(__file__).parents[2]

# Another process that obeys one order per line: append some records, or append and then wait to be killed.
OTHER = """
import json, sys
from journal import Journal
from journal.testing import sample_record
for line in sys.stdin:
    order = json.loads(line)
    journal = Journal.open(order["path"])
    made = [sample_record(number, tag="other") for number in range(order["first"], order["first"] + order["count"])]
    head = journal.append(made, {b"other": b"%d" % order["first"]})
    if not order["die"]:
        journal.close()
    print(json.dumps([head.seq, head.chain.hex()]), flush=True)
"""

names = st.sampled_from([b"a", b"b", b"other", b"\x00" * 511])
projections = st.dictionaries(names, st.none() | st.binary(max_size=20) | st.just(bytes(5000)), max_size=3)


class Other:
    def __init__(self):
        self.process = None

    def append(self, path, first, count, *, die):
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", OTHER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
        order = {"path": str(path), "first": first, "count": count, "die": die}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        seq, chain = json.loads(self.process.stdout.readline())
        if die:
            self.stop()
        return Head(seq, Chain(bytes.fromhex(chain)))

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


OTHER_PROCESS = Other()
"""All histories share it: it takes longer to start than a history."""


@pytest.fixture(autouse=True, scope="module")
def _other_process_ends():
    yield
    OTHER_PROCESS.stop()


class Model:
    """What a journal holds, in memory."""

    def __init__(self):
        self.entries = []
        self.projections = {}

    @property
    def head(self):
        return self.entries[-1].head if self.entries else EMPTY

    def append(self, batch, changes=()):
        for raw in map(encode, batch):
            seq, chain = self.head
            self.entries.append(Entry(seq + 1, link(chain, raw), raw))
        kept = {**self.projections, **dict(changes)}
        self.projections = {name: value for name, value in kept.items() if value is not None}
        return self.head


class JournalMachine(RuleBasedStateMachine):
    heads = Bundle("heads")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "journal.mdb"
        self.model = Model()
        self.journal = None

    @initialize(created=st.booleans(), first=st.lists(records(max_leaves=4), max_size=3))
    def begin(self, created, first):
        if created:
            head = Journal.create(self.path, first, scratch=self.folder / "tmp")
            assert head == self.model.append(first)
        else:
            with pytest.raises(JournalMissingError):
                Journal.open(self.path, readonly=True)
        self.journal = Journal.open(self.path)

    @rule(
        target=heads,
        batch=st.lists(records(max_leaves=4), max_size=4),
        changes=projections,
        expect=st.booleans(),
    )
    @precondition(lambda self: not self.journal.readonly)
    def append(self, batch, changes, expect):
        head = self.journal.append(batch, changes, expect=self.model.head if expect else None)
        assert head == self.model.append(batch, changes)
        return head

    @rule(target=heads, count=st.integers(1100, 1300))
    @precondition(lambda self: not self.journal.readonly and self.model.head.seq < 1000)
    def append_more_than_one_batch(self, count):
        batch = [sample_record(number) for number in range(count)]
        assert self.journal.append(batch) == self.model.append(batch)
        return self.model.head

    @rule(old=heads, batch=st.lists(records(max_leaves=2), min_size=1, max_size=2), changes=projections)
    @precondition(lambda self: not self.journal.readonly)
    def append_upon_an_old_head(self, old, batch, changes):
        if old == self.model.head:
            return
        with pytest.raises(HeadMovedError) as caught:
            self.journal.append(batch, changes, expect=old)
        assert (caught.value.expected, caught.value.found) == (old, self.model.head)

    @rule(changes=projections)
    @precondition(lambda self: self.journal.readonly)
    def append_while_reading_only(self, changes):
        with pytest.raises(JournalMisuseError):
            self.journal.append([sample_record(1)], changes)

    @rule(readonly=st.booleans())
    def reopen(self, readonly):
        self.journal.close()
        self.journal = Journal.open(self.path, readonly=readonly)

    @rule(target=heads, count=st.integers(1, 3), die=st.booleans())
    def other_process_appends(self, count, die):
        first = self.model.head.seq
        head = OTHER_PROCESS.append(self.path, first, count, die=die)
        batch = [sample_record(number, tag="other") for number in range(first, first + count)]
        assert head == self.model.append(batch, {b"other": b"%d" % first})
        return head

    @rule(start=st.integers(1, 1400), length=st.none() | st.integers(0, 30))
    def read_from_anywhere(self, start, length):
        stop = None if length is None else start + length
        expected = self.model.entries[start - 1 : None if stop is None else stop - 1]
        assert list(self.journal.entries(start, stop)) == expected
        assert list(self.journal.read(start, stop)) == [entry.record for entry in expected]

    @rule()
    def take_a_snapshot(self):
        assert list(snapshot(self.path).entries) == self.model.entries

    @rule()
    def check_everything(self):
        assert self.journal.verify() == self.model.head

    @invariant()
    def same_head_and_projections(self):
        if self.journal is not None:
            assert self.journal.head == self.model.head
            assert self.journal.projections() == self.model.projections
            assert self.journal.projection(b"a") == self.model.projections.get(b"a")

    def teardown(self):
        if self.journal is not None:
            self.journal.close()
        shutil.rmtree(self.folder)


JournalMachine.TestCase.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)
TestJournalMachine = JournalMachine.TestCase
