"""Bundles: what is written, what is read, and how hostile files are refused."""

import hashlib
import os
import random
import shutil
import struct

import pytest

from journal.record import EMPTY, GENESIS, MAX_RECORD_BYTES, Entry, Record, encode, link
from store.cache.event_mapper import to_record
from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import BuildFailed, BuildStarted, EngineCompiled
from store.domain.maintenance_events import GenerationAccepted, Imported
from store.errors import (
    BundleError,
    DamagedHistoryError,
    ErrorKind,
    RequestRefusedError,
    UnknownEventError,
)
from store.maintenance.collect_garbage import collect
from store.policy.retention import KeepPolicy
from store.testing import FakeClock
from store.transfer import export as export_module
from store.transfer.bundle import read_bundle
from store.transfer.bundle_format import MAGIC, MAX_HEADER, BundleHeader, Choice, write_bundle
from store.transfer.bundle_reader import open_bundle
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.selection import artifacts_named, artifacts_of_failing_step, digests_collected
from tests.damaging import replace_by
from tests.played_builds import Scenario, make, play, ref_of
from tests.store_caches import open_writer, record_builds

OTHER = {(0, 0): "a", (1, 0): "b2", (20, 3): "c"}
TILE = b"the tile that nobody could decode"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Builds 1 and 3 are generations 1 and 2; 2 and 4 failed, 4 with the tile it failed on. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("pristine") / "cache")
    with open_writer(layout) as store:
        play(store, Scenario())
        play(store, Scenario(flight="f2", tiles=OTHER, fail_at="index"))
        play(store, Scenario(flight="f2", tiles=OTHER))
        tile = store.artifacts.put(TILE)
        attached = {"tile": {"sha256": tile.sha256, "size": tile.size}}
        store.append(make(BuildStarted, identity="4" * 64, inputs={"models": []}), build=4)
        failed = make(BuildFailed, step="cells", subject="6/1/0", inputs={"attached": attached})
        store.append(failed, build=4)
    return layout


@pytest.fixture
def layout(pristine, tmp_path):
    shutil.copytree(pristine.root, tmp_path / "cache", symlinks=True)
    return Layout(tmp_path / "cache")


@pytest.fixture
def file(layout, tmp_path):
    """A whole bundle."""
    return export(layout, tmp_path / "all.bundle").path


def pass_through(path):
    """Read a bundle from beginning to end, and return its artifacts."""
    with open_bundle(path) as reader:
        list(reader.entries())
        found = {ref.sha256: b"".join(reader.pieces(ref)) for ref in reader.artifacts()}
        reader.finish()
    return found


def sealed(body):
    """Return the bytes of a file with a correct trailer."""
    return body + hashlib.sha256(body).digest()


def test_a_bundle_holds_the_records_and_the_artifacts(layout, file):
    found, view = read_bundle(file), read_history(layout)
    assert found.entries == view.entries
    assert found.head == view.head
    assert found.header == BundleHeader(
        cache_id=view.state.cache_id,
        records=len(view.entries),
        chain=view.head.chain.hex(),
        choice=Choice.ALL,
        artifacts=len(pass_through(file)),
        size=sum(map(len, pass_through(file).values())),
    )
    artifacts = Artifacts(layout)
    for digest, ref in artifacts_named(view.facts).items():
        assert found.holds(ref), digest
        assert found.read(ref) == artifacts.read(ref)
    assert not found.holds(ref_of(b"nothing of this cache"))
    assert found.read(ref_of(b"nothing of this cache")) is None


