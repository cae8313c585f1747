"""Import: what a bundle becomes, and how it is refused before the journal is written."""

import shutil
from dataclasses import asdict, replace

import pytest

from journal import Journal, JournalFilesystemError
from journal.record import GENESIS, Entry, Record, encode, link
from store.cache.event_mapper import to_record
from store.cache.optimistic_append import accept
from store.cache.projections import Projections
from store.cache.view import open_view, read_history
from store.disk import layout as layout_module
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import (
    BuildCommitted,
    BuildDenied,
    CellEmbedded,
    CheckPassed,
    EngineCompiled,
    StepStarted,
)
from store.domain.maintenance_events import (
    CollectionPlanned,
    GenerationAccepted,
    GenerationSigned,
    Imported,
    Repaired,
)
from store.domain.manifest_projection import project
from store.domain.state import BuildStatus
from store.errors import (
    BundleError,
    CacheUnusableError,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    UnknownEventError,
)
from store.maintenance.collect_garbage import collect
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED
from store.testing import FakeClock
from store.transfer.bundle import read_bundle
from store.transfer.bundle_format import BundleHeader, Choice, write_bundle
from store.transfer.bundle_history import ImportOutcome
from store.transfer.bundle_reader import open_bundle
from store.transfer.export import export
from store.transfer.have import find_have
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.played_builds import Scenario, StopDeadError, make, play, ref_of
from tests.store_caches import ALICE, BOB, open_writer, record_builds, tree

OTHER = {(0, 0): "a", (1, 0): "b2", (20, 3): "c"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Two signed generations, with a failed build between them and an open one after. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("pristine") / "cache")
    with open_writer(layout, signer=ALICE) as store:
        play(store, Scenario())
        play(store, Scenario(flight="f2", tiles=OTHER, fail_at="index"))
        play(store, Scenario(flight="f2", tiles=OTHER))
        with pytest.raises(StopDeadError):
            play(store, Scenario(flight="f3", engine="e3", die_at="cells"))
    return layout


@pytest.fixture
def source(pristine, tmp_path):
    shutil.copytree(pristine.root, tmp_path / "source", symlinks=True)
    return Layout(tmp_path / "source")


@pytest.fixture
def new(tmp_path):
    return Layout(tmp_path / "new")


@pytest.fixture
def file(source, tmp_path):
    return export(source, tmp_path / "all.bundle").path


def take(layout, file, **options):
    return import_bundle(layout, file, **({"clock": FakeClock(), "host": {"host": "here"}} | options))


def whole(layout):
    """Return all problems of a cache but the contents of played engines and indexes."""
    found = verify(layout, depth=Depth.FULL, trusted_keys=[ALICE.public]).problems
    return [problem for problem in found if problem.kind not in {ProblemKind.DEVICE, ProblemKind.CONTENT}]


def chains(layout):
    return [entry.chain for entry in read_history(layout).entries]


def test_an_import_to_a_new_folder(source, new, file):
    done = take(new, file)
    assert (done.outcome, done.header.records) == (ImportOutcome.IMPORTED, len(chains(source)))
    assert done.left_out == 0
    view = read_history(new)
    assert chains(new)[:-1] == chains(source)
    event = view.facts[-1].event
    assert event == Imported(
        source="all.bundle",
        cache_id=view.state.cache_id,
        bundle=done.file,
        generations=(1, 2),
        artifacts=len(done.stored),
        host={"host": "here"},
    )
    assert done.state == view.state
    assert done.file == ref_of(file.read_bytes())
    assert not whole(new)
    for name in ("manifests", "segments"):
        for path in (source.root / name).iterdir():
            assert (new.root / name / path.name).read_bytes() == path.read_bytes()
    # The build that was open in the source ends here, and its engine is reused.
    with open_writer(new) as store:
        assert store.state.builds[4].status is BuildStatus.ABANDONED
        generation, work = play(store, Scenario(flight="f3", engine="e3"))
    assert (generation.number, work.compiled) == (3, 0)
    assert open_view(source).state.builds[4].status is BuildStatus.OPEN


