"""Rebuilding the journal from segments, and from the readable records of the damaged file."""

import contextlib
import os
import random
import secrets
import shutil
import subprocess

import pytest

from journal import Journal, JournalDamagedError, JournalFullError, safe_reader
from journal.errors import JournalIOError
from journal.record import EMPTY, Entry, Record, encode, link
from journal.storage.environment import open_environment
from store.base.identity import build_identity
from store.cache import segment
from store.cache.event_mapper import to_record
from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.events import BuildCommitted, BuildStarted, CacheCreated, EngineCompiled
from store.domain.maintenance_events import GenerationAccepted, RolledBack
from store.domain.state import BuildStatus
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError
from store.maintenance.rebuild_journal import rebuild
from store.policy import rollback
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.damaging import overwrite
from tests.examples_tried import mostly_deep
from tests.played_builds import Scenario, StopDeadError, make, play
from tests.store_caches import open_writer, record_builds, tree

LATER = Scenario(flight="f3", engine="other", fail_at="coverage")
"""A build that fails after the last commit: its records are in the journal alone."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Two generations, and a failed build after them. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("pristine") / "cache")
    record_builds(layout, Scenario(), Scenario(flight="f2"), LATER)
    return layout


@pytest.fixture
def layout(pristine, tmp_path):
    shutil.copytree(pristine.root, tmp_path / "cache", symlinks=True)
    return Layout(tmp_path / "cache")


@pytest.fixture
def fresh(tmp_path):
    """A cache that has no generation yet, and a journal with a failed build."""
    layout = Layout(tmp_path / "fresh")
    record_builds(layout, Scenario(fail_at="coverage"))
    return layout


def entries_of(layout):
    return list(safe_reader.snapshot(layout.journal).entries)


def committed(layout):
    """How many records the segments hold."""
    return segment.decode(max(layout.segments.iterdir()).read_bytes()).entries[-1].seq


def other_cache(path, builds=2):
    layout = Layout(path)
    with open_writer(layout) as store:
        for number in range(builds):
            play(store, Scenario(flight=f"o{number}"))
    return layout


def spoil(layout, entry):
    """Change a byte of a record in every copy of its page."""
    overwrite(layout.journal, layout.journal.read_bytes().replace(entry.raw, entry.raw[:-1] + b"?"))


def goes_on(layout):
    """The cache accepts a build, and has no problem but the device."""
    record_builds(layout, Scenario(flight="f9"))
    found = verify(layout, depth=Depth.FULL).problems
    return all(problem.kind in {ProblemKind.DEVICE, ProblemKind.CONTENT} for problem in found)


class TestTheSources:
    def test_an_undamaged_journal_is_rebuilt_unchanged(self, layout):
        entries, evidence = entries_of(layout), layout.journal.read_bytes()
        with Journal.open(layout.journal) as opened_journal:
            inside = opened_journal.projections()
        before = tree(layout)
        rebuilt = rebuild(layout)
        assert (rebuilt.records, rebuilt.salvaged) == (len(entries), len(entries) - committed(layout))
        assert rebuilt.quarantine == "quarantine/journal.mdb.0"
        assert (layout.root / rebuilt.quarantine).read_bytes() == evidence
        with Journal.open(layout.journal) as opened_journal:
            assert list(opened_journal.entries()) == entries
            assert opened_journal.projections() == inside
        assert open_view(layout).state == rebuilt.state
        after = tree(layout)
        assert all(after[path] == data for path, data in before.items() if path.name != "journal.mdb")
        assert goes_on(layout)

    def test_segments_alone_hold_everything_up_to_the_last_commit(self, layout):
        entries = entries_of(layout)[: committed(layout)]
        overwrite(layout.journal, b"garbage")
        rebuilt = rebuild(layout)
        assert rebuilt.salvaged == 0
        assert entries_of(layout) == entries
        with open_writer(layout) as store:
            assert (store.recovered, store.writes) == ((), 0)
            _, work = play(store, Scenario(flight="f3", engine="other"))
            assert (work.compiled, work.embedded, work.indexed) == (1, 3, 1)

    def test_records_after_the_last_commit_are_salvaged(self, layout):
        """A lost page without records of the tail: the tail survives, and its steps are reused."""
        entries = entries_of(layout)
        spoil(layout, entries[2])
        with pytest.raises(JournalDamagedError) as caught:
            open_view(layout)
        assert caught.value.hint == f"c10 rebuild --cache {layout.root}"
        assert rebuild(layout).salvaged == len(entries) - committed(layout) > 5
        assert entries_of(layout) == entries
        with open_writer(layout) as store:
            assert store.state.builds[3].status is BuildStatus.FAILED
            _, work = play(store, Scenario(flight="f3", engine="other"))
            assert (work.compiled, work.embedded, work.indexed) == (0, 0, 0)

    @pytest.mark.parametrize("seed", mostly_deep(range(20), *range(5)))
    def test_after_any_damage_a_beginning_is_rebuilt(self, layout, seed):
        """Never other records, and never fewer than were committed."""
        rng, entries = random.Random(seed), entries_of(layout)
        data = bytearray(layout.journal.read_bytes())
        match seed % 5:
            case 0:
                for _ in range(rng.choice([1, 8, 64])):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                start = 4096 * rng.randrange(len(data) // 4096)
                data[start : start + 4096] = bytes(4096)
            case 2:
                del data[rng.randrange(1, len(data)) :]
            case 3:
                start = 4096 * rng.randrange(2, len(data) // 4096)
                data[start : start + 4096] = rng.randbytes(4096)
            case 4:
                data[rng.randrange(8192)] ^= 1 << rng.randrange(8)
        overwrite(layout.journal, bytes(data))
        rebuilt = rebuild(layout)
        found = entries_of(layout)
        assert found == entries[: len(found)]
        assert len(found) == rebuilt.records >= committed(layout)
        assert rebuilt.salvaged == len(found) - committed(layout)
        assert goes_on(layout)

    def test_before_the_first_commit_records_come_from_the_journal(self, fresh):
        entries = entries_of(fresh)
        spoil(fresh, entries[-2])
        rebuilt = rebuild(fresh)
        assert rebuilt.salvaged == rebuilt.records == len(entries) - 2
        assert entries_of(fresh) == entries[:-2]
        with open_writer(fresh) as store:
            assert store.state.builds[1].status is BuildStatus.ABANDONED

    @pytest.mark.parametrize("damage", ["gone", "garbage", "genesis"])
    def test_before_the_first_commit_all_records_may_be_lost(self, fresh, damage):
        entries = entries_of(fresh)
        match damage:
            case "gone":
                fresh.journal.unlink()
            case "garbage":
                overwrite(fresh.journal, b"garbage")
            case "genesis":
                spoil(fresh, entries[0])
        before = tree(fresh)
        with pytest.raises(DamagedHistoryError, match="nothing was committed"):
            rebuild(fresh)
        assert tree(fresh) == before

    def test_a_commit_without_its_files_is_salvaged(self, layout):
        record_builds(layout, Scenario(flight="f4"))
        for folder in (layout.manifests, layout.segments):
            max(folder.iterdir()).unlink()
        assert len(rebuild(layout).state.generations) == 3
        with open_writer(layout) as store:
            assert len(store.recovered) == 1
        assert len(layout.manifest_files()) == 3

    def test_half_a_rollback_is_left_out(self, layout):
        """It is one transaction with its commit; alone it would belong to the next commit."""
        with open_writer(layout) as store:
            planned = rollback.plan(store.state, to=None, why="")
            half = RolledBack(left=planned.left, target=planned.target, requested=None, why="", host={})
            store.append(half, build=None)
        count = len(entries_of(layout))
        assert rebuild(layout).records == count - 1
        assert goes_on(layout)

    def test_manifests_of_collected_generations_are_not_needed(self, layout):
        (layout.manifests / layout.manifest_name(1)).unlink()
        assert len(rebuild(layout).state.generations) == 2


class TestSegmentsThatAreMissingOrBroken:
    DAMAGES = ("first", "last", "all", "swap", "flip", "cut", "fifo", "link", "folder", "other cache")

    def harm(self, layout, tmp_path, damage):
        first, last = sorted(layout.segments.iterdir())
        data, other_data = last.read_bytes(), first.read_bytes()
        for path in {"first": [first], "all": [first, last], "swap": [first, last]}.get(damage, [last]):
            path.unlink()
        match damage:
            case "swap":
                first.write_bytes(data)
                last.write_bytes(other_data)
            case "flip":
                last.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
            case "cut":
                last.write_bytes(data[:-1])
            case "fifo":
                os.mkfifo(last)
            case "link":
                last.with_name("elsewhere").write_bytes(data)
                last.symlink_to("elsewhere")
            case "folder":
                last.mkdir()
            case "other cache":
                shutil.copyfile(other_cache(tmp_path / "other").segments / last.name, last)

    @pytest.mark.parametrize("damage", mostly_deep(DAMAGES, "first", "last", "swap", "all", "folder"))
    def test_a_readable_journal_replaces_damaged_segments(self, layout, tmp_path, damage):
        entries = entries_of(layout)
        self.harm(layout, tmp_path, damage)
        rebuilt = rebuild(layout)
        assert entries_of(layout) == entries
        expected = {"first": (1,), "swap": (1, 2), "all": ()}
        assert rebuilt.segments_replaced == expected.get(damage, (2,) if damage != "last" else ())

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_without_a_readable_journal_nothing_is_rebuilt(self, layout, tmp_path, damage):
        self.harm(layout, tmp_path, damage)
        overwrite(layout.journal, b"garbage")
        before = tree(layout)
        with pytest.raises(DamagedHistoryError) as error:
            rebuild(layout)
        assert error.value.kind is ErrorKind.JOURNAL_INCOMPLETE
        assert tree(layout) == before

    def test_segments_of_another_cache_do_not_fit_the_manifests(self, layout, tmp_path):
        other = other_cache(tmp_path / "other", 1)
        for path in (*layout.segments.iterdir(), layout.journal):
            path.unlink()
        shutil.copyfile(other.segments / layout.segment_name(1), layout.segments / layout.segment_name(1))
        with pytest.raises(DamagedHistoryError, match="another cache's"):
            rebuild(layout)
        assert not layout.journal.exists()

    def test_a_journal_of_another_cache_gives_nothing(self, layout, tmp_path):
        entries = entries_of(layout)[: committed(layout)]
        overwrite(layout.journal, other_cache(tmp_path / "other").journal.read_bytes())
        assert rebuild(layout).salvaged == 0
        assert entries_of(layout) == entries

    def test_a_manifest_that_no_record_commits_forbids_a_rebuild(self, layout):
        overwrite(layout.journal, b"garbage")
        max(layout.segments.iterdir()).unlink()
        with pytest.raises(DamagedHistoryError, match="generation 2"):
            rebuild(layout)

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_damaged_manifest_does_not_forbid_a_rebuild(self, layout, number):
        """It proves nothing; `c10 repair` replaces it."""
        path = layout.manifests / layout.manifest_name(number)
        data = (layout.manifests / layout.manifest_name(min(number, 2))).read_bytes()
        overwrite(path, data if number == 3 else data[:-2] + b"\n")
        overwrite(layout.journal, b"garbage")
        assert len(rebuild(layout).state.generations) == 2

    def test_a_forged_journal_with_another_manifest_is_refused(self, tmp_path):
        """Segments may come from anywhere: their records are folded and projected before they are used."""
        layout = Layout(tmp_path / "hand")
        layout.create()
        inputs = Scenario().inputs()
        wrong = {"manifest_sha256": "00" * 32, "body_sha256": "00" * 32}
        events = [
            (CacheCreated(cache_id=secrets.token_hex(16), format=1, writer="x"), None),
            (make(BuildStarted, identity=build_identity(inputs), inputs=inputs), 1),
            (make(BuildCommitted, format=1, generation=1, origin=1, **wrong), 1),
        ]
        entries, chain = [], EMPTY.chain
        for seq, (event, build) in enumerate(events, 1):
            raw = encode(to_record(event, build=build, wall_ns=1, mono_ns=1))
            chain = link(chain, raw)
            entries.append(Entry(seq=seq, chain=chain, raw=raw))
        (layout.segments / layout.segment_name(1)).write_bytes(segment.encode(1, EMPTY, entries))
        with pytest.raises(DamagedHistoryError):
            rebuild(layout)
        assert not layout.journal.exists()


def newer_event():
    return Record(tag="from.the.future", version=1, build=None, wall_ns=1, mono_ns=1, payload={})


@pytest.mark.parametrize("where", ["tail", "segment"])
def test_events_of_a_newer_version_forbid_a_rebuild(layout, where):
    """Leaving them out would lose them silently."""
    if where == "tail":
        with Journal.open(layout.journal) as found:
            found.append([newer_event()])
    else:
        path = layout.segments / layout.segment_name(2)
        decoded = segment.decode(path.read_bytes())
        raw = encode(newer_event())
        entry = Entry(seq=decoded.before.seq + 1, chain=link(decoded.before.chain, raw), raw=raw)
        overwrite(path, segment.encode(2, decoded.before, [entry]))
        overwrite(layout.journal, b"garbage")
    before = tree(layout)
    with pytest.raises((UnknownEventError, DamagedHistoryError)) as caught:
        rebuild(layout)
    assert tree(layout) == before
    if where == "tail":
        assert isinstance(caught.value, UnknownEventError)


class Death:
    """Kill the process before or after its n-th change to names on disk."""

    NAMES = ("link", "unlink", "rmdir", "fsync")

    def __init__(self, monkeypatch, at, *, after):
        self.left, self.after, self.dead = at, after, False
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self.deadly(getattr(os, name)))

    def deadly(self, real):
        def call(*args, **kwargs):
            if self.dead:
                raise StopDeadError
            self.left -= 1
            if self.left < 0:
                self.dead = True
                if self.after:
                    real(*args, **kwargs)
                raise StopDeadError
            return real(*args, **kwargs)

        return call


@pytest.mark.deep
@pytest.mark.parametrize(("which", "after"), [("layout", False), ("fresh", True)])
def test_a_rebuild_may_be_killed_at_every_step(pristine, which, after, request, tmp_path):
    """There is the old journal, or the new one, or none, which every command reports; never another."""
    source = request.getfixturevalue(which)
    entries, points = entries_of(source), 0
    while True:
        layout = Layout(tmp_path / f"{points}")
        shutil.copytree(source.root, layout.root, symlinks=True)
        with pytest.MonkeyPatch.context() as patch:
            death = Death(patch, points, after=after)
            with contextlib.suppress(StopDeadError):
                rebuild(layout)
        if not death.dead:
            break
        points += 1
        if layout.journal.exists():
            assert entries_of(layout) == entries
        else:
            with pytest.raises(DamagedHistoryError) as caught:
                open_view(layout)
            assert caught.value.hint.startswith("c10 rebuild")
            with pytest.raises(DamagedHistoryError), open_writer(layout):
                pytest.fail("a journal was begun anew")
        assert rebuild(layout).records == len(entries)
        assert entries_of(layout) == entries
        shutil.rmtree(layout.root)
    assert points >= 12


def test_a_failure_puts_the_journal_back(layout, monkeypatch):
    inode, before = layout.journal.stat().st_ino, tree(layout)

    def full(*_, **__):
        raise JournalFullError("no space")

    monkeypatch.setattr(Journal, "create", full)
    with pytest.raises(JournalFullError):
        rebuild(layout)
    assert layout.journal.stat().st_ino == inode
    assert tree(layout) == before


def test_a_journal_that_was_created_meanwhile_is_moved_to_quarantine(layout, monkeypatch):
    entries, real, begun = entries_of(layout), Journal.create, []

    def create(path, records, **options):
        if not begun:
            begun.append(real(path, [], scratch=options["scratch"]))
        return real(path, records, **options)

    monkeypatch.setattr(Journal, "create", create)
    rebuilt = rebuild(layout)
    assert entries_of(layout) == entries
    assert rebuilt.quarantine == "quarantine/journal.mdb.0"
    assert len(layout.journals_set_aside()) == 2


class TestWritersBeside:
    def event(self, why):
        accepted = GenerationAccepted(generation=1, why=why, host={})
        return to_record(accepted, build=None, wall_ns=1, mono_ns=1)

    def test_acknowledged_records_are_rebuilt_and_later_appends_are_refused(self, layout):
        with Journal.open(layout.journal) as beside:
            beside.append([self.event("acknowledged")])
            rebuild(layout)
            with pytest.raises(JournalDamagedError, match="in its place"):
                beside.append([self.event("too late")])
        whys = [
            fact.event.why
            for fact in read_history(layout).facts
            if isinstance(fact.event, GenerationAccepted)
        ]
        assert whys == ["acknowledged"]

    def test_an_append_to_a_file_that_loses_its_name_is_not_acknowledged(self, layout):
        environment = open_environment(layout.journal, readonly=False)
        try:
            with (
                pytest.raises(JournalDamagedError, match="expected the file that was opened"),
                environment.write(),
            ):
                move_to_quarantine(layout, layout.journal)
        finally:
            environment.close()

    def test_records_appended_at_the_last_moment_are_salvaged(self, layout, monkeypatch):
        """After the check and before the unlinking: the file is read again after it lost its name."""
        real, late = move_to_quarantine, []

        def aside(of, path):
            with Journal.open(layout.journal) as beside:
                late.append(beside.append([self.event("late")]))
            return real(of, path)

        monkeypatch.setattr("store.maintenance.rebuild_journal.move_to_quarantine", aside)
        assert rebuild(layout).records == late[0].seq
        assert open_view(layout).head == late[0]


def test_salvaged_steps_are_reused(layout):
    state = rebuild(layout).state
    engines = [fact.event for fact in read_history(layout).facts if isinstance(fact.event, EngineCompiled)]
    assert {event.key for event in engines} == set(state.step_cache.engines)


def test_a_child_that_could_not_start_is_an_error(layout, monkeypatch):
    """Records must not be lost because no process could be started."""

    def refused(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = tree(layout)
    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(JournalIOError, match="temporarily unavailable"):
        rebuild(layout)
    assert tree(layout) == before


def test_a_killed_child_is_started_again(layout, monkeypatch):
    real, ended = subprocess.run, []

    def killed_once(*args, **kwargs):
        answer = real(*args, **kwargs)
        if not ended:
            ended.append(answer)
            return subprocess.CompletedProcess(args, -9, b"", b"")
        return answer

    count = len(entries_of(layout))
    monkeypatch.setattr(subprocess, "run", killed_once)
    assert rebuild(layout).records == count