def test_the_same_cache_gives_the_same_bytes(layout, file, tmp_path):
    data = file.read_bytes()
    assert export(layout, tmp_path / "again").path.read_bytes() == data
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    copy = Layout(tmp_path / "copy")
    import_bundle(copy, file, clock=FakeClock(), host={}, follows=True)
    exported = export(copy, tmp_path / "from the copy")
    assert exported.path.read_bytes() == data
    assert (exported.file.sha256, exported.file.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_export_writes_nothing_to_the_cache(layout, tmp_path):
    def tree():
        return {
            path: (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in layout.root.rglob("*")
            if path != layout.journal.with_name("journal.mdb-lock")
        }

    open_view(layout)
    before = tree()
    export(layout, tmp_path / "b")
    assert tree() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o444), (0o077, 0o400)])
def test_a_bundle_is_as_private_as_the_umask_wants(layout, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = export(layout, tmp_path / "bundle").path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("build", "records", "choice"), [(1, 13, "all"), (2, 19, "failing"), (4, 33, "failing")]
)
def test_a_bundle_for_a_build_ends_with_it(layout, tmp_path, build, records, choice):
    header = export(layout, tmp_path / "b", build=build).header
    entries = read_bundle(tmp_path / "b").entries
    facts = read_history(layout).facts
    assert (header.build, str(header.choice)) == (build, choice)
    assert header.records == len(entries)
    assert facts[header.records - 1].build == build
    assert all(fact.build != build for fact in facts[header.records :] if build != 1)
    # Later builds change nothing.
    record_builds(layout, Scenario(flight="f9"))
    assert export(layout, tmp_path / "later", build=build).path.read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failing_step_comes_with_its_inputs(layout, tmp_path):
    view = read_history(layout)
    found = read_bundle(export(layout, tmp_path / "four", build=4).path)
    assert found.read(ref_of(TILE)) == TILE
    # It is compared with the last good build.
    assert found.holds(view.state.builds[3].tiles.table)
    assert not found.holds(view.state.builds[3].index.artifact)
    # The second build failed at its index: it needs the blocks of the index, and no engine.
    two = read_bundle(export(layout, tmp_path / "two", build=2).path)
    assert {
        event.block.sha256
        for name in view.state.step_cache.blocks
        for event in view.state.step_cache.blocks_of(name)
    } <= {ref.sha256 for ref in artifacts_of_failing_step(view.state, 2, view.facts).values()}
    assert two.holds(view.state.builds[2].tiles.table)
    assert len(pass_through(tmp_path / "two")) < len(artifacts_named(view.facts))


def test_a_bundle_of_records_alone(layout, tmp_path):
    found = read_bundle(export(layout, tmp_path / "b", choice=Choice.NONE).path)
    assert (found.header.artifacts, found.entries) == (0, read_history(layout).entries)
    newest = read_bundle(export(layout, tmp_path / "c", choice=Choice.FAILING).path)
    assert newest.header.build is None
    assert newest.holds(ref_of(TILE))


def test_events_of_a_newer_version_are_exported_but_not_all_artifacts(layout, tmp_path):
    from journal import Journal

    with Journal.open(layout.journal) as journal:
        journal.append([Record(tag="from.later", version=1, build=None, wall_ns=0, mono_ns=0, payload={})])
    with pytest.raises(UnknownEventError):
        export(layout, tmp_path / "b")
    assert (
        read_bundle(export(layout, tmp_path / "b", choice=Choice.NONE).path).entries[-1].record.tag
        == "from.later"
    )
    export(layout, tmp_path / "c", build=4)


@pytest.mark.parametrize("how", ["missing", "shorter", "flipped"])
def test_damaged_artifacts_are_left_out_and_reported(layout, tmp_path, how):
    index = open_view(layout).state.head_build.index.artifact
    replace_by(layout.artifact(index.sha256), how)
    exported = export(layout, tmp_path / "b")
    assert exported.missing == (index.sha256,)
    assert not read_bundle(exported.path).holds(index)
    assert pass_through(exported.path)