def test_with_trusted_keys_an_import_ends_with_the_signed_head(source, new, tmp_path):
    """Records behind it, and the artifacts that they name, may be a stranger's."""
    with open_writer(source) as store:
        play(store, Scenario(flight="f4", engine="e4", fail_at="index"))
        evil = store.state.builds[5].engines[0][1].artifact
    done = take(new, export(source, tmp_path / "b").path, trusted_keys=[ALICE.public])
    head = open_view(source).state.head
    assert chains(new)[:-1] == chains(source)[: head.seq]
    assert done.left_out == len(chains(source)) - head.seq
    assert evil not in done.stored
    assert not new.artifact(evil.sha256).exists()
    assert new.artifact(store.state.head_build.index.artifact.sha256).exists()
    assert not whole(new)


def test_signatures_and_acceptances_right_behind_the_head_are_imported(source, new, tmp_path):
    with open_writer(source) as store:
        play(store, Scenario(flight="f4"))
        store.append(make(GenerationAccepted, generation=1), build=None)
        signature = ALICE.sign(project(store.state, store.state.head))
        store.add_signature(make(GenerationSigned, generation=3, **asdict(signature)))
        store.append(make(StepStarted), make(GenerationAccepted, generation=2), build=None)
    done = take(new, export(source, tmp_path / "b").path, trusted_keys=[ALICE.public])
    assert (done.left_out, done.state.accepted) == (2, frozenset({1}))
    assert not whole(new)


@pytest.mark.parametrize("follows", [False, True])
def test_a_signature_behind_records_that_change_no_result_is_imported(source, new, tmp_path, follows):
    """A run that found the lock held, and a file that a writer or a repair set aside, before the generation was signed."""
    with open_writer(source) as store:
        play(store, Scenario(flight="f4"))
        store.append(make(BuildDenied), make(Repaired), make(GenerationAccepted, generation=1), build=None)
        sign(store, 3)
    done = take(new, export(source, tmp_path / "b").path, trusted_keys=[ALICE.public], follows=follows)
    assert (done.left_out, len(done.state.generations[3].signatures)) == (0, 1)
    assert (chains(new) == chains(source)) is follows
    assert not whole(new)


@pytest.mark.parametrize("event", [EngineCompiled, CellEmbedded, CheckPassed, CollectionPlanned])
def test_a_signature_behind_records_that_change_results_is_not_followed(source, new, tmp_path, event):
    with open_writer(source) as store:
        play(store, Scenario(flight="f4"))
        gone = {"generations": (1,), "policy": {}} if event is CollectionPlanned else {}
        store.append(make(event, **gone), build=None)
        sign(store, 3)
    with pytest.raises(NoGoError, match="signature"):
        take(new, export(source, tmp_path / "b").path, trusted_keys=[ALICE.public], follows=True)


def sign(store, generation, key=ALICE):
    signature = key.sign(project(store.state, store.state.generations[generation]))
    store.add_signature(make(GenerationSigned, generation=generation, **asdict(signature)))


def test_signatures_behind_other_records_are_recorded_again(source, new, tmp_path):
    """A cache that was signed later, after a build that failed."""
    with open_writer(source) as store:
        play(store, Scenario(flight="f4"))
        play(store, Scenario(flight="f5", fail_at="index"))
        sign(store, 3)
        sign(store, 3, BOB)
        sign(store, 1, BOB)
    path = export(source, tmp_path / "b").path
    with pytest.raises(NoGoError) as caught:
        take(new, path, trusted_keys=[ALICE.public], follows=True)
    assert (caught.value.kind, new.root.exists()) == (ErrorKind.SIGNATURE, False)
    assert "without --follow" in caught.value.hint
    done = take(new, path, trusted_keys=[ALICE.public])
    assert [len(each.signatures) for each in done.state.generations.values()] == [1, 1, 1]
    assert not whole(new)
    done = take(new, path, trusted_keys=[ALICE.public, BOB.public])
    assert [len(each.signatures) for each in done.state.generations.values()] == [2, 1, 2]
    assert done.outcome is ImportOutcome.UNCHANGED
    before = chains(new)
    take(new, path, trusted_keys=[ALICE.public, BOB.public])
    assert chains(new) == before
    assert not whole(new)


@pytest.mark.parametrize("fails", [False, True])
def test_generations_that_were_collected_behind_the_signed_head_are_not_missed(new, tmp_path, fails):
    source = Layout(tmp_path / "collected")
    flights = (
        Scenario(),
        Scenario(flight="f2", engine="e2"),
        Scenario(flight="f3", engine="e3", tiles=OTHER),
    )
    record_builds(source, *flights, signer=ALICE)
    if fails:
        record_builds(source, Scenario(flight="f4", engine="e4", fail_at="index"))
    with open_writer(source, exclusive_within_s=1) as store:
        collect(store, KeepPolicy(keep=1))
    path = export(source, tmp_path / "b").path
    done = take(new, path, trusted_keys=[ALICE.public])
    assert done.state.collected_generations == open_view(source).state.collected_generations == {1}
    assert not whole(new)
    assert not export(new, tmp_path / "again").missing
    assert not find_have(new).lacks
    before = chains(new)
    assert take(new, path, trusted_keys=[ALICE.public]).outcome is ImportOutcome.UNCHANGED
    assert chains(new) == before


def test_a_generation_that_is_accepted_meanwhile_is_not_collected(new, tmp_path):
    source = Layout(tmp_path / "collected")
    flights = (
        Scenario(),
        Scenario(flight="f2", engine="e2"),
        Scenario(flight="f3", engine="e3", tiles=OTHER),
    )
    record_builds(source, *flights, signer=ALICE)
    with open_writer(source, exclusive_within_s=1) as store:
        collect(store, KeepPolicy(keep=1))
    path = export(source, tmp_path / "b").path
    take(new, path, trusted_keys=[ALICE.public], follows=True)
    before = chains(new)

    def accept_first(_):
        accept(new, 1, why="", host={}, clock=FakeClock())

    done = take(new, path, trusted_keys=[ALICE.public], on_total=accept_first)
    assert done.outcome is ImportOutcome.UNCHANGED
    assert (done.state.accepted, done.state.collected_generations) == ({1}, frozenset())
    assert open_view(new).state == done.state
    assert chains(new)[: len(before)] == before


def test_an_old_bundle_asks_for_nothing_that_was_collected_here(source, tmp_path):
    old = export(source, tmp_path / "old", build=1, choice=Choice.NONE).path
    flights = (Scenario(flight=f"f{number}", engine=f"e{number}", tiles=OTHER) for number in (4, 5, 6))
    record_builds(source, *flights, signer=ALICE)
    with open_writer(source, exclusive_within_s=1) as store:
        collect(store, KeepPolicy(keep=1))
    before = chains(source)
    assert 1 in open_view(source).state.collected_generations
    assert take(source, old).outcome is ImportOutcome.UNCHANGED
    assert chains(source) == before


def test_a_cache_of_a_newer_version_takes_no_bundle(source, file):
    with Journal.open(source.journal) as journal:
        journal.append([Record(tag="from.later", version=1, build=None, wall_ns=1, mono_ns=1, payload={})])
    before = tree(source)
    next(path for path in source.artifacts.rglob("*/*") if path.name != ".lock").unlink()
    with pytest.raises(UnknownEventError, match="nothing was changed"):
        take(source, file)
    assert len(tree(source)) == len(before) - 1
    assert tree(source).items() <= before.items()


def test_a_copy_that_is_written_to_meanwhile_is_left_as_it_is(source, new, tmp_path):
    take(new, export(source, tmp_path / "1", build=1).path, follows=True)

    def accept_first(_):
        accept(new, 1, why="", host={}, clock=FakeClock())

    with pytest.raises(RequestRefusedError, match="goes its own way") as caught:
        take(new, export(source, tmp_path / "2").path, follows=True, on_total=accept_first)
    assert caught.value.kind is ErrorKind.OWN_HISTORY
    assert open_view(new).state.accepted == {1}
    assert open_view(new).state.head.number == 1


def test_a_stranger_cannot_have_generations_collected_that_are_here(source, new, tmp_path):
    take(new, export(source, tmp_path / "1").path, trusted_keys=[ALICE.public])
    with open_writer(source) as store:
        engines = store.state.copy().step_cache.engines
        gone = {
            "generations": (1,),
            "policy": {},
            "digests": tuple(each.artifact.sha256 for each in engines.values()),
        }
        store.append(make(CollectionPlanned, **gone), build=None)
    done = take(new, export(source, tmp_path / "2").path, trusted_keys=[ALICE.public])
    assert done.state.collected_generations == frozenset()
    assert engines.items() >= done.state.step_cache.engines.items() != set()
    assert not whole(new)