def test_collected_artifacts_are_not_missing(layout, tmp_path):
    with open_writer(layout, exclusive_within_s=1.0) as store:
        play(store, Scenario(flight="f5", engine="e5", tiles={(0, 0): "x"}))
        done = collect(store, KeepPolicy(keep=1, unfinished=False))
    assert done.done
    gone = digests_collected(read_history(layout).facts)
    assert gone
    exported = export(layout, tmp_path / "b")
    assert exported.missing == ()
    assert gone.isdisjoint(pass_through(exported.path))
    with pytest.raises(RequestRefusedError) as caught:
        export(layout, tmp_path / "c", build=1)
    assert caught.value.kind == ErrorKind.COLLECTED
    export(layout, tmp_path / "c", build=1, choice=Choice.NONE)


def test_taken_file_names_are_refused(layout, file, tmp_path):
    before = file.read_bytes()
    for target in (file, layout.root / "b", tmp_path / "no folder" / "b", layout.artifacts / "b"):
        with pytest.raises(RequestRefusedError):
            export(layout, target)
    assert file.read_bytes() == before
    for build in (5, 99):
        with pytest.raises(RequestRefusedError):
            export(layout, tmp_path / "b", build=build)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("nameless", [True, False])
def test_a_full_disk_leaves_nothing(layout, tmp_path, monkeypatch, nameless):
    real = os.open

    def without(path, flags, *args, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE and not nameless:
            raise OSError(95, "not supported")
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", without)
    whole = export(layout, tmp_path / "whole").path
    assert pass_through(whole)
    write, count = os.write, iter(range(100))

    def full(fd, data):
        if next(count) > 3:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Exception, match="no space left"):
        export(layout, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_cache_that_lost_its_newest_records_is_not_exported_with_all_artifacts(layout, tmp_path):
    """It would silently bring an older head to another machine."""
    shorter = Layout(tmp_path / "shorter")
    import_bundle(
        shorter, export(layout, tmp_path / "1", build=1).path, clock=FakeClock(), host={}, follows=True
    )
    shutil.copy(shorter.journal, layout.journal)
    with pytest.raises(DamagedHistoryError):
        export(layout, tmp_path / "b")
    export(layout, tmp_path / "b", choice=Choice.NONE)


# Hostile files.


def test_every_cut_and_every_flip_is_refused(file, tmp_path):
    data, path, dice = file.read_bytes(), tmp_path / "hostile", random.Random(3)
    cuts = {*range(500), *dice.sample(range(len(data)), 150), *range(len(data) - 60, len(data))}
    flips = {*range(500), *dice.sample(range(len(data)), 400), *range(len(data) - 40, len(data))}
    hostile = [data[:cut] for cut in cuts]
    hostile += [data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :] for at in flips]
    hostile += [data + b"\0", data + data, data[:-32], data[:-32] + bytes(32), b"", os.urandom(5000)]
    for bad in hostile:
        path.write_bytes(bad)
        with pytest.raises(BundleError):
            pass_through(path)


def test_random_access_to_a_flipped_bundle_returns_right_bytes_or_nothing(layout, file, tmp_path):
    data, path, dice = file.read_bytes(), tmp_path / "hostile", random.Random(4)
    right, refs = read_bundle(file), artifacts_named(read_history(layout).facts)
    refused = 0
    for at in dice.sample(range(len(data)), 300):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        try:
            found = read_bundle(path)
        except BundleError:
            refused += 1
            continue
        assert found.entries == right.entries
        for ref in refs.values():
            assert found.read(ref) in {None, right.read(ref)}
    assert refused > 100


HEADER = BundleHeader(cache_id="c", records=1, chain="0" * 64, choice=Choice.NONE, artifacts=0, size=0)


def genesis(**fields):
    values = {"tag": "cache.created", "version": 1, "build": None, "wall_ns": 0, "mono_ns": 0}
    payload = {"cache_id": "c", "format": 1, "writer": "c10"}
    return encode(Record(**(values | {"payload": payload} | fields)))


def entries_of(*raws):
    seq, chain, found = 0, GENESIS, []
    for raw in raws:
        seq, chain = seq + 1, link(chain, raw)
        found.append(Entry(seq=seq, chain=chain, raw=raw))
    return found