def test_a_copy_that_follows(source, new, tmp_path):
    first = export(source, tmp_path / "1", build=1).path
    assert take(new, first, follows=True).outcome is ImportOutcome.IMPORTED
    assert chains(new) == chains(source)[: len(chains(new))]
    assert open_view(new).state.head.number == 1
    inode = new.journal.stat().st_ino
    done = take(new, export(source, tmp_path / "2").path, follows=True, trusted_keys=[ALICE.public])
    assert (done.outcome, done.state.head.number) == (ImportOutcome.ADVANCED, 2)
    assert chains(new) == chains(source)[: done.state.head.seq]
    assert take(new, tmp_path / "2", follows=True).outcome is ImportOutcome.ADVANCED
    assert chains(new) == chains(source)
    assert (
        take(new, tmp_path / "2", follows=True, trusted_keys=[ALICE.public]).outcome
        is ImportOutcome.UNCHANGED
    )
    assert new.journal.stat().st_ino == inode
    assert not whole(new)
    assert take(new, first, follows=True).outcome is ImportOutcome.UNCHANGED
    assert take(new, tmp_path / "2", follows=True).stored == ()
    assert chains(new) == chains(source)
    # From here on it has a history of its own: after a build, or an import that does not follow.
    own = Layout(tmp_path / "own")
    take(own, first, follows=True)
    record_builds(own, Scenario(flight="own"))
    with pytest.raises(RequestRefusedError, match=r"goes its own way from there$") as caught:
        take(own, tmp_path / "2", follows=True)
    assert caught.value.hint == "c10 import FILE --cache DIR, with a new DIR"
    record_builds(source, Scenario(flight="f7"))
    done = take(new, export(source, tmp_path / "3").path)
    assert done.state.generations.keys() == {1, 2, 3}
    assert read_history(new).facts[-1].event.generations == (3,)
    record_builds(source, Scenario(flight="f8"))
    with pytest.raises(RequestRefusedError, match=r"goes its own way.* imported without --follow$") as caught:
        take(new, export(source, tmp_path / "4").path, follows=True)
    assert caught.value.kind == ErrorKind.OWN_HISTORY
    assert caught.value.hint.startswith("c10 import FILE --follow --cache DIR, with a new DIR")
    assert open_view(new).state.head.number == 3


def test_a_second_import_of_the_same_bundle_changes_nothing(new, file):
    take(new, file)
    before = chains(new)
    done = take(new, file)
    assert (done.outcome, done.stored) == (ImportOutcome.UNCHANGED, ())
    assert chains(new) == before


def test_an_import_replaces_missing_and_damaged_artifacts(new, file):
    take(new, file)
    index = open_view(new).state.head_build.index
    new.artifact(index.artifact.sha256).unlink()
    block = new.artifact(index.blocks.sha256)
    block.chmod(0o644)
    block.write_bytes(bytes(len(block.read_bytes())))
    done = take(new, file)
    assert (done.outcome, {ref.sha256 for ref in done.stored}) == (
        ImportOutcome.UNCHANGED,
        {index.artifact.sha256, index.blocks.sha256},
    )
    assert not whole(new)
    assert [path.name for path in new.quarantine.iterdir()] == [f"{index.blocks.sha256}.0"]


def test_another_cache_is_refused(new, file):
    record_builds(new, Scenario())
    before = chains(new)
    with pytest.raises(RequestRefusedError, match="another cache"):
        take(new, file)
    assert chains(new) == before


def test_an_empty_journal_is_refused(new, file, tmp_path):
    new.create()
    Journal.create(new.journal, [], scratch=new.scratch)
    with pytest.raises(RequestRefusedError):
        take(new, file)
    with pytest.raises(RequestRefusedError):
        export(new, tmp_path / "empty")


def test_a_mirror_is_no_place_for_an_import(source, new, file):
    mirror(source, new.root)
    with pytest.raises(RequestRefusedError) as caught:
        take(new, file)
    assert (caught.value.kind, "rebuild" in caught.value.hint) == (ErrorKind.MIRROR, False)


@pytest.mark.parametrize("there", ["a file", "strangers", "exposed"])
def test_folders_that_are_no_cache_are_refused(new, file, there):
    match there:
        case "a file":
            new.root.write_bytes(b"")
        case "strangers":
            new.root.mkdir()
            (new.root / "photos").mkdir()
        case "exposed":
            new.root.mkdir()
            new.root.chmod(0o777)
    with pytest.raises(CacheUnusableError) as caught:
        take(new, file)
    assert not new.journal.exists()
    # A mirror's DEST is refused by the same words.
    assert "--cache" not in caught.value.hint
    assert there != "strangers" or str(new.root / "c10") in caught.value.hint


# Whose word counts.


def test_signatures(source, new, file, tmp_path):
    with pytest.raises(NoGoError) as caught:
        take(new, file, trusted_keys=[BOB.public])
    assert caught.value.kind == ErrorKind.SIGNATURE
    with pytest.raises(NoGoError):
        take(new, file, trusted_keys=[b"short"])
    assert not new.root.exists()
    take(new, file, trusted_keys=[BOB.public, ALICE.public])
    unsigned = tmp_path / "unsigned"
    record_builds(Layout(unsigned), Scenario(fail_at="index"))
    for fail in (True, False):
        path = export(Layout(unsigned), tmp_path / f"unsigned {fail}").path
        with pytest.raises(NoGoError):
            take(Layout(tmp_path / "other"), path, trusted_keys=[ALICE.public])
        record_builds(Layout(unsigned), Scenario())
    take(Layout(tmp_path / "other"), path, trusted_keys=ALLOW_UNSIGNED)


# What is not whole.


@pytest.mark.parametrize("choice", [Choice.NONE, Choice.FAILING])
def test_a_bundle_for_forensics_is_no_cache(source, new, tmp_path, choice):
    path = export(source, tmp_path / "b", choice=choice).path
    with pytest.raises(NoGoError) as caught:
        take(new, path)
    assert caught.value.kind == ErrorKind.ARTIFACT_MISSING
    assert not new.journal.exists()
    assert not list(new.manifests.iterdir())
    # The folders that are left do not prevent the next import.
    take(new, export(source, tmp_path / "all").path)
    assert not whole(new)


def test_a_bundle_need_not_hold_artifacts_that_the_cache_has(source, new, tmp_path):
    take(new, export(source, tmp_path / "1").path, follows=True)
    record_builds(source, Scenario(flight="f9"), signer=ALICE)
    done = take(new, export(source, tmp_path / "records", choice=Choice.NONE).path, follows=True)
    assert (done.outcome, done.stored, done.state.head.number) == (ImportOutcome.ADVANCED, (), 3)
    assert not whole(new)


def test_a_damaged_bundle_leaves_no_journal(new, file, tmp_path):
    data = file.read_bytes()
    for at in (len(data) - 1, len(data) - 40, len(data) // 3, 60):
        path = tmp_path / "hostile"
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(BundleError, match=f"bundle {path}: .*expected .*, found"):
            take(new, path)
        path.write_bytes(data[:at])
        with pytest.raises(BundleError):
            take(new, path)
        assert not new.journal.exists()
    take(new, file)
    assert not whole(new)


# Hostile records: the chain is right, and so is the trailer.


def rewritten(file, target, change, *, more=()):
    """A bundle whose records were changed and chained again by an attacker."""
    found = read_bundle(file)
    chain, entries = GENESIS, []
    for entry in found.entries:
        raw = change(entry)
        chain = link(chain, raw)
        entries.append(Entry(seq=entry.seq, chain=chain, raw=raw))
    with open_bundle(file) as reader:
        list(reader.entries())
        artifacts = {ref.sha256: (ref, b"".join(reader.pieces(ref))) for ref in reader.artifacts()}
    artifacts |= {ref.sha256: (ref, data) for ref, data in more}
    ordered = [artifacts[digest] for digest in sorted(artifacts)]
    header = replace(
        found.header, chain=chain.hex(), artifacts=len(ordered), size=sum(ref.size for ref, _ in ordered)
    )
    parts = []
    write_bundle(parts.append, header, entries, [(ref, [data]) for ref, data in ordered])
    target.write_bytes(b"".join(parts))
    return target


def same(entry):
    return entry.raw


def test_the_rewriting_itself_changes_nothing(file, tmp_path):
    assert rewritten(file, tmp_path / "b", same).read_bytes() == file.read_bytes()


def on(tag, **changes):
    def change(entry):
        record = entry.record
        return encode(record._replace(payload=record.payload | changes)) if record.tag == tag else entry.raw

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (on("build.committed", manifest_sha256="0" * 64), DamagedHistoryError),
        (on("build.committed", generation=7), DamagedHistoryError),
        (on("build.committed", format=9), DamagedHistoryError),
        (on("index.built", rows=8), DamagedHistoryError),
        (on("index.built", rows="8"), DamagedHistoryError),
        (on("build.started", inputs={"models": 7}), DamagedHistoryError),
        (on("build.started", inputs=[]), DamagedHistoryError),
        (on("engine.compiled", signature={"attached": {"golden": "x"}}), DamagedHistoryError),
        (lambda entry: b"\xc0" if entry.seq == 5 else entry.raw, BundleError),
        (
            lambda entry: (
                encode(Record(tag="later", version=1, build=None, wall_ns=0, mono_ns=0, payload=None))
                if entry.seq == 9
                else entry.raw
            ),
            UnknownEventError,
        ),
    ],
)
def test_records_that_no_c10_wrote(file, new, tmp_path, change, error):
    with pytest.raises(error):
        take(new, rewritten(file, tmp_path / "b", change))
    assert not new.root.exists()