def made_of(*, raws=None, artifacts=(), **header):
    """A file by the real writer, with content that no cache has."""
    entries = entries_of(*(raws or [genesis()]))
    parts: list[bytes] = []
    told = {
        "cache_id": "c",
        "records": len(entries),
        "chain": (entries[-1].chain if entries else EMPTY.chain).hex(),
        "choice": Choice.ALL,
        "artifacts": len(artifacts),
        "size": sum(ref.size for ref, _ in artifacts),
    } | header
    write_bundle(parts.append, BundleHeader(**told), entries, [(ref, [data]) for ref, data in artifacts])
    return b"".join(parts)


def carried(*contents, ordered=True):
    found = [(ref_of(data), data) for data in contents]
    return sorted(found, key=lambda item: item[0].sha256, reverse=not ordered)


def test_the_smallest_bundle(tmp_path):
    path = tmp_path / "b"
    path.write_bytes(made_of(artifacts=carried(b"one", b"two", b"")))
    assert sorted(pass_through(path).values()) == [b"", b"one", b"two"]


HOSTILE = {
    "more records than there are": made_of(records=2),
    "more records than anybody has": made_of(records=1 << 61),
    "fewer records": made_of(records=1, raws=[genesis(), genesis(tag="other")]),
    "bytes of artifacts that are not there": made_of(size=3),
    "another number of artifacts": made_of(artifacts=carried(b"one", b"two")).replace(
        b'"count":2', b'"count":3'
    ),
    "another number of bytes": made_of(artifacts=carried(b"one"), size=4),
    "another chain": made_of(chain="1" * 64),
    "no chain": made_of(chain="1" * 63),
    "another cache": made_of(cache_id="d"),
    "no genesis": made_of(raws=[genesis(tag="build.started")]),
    "a genesis that is no map": made_of(raws=[genesis(payload=[1])]),
    "a record that is none": made_of(raws=[b"\xc1"]),
    "the wrong order": made_of(artifacts=carried(b"one", b"two", ordered=False)),
    "one artifact twice": made_of(artifacts=[*carried(b"one"), *carried(b"one")]),
    "a negative build": made_of(build=-1),
    "build nought": made_of(build=0),
    "a build that is none": made_of(build="1"),
    "true as a number": made_of(records=True),
    "an unknown choice": made_of(choice="some"),
    "a list for a chain": made_of(chain=["0"]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_bundle_that_contradicts_itself_is_refused(tmp_path, what):
    path = tmp_path / "b"
    path.write_bytes(sealed(HOSTILE[what][:-32]))
    with pytest.raises(BundleError):
        read_bundle(path)
    with pytest.raises(BundleError):
        pass_through(path)


def head_of(document):
    return MAGIC + struct.pack(">I", len(document)) + document


@pytest.mark.parametrize(
    "body",
    [
        b"",
        MAGIC,
        MAGIC + b"\0\0\0",
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + struct.pack(">I", MAX_HEADER + 1) + bytes(MAX_HEADER + 1),
        head_of(b""),
        head_of(b"{}"),
        head_of(b"[" * 4000),
        head_of(b'{"format":1}'),
        head_of(b"\xff\xfe"),
        head_of(HEADER.encode().replace(b'"format":1', b'"format":1.0')),
        head_of(HEADER.encode().replace(b'"format":1', b'"format":true')),
        head_of(HEADER.encode().replace(b'"build":null', b'"build": null')),
        head_of(HEADER.encode().replace(b'"cache_id":"c"', b'"cache_id":7')),
        head_of(HEADER.encode()),
        head_of(HEADER.encode()) + struct.pack(">I", 0),
        head_of(HEADER.encode()) + struct.pack(">I", 32) + bytes(32),
        head_of(HEADER.encode()) + struct.pack(">I", 33) + bytes(33),
        head_of(HEADER.encode()) + struct.pack(">I", MAX_RECORD_BYTES + 33) + bytes(MAX_RECORD_BYTES + 33),
        head_of(HEADER.encode()) + struct.pack(">I", 0xFFFFFFFF) + bytes(100),
        made_of()[:-32] + b"more",
        made_of(artifacts=carried(b"one"))[:-32].replace(
            struct.pack(">Q", 3), struct.pack(">Q", (1 << 64) - 1)
        ),
        made_of(artifacts=carried(b"one"))[:-32].replace(struct.pack(">Q", 3), struct.pack(">Q", 2)),
    ],
)
def test_wrong_lengths_and_header_forms_are_refused(tmp_path, body):
    path = tmp_path / "b"
    path.write_bytes(sealed(body))
    for look_at in (read_bundle, pass_through):
        with pytest.raises(BundleError):
            look_at(path)


def test_a_newer_format_says_so(tmp_path):
    path = tmp_path / "b"
    path.write_bytes(sealed(b"C10BNDL\x02" + made_of()[8:-32]))
    with pytest.raises(BundleError, match="format 1, found 2") as caught:
        read_bundle(path)
    assert "newer" in caught.value.hint


def test_a_path_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "folder", "loop", "nothing", "x" * 300):
        with pytest.raises(RequestRefusedError) as error:
            read_bundle(tmp_path / name)
        assert error.value.kind is ErrorKind.FILE_SYSTEM
    (tmp_path / "b").write_bytes(made_of())
    (tmp_path / "link").symlink_to("b")
    assert read_bundle(tmp_path / "link").header.records == 1


def test_a_bundle_that_changes_while_it_is_read(tmp_path):
    path, (ref, data) = tmp_path / "b", carried(b"one")[0]
    path.write_bytes(made_of(artifacts=[(ref, data)]))
    found = read_bundle(path)
    assert found.read(ref) == data
    path.write_bytes(b"short")
    assert found.read(ref) is None
    path.unlink()
    assert found.read(ref) is None


def test_events_name_every_stored_artifact(layout):
    named = artifacts_named(read_history(layout).facts)
    assert {digest for digest, _ in Artifacts(layout).names()} == set(named)


def test_a_bundle_is_no_artifact_of_the_cache():
    facts = [
        fact_of(make(Imported, bundle=ref_of(b"a bundle"))),
        fact_of(make(GenerationAccepted)),
        fact_of(make(EngineCompiled, artifact=ref_of(b"an engine"))),
    ]
    assert set(artifacts_named(facts)) == {ref_of(b"an engine").sha256}


def fact_of(event):
    from store.cache.event_mapper import to_recorded_event

    raw = encode(to_record(event, build=None, wall_ns=0, mono_ns=0))
    return to_recorded_event(Entry(seq=1, chain=link(GENESIS, raw), raw=raw))


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_collection_during_an_export_is_noticed(layout, tmp_path, monkeypatch, when):
    """Artifacts collected after the records were read are not missing."""
    reads, copies = export_module.read_history, export_module.write_bundle
    calls = []

    def collected():
        if not calls:
            calls.append(when)
            with open_writer(layout, exclusive_within_s=1.0) as store:
                play(store, Scenario(flight="f5", engine="e5", tiles={(0, 0): "x"}))
                assert collect(store, KeepPolicy(keep=1, unfinished=False)).done

    def read_then_collect(*args, **options):
        found = reads(*args, **options)
        collected()
        return found

    def collect_then_copy(*args):
        collected()
        return copies(*args)

    if when == "before":
        monkeypatch.setattr(export_module, "read_history", read_then_collect)
    else:
        monkeypatch.setattr(export_module, "write_bundle", collect_then_copy)
    exported = export(layout, tmp_path / "b")
    assert (exported.missing, exported.header.records) == ((), read_history(layout).head.seq)
    assert pass_through(exported.path)