def test_a_rollback_without_its_commit(source, new, tmp_path):
    """A rollback and its commit are one transaction; a bundle may not end between."""
    from store.domain.maintenance_events import RolledBack
    from store.policy import rollback

    with open_writer(source) as store:
        store.roll_back(rollback.plan(store.state, to=None, why=""))
        play(store, Scenario(flight="f9"))
    entries = [
        entry
        for entry, fact in zip(read_history(source).entries, read_history(source).facts, strict=True)
        if fact.seq <= next(f.seq for f in read_history(source).facts if isinstance(f.event, RolledBack))
    ]
    header = BundleHeader(
        cache_id=open_view(source).state.cache_id,
        records=len(entries),
        chain=entries[-1].chain.hex(),
        choice=Choice.NONE,
        artifacts=0,
        size=0,
    )
    parts = []
    write_bundle(parts.append, header, entries, [])
    (tmp_path / "b").write_bytes(b"".join(parts))
    with pytest.raises(DamagedHistoryError, match="rollback"):
        take(new, tmp_path / "b")


def test_an_artifact_that_no_record_names(file, new, tmp_path):
    junk = b"seventy gigabytes of junk"
    with pytest.raises(BundleError, match="that its records name"):
        take(new, rewritten(file, tmp_path / "b", same, more=[(ref_of(junk), junk)]))
    assert not new.journal.exists()


def test_an_artifact_of_other_bytes(source, file, new, tmp_path):
    index = open_view(source).state.head_build.index.artifact
    wrong = bytes(index.size)
    with pytest.raises(BundleError, match="artifact") as caught:
        take(new, rewritten(file, tmp_path / "b", same, more=[(index, wrong)]))
    assert caught.value.message == (
        f"bundle {tmp_path / 'b'}: artifact {index.sha256[:12]}: expected SHA-256 {index.sha256[:12]}, found"
        f" {ref_of(wrong).sha256[:12]}"
    )
    assert caught.value.hint == "copy it again, or make it again: c10 export"
    assert not new.journal.exists()
    assert not new.artifact(index.sha256).exists()


# Cut short.


@pytest.mark.parametrize("where", ["artifacts", "journal", "projections"])
def test_a_killed_import_can_be_repeated(new, file, monkeypatch, where):
    def die(*_, **__):
        raise StopDeadError

    with monkeypatch.context() as patch:
        match where:
            case "artifacts":
                taken, count = Artifacts.take, iter(range(9))
                patch.setattr(Artifacts, "take", lambda *args: taken(*args) if next(count) < 4 else die())
            case "journal":
                patch.setattr(Journal, "create", die)
            case "projections":
                patch.setattr(Projections, "write", die)
        with pytest.raises(StopDeadError):
            take(new, file)
    done = take(new, file)
    assert done.outcome is (ImportOutcome.UNCHANGED if where == "projections" else ImportOutcome.IMPORTED)
    assert isinstance(read_history(new).facts[-1].event, Imported)
    assert sum(isinstance(fact.event, Imported) for fact in read_history(new).facts) == 1
    assert not whole(new)
    assert not list(new.scratch.iterdir())


def test_missing_space_is_reported_before_the_copy_begins(new, file, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError):
        take(new, file)
    assert not any(Artifacts(new).names())


def test_an_unknown_file_system_is_refused_before_the_copy(new, file, monkeypatch):
    monkeypatch.setattr(layout_module, "filesystem_type", lambda _: 0x4D44)
    with pytest.raises(JournalFilesystemError):
        take(new, file)
    assert not new.root.exists()


def test_all_records_are_imported_in_one_transaction(new, file):
    done = take(new, file)
    event = read_history(new).facts[-1].event
    assert to_record(event, build=None, wall_ns=0, mono_ns=0).payload["artifacts"] == len(done.stored)
    assert [fact.seq for fact in read_history(new).facts if isinstance(fact.event, BuildCommitted)][
        -1
    ] <= done.header.records
