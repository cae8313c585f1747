"""What a cache has: the line that says so, how it is read, and what an export leaves out because of it."""

import io
import json
import shutil
from dataclasses import replace

import pytest

from journal import Journal
from store.base import canonical_json
from store.cache.view import read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.errors import ArtifactError, ErrorKind, NoGoError, RequestRefusedError
from store.maintenance.collect_garbage import collect
from store.policy.retention import KeepPolicy
from store.testing import FakeClock
from store.transfer.bundle_history import ImportOutcome
from store.transfer.bundle_reader import read_stream
from store.transfer.export import export
from store.transfer.have import Have, artifacts_held, find_have, read_have
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from tests.damaging import flip
from tests.played_builds import Scenario, play
from tests.store_caches import open_writer

OTHER = {(0, 0): "a", (1, 0): "b2", (20, 3): "c"}
NOTHING = Have(cache_id=None, records=0, chain=None, lacks=frozenset(), extra={})


@pytest.fixture
def source(tmp_path):
    layout = Layout(tmp_path / "source")
    with open_writer(layout) as store:
        play(store, Scenario())
    return layout


@pytest.fixture
def copy(tmp_path):
    return Layout(tmp_path / "copy")


def build_more(source):
    with open_writer(source) as store:
        play(store, Scenario(flight="f2", tiles=OTHER))


def sent(source, have=None, **options):
    """Return the stream that an export for a copy writes, and what it says of it."""
    parts = []
    return export(source, parts.append, have=have, **options), b"".join(parts)


def take(copy, data, **options):
    options = {"clock": FakeClock(), "host": {}, "follows": True} | options
    return import_bundle(copy, read_stream(io.BytesIO(data), "standard input"), **options)


def over_the_line(have):
    return read_have(io.BytesIO(have.encode()), "standard input")


def chains(layout):
    return [entry.chain for entry in read_history(layout).entries]


def files(layout):
    return {digest for digest, _ in Artifacts(layout).names()}


def test_the_line_says_where_a_copy_stands_in_the_records(source, copy):
    assert find_have(copy) == NOTHING
    assert NOTHING.encode() == (
        b'{"cache_id":null,"chain":null,"extra":{},"format":1,"lacks":[],"records":0}\n'
    )
    assert not copy.root.exists()
    view = read_history(source)
    have = find_have(source)
    assert (have.cache_id, have.records) == (view.state.cache_id, len(view.entries))
    assert have.chain == view.entries[-1].chain.hex()
    assert (have.lacks, have.extra) == (frozenset(), {})
    assert len(have.encode()) < 250
    assert over_the_line(have) == have


def test_a_copy_is_sent_what_it_lacks_and_no_more(source, copy):
    done, data = sent(source, over_the_line(find_have(copy)))
    assert (done.path, done.held, done.file.size) == (None, 0, len(data))
    assert take(copy, data).outcome is ImportOutcome.IMPORTED
    before = files(source)
    build_more(source)
    done, data = sent(source, over_the_line(find_have(copy)))
    new = files(source) - before
    assert done.header.artifacts == len(new) > 0
    assert done.held == len(before)
    assert {ref.sha256 for ref in take(copy, data).stored} == new
    assert (chains(copy), files(copy)) == (chains(source), files(source))
    done, data = sent(source, over_the_line(find_have(copy)))
    assert (done.header.artifacts, done.missing) == (0, ())
    assert take(copy, data).outcome is ImportOutcome.UNCHANGED


def test_what_an_import_left_that_was_killed_is_not_sent_again(source, copy):
    copy.create()
    kept = sorted(files(source))[:3]
    for digest in kept:
        data = source.artifact(digest).read_bytes()
        Artifacts(copy).put(data)
    have = over_the_line(find_have(copy))
    assert (have.records, sorted(have.extra)) == (0, kept)
    done, data = sent(source, have)
    assert done.held == 3
    assert len(take(copy, data).stored) == done.header.artifacts == len(files(source)) - 3
    assert files(copy) == files(source)


def test_an_artifact_that_a_copy_lost_or_holds_damaged_is_sent_again(source, copy):
    take(copy, sent(source)[1])
    engine, index, *_ = (ref.sha256 for ref in find_artifacts(source))
    copy.artifact(engine).unlink()
    flip(copy.artifact(index), -1)
    assert find_have(copy).lacks == {engine}
    have = over_the_line(find_have(copy, full=True))
    assert have.lacks == {engine, index}
    done, data = sent(source, have)
    assert done.header.artifacts == 2
    assert {ref.sha256 for ref in take(copy, data).stored} == {engine, index}
    assert not find_have(copy, full=True).lacks


def find_artifacts(layout):
    build = read_history(layout).state.head_build
    return [build.engines[0][1].artifact, build.index.artifact]


def test_what_was_collected_is_neither_lacking_nor_sent(source, copy):
    with open_writer(source) as store:
        for number in (5, 6):
            play(store, Scenario(flight=f"f{number}", engine=f"e{number}", tiles={(0, 0): f"x{number}"}))
    take(copy, sent(source)[1])
    with open_writer(source, exclusive_within_s=1.0) as store:
        assert collect(store, KeepPolicy(keep=1, unfinished=False)).done
    gone = files(copy) - files(source)
    assert gone
    done, data = sent(source, over_the_line(find_have(copy)))
    assert done.header.artifacts == 0
    take(copy, data)
    # The copy keeps them, and says so of files that its records say are gone.
    have = over_the_line(find_have(copy))
    assert (have.lacks, have.extra.keys()) == (frozenset(), gone)
    # The source makes the same again.
    with open_writer(source) as store:
        play(store, Scenario())
    made = gone & files(source)
    assert made
    assert not made & carried(sent(source, have)[1])
    for digest in made:
        copy.artifact(digest).unlink()
    _, data = sent(source, over_the_line(find_have(copy)))
    assert made <= carried(data)
    take(copy, data)
    assert files(source) <= files(copy)


def carried(data):
    reader = read_stream(io.BytesIO(data), "x")
    list(reader.entries())
    return {ref.sha256 for ref in reader.artifacts()}


@pytest.mark.parametrize("lie", ["all", "one", "more"])
def test_a_copy_that_says_more_than_is_true_is_refused_and_shows_what_it_showed(source, copy, lie):
    take(copy, sent(source)[1])
    before = chains(copy)
    build_more(source)
    new = {digest: source.artifact(digest).stat().st_size for digest in files(source) - files(copy)}
    engine = next(ref.sha256 for ref in find_artifacts(source) if ref.sha256 in new)
    extra = {"all": new, "one": {engine: new[engine]}, "more": {**new, "ab" * 32: 7}}[lie]
    _, data = sent(source, replace(find_have(copy), extra=extra))
    with pytest.raises(NoGoError) as caught:
        take(copy, data)
    assert caught.value.kind is ErrorKind.ARTIFACT_MISSING
    assert engine[:12] in caught.value.message
    assert "c10 have --full" in caught.value.hint
    assert chains(copy) == before
    take(copy, sent(source, over_the_line(find_have(copy)))[1])
    assert chains(copy) == chains(source)


def test_a_copy_whose_folder_was_emptied_since_it_spoke_is_refused(source, copy):
    take(copy, sent(source)[1])
    stale = over_the_line(find_have(copy))
    build_more(source)
    shutil.rmtree(copy.root)
    with pytest.raises(NoGoError) as caught:
        take(copy, sent(source, stale)[1])
    assert caught.value.kind is ErrorKind.ARTIFACT_MISSING
    assert not copy.exists()


def test_of_a_size_that_is_another_nothing_is_left_out(source, copy):
    extra = {digest: source.artifact(digest).stat().st_size + 1 for digest in files(source)}
    assert sent(source, replace(NOTHING, extra=extra))[0].held == 0


def refused(source, have):
    with pytest.raises(RequestRefusedError) as caught:
        sent(source, have)
    return caught.value


def test_who_has_other_records_is_told_so_before_anything_is_sent(source, copy, tmp_path):
    take(copy, sent(source)[1])
    have = find_have(copy)
    other = Layout(tmp_path / "other")
    with open_writer(other) as store:
        play(store, Scenario())
    error = refused(other, have)
    assert (error.kind, have.cache_id in error.message) == (ErrorKind.OWN_HISTORY, True)
    with open_writer(copy) as store:
        play(store, Scenario(flight="its own"))
    error = refused(source, find_have(copy))
    assert (error.kind, "if it is ahead" in error.hint) == (ErrorKind.OWN_HISTORY, True)
    build_more(source)
    build_more(source)
    error = refused(source, find_have(copy))
    assert (error.kind, "--follow" in error.hint) == (ErrorKind.OWN_HISTORY, True)


def test_a_mirror_takes_no_bundle(source, tmp_path):
    mirror(source, tmp_path / "card")
    with pytest.raises(RequestRefusedError) as caught:
        find_have(Layout(tmp_path / "card"))
    assert caught.value.kind is ErrorKind.MIRROR


def test_more_than_a_bundle_holds_is_not_listed(source, monkeypatch):
    monkeypatch.setattr("store.transfer.have.MAX_ARTIFACTS", 1)
    source.journal.unlink()
    for name in ("manifests", "segments"):
        shutil.rmtree(source.root / name)
    with pytest.raises(RequestRefusedError, match="at most 1 artifacts"):
        find_have(source)


def test_a_stream_ends_before_its_trailer_if_an_artifact_is_damaged(source, copy):
    flip(source.artifact(find_artifacts(source)[0].sha256), 0)
    parts = []
    with pytest.raises(ArtifactError) as caught:
        export(source, parts.append)
    assert "cut short" in caught.value.message
    assert "c10 repair" in caught.value.hint
    with pytest.raises(Exception, match="found"):
        take(copy, b"".join(parts))
    assert not copy.exists()


def test_a_cache_without_records_has_none(copy):
    copy.create()
    Journal.create(copy.journal, [], scratch=copy.scratch)
    assert find_have(copy) == NOTHING


WHOLE = Have(cache_id="c1", records=7, chain="1" * 64, lacks=frozenset({"a" * 64}), extra={"b" * 64: 9})


def changed(**keys):
    return canonical_json.encode(json.loads(WHOLE.encode()) | keys) + b"\n"


WRONG = {
    "nothing": b"",
    "a newline": b"\n",
    "other text": b"Permission denied (publickey).\n",
    "a greeting before it": b"Welcome to drone 7\n" + WHOLE.encode(),
    "a line after it": WHOLE.encode() + WHOLE.encode(),
    "no newline": WHOLE.encode()[:-1],
    "white space": WHOLE.encode().replace(b",", b", "),
    "bytes that are no text": b"\xff\xfe" * 40,
    "depth": b"[" * 100_000,
    "another order": b'{"records":0,"cache_id":null,"chain":null,"extra":{},"format":1,"lacks":[]}\n',
    "a newer format": changed(format=2),
    "a format that equals 1": changed(format=True),
    "one key more": changed(more=1),
    "no such key": canonical_json.encode({"format": 1}) + b"\n",
    "a list": b"[]\n",
    "a fraction": changed().replace(b":7", b":7.0"),
    "no records with a chain": changed(records=0),
    "records without a chain": changed(chain=None),
    "records without a cache": changed(cache_id=None),
    "a chain of nothing": NOTHING.encode().replace(b'"chain":null', b'"chain":"x"'),
    "records below zero": changed(records=-1),
    "records beyond counting": changed(records=1 << 63),
    "a number of 5000 digits": changed().replace(b":7", b":" + b"9" * 5000),
    "a flag as records": changed(records=True),
    "a chain that is no digest": changed(chain="A" * 64),
    "a digest that leads elsewhere": changed(lacks=["../" * 20 + "etc/"]),
    "a digest twice": changed(lacks=["a" * 64, "a" * 64]),
    "digests in another order": changed(lacks=["b" * 64, "a" * 64]),
    "a list among digests": changed(lacks=[["a" * 64]]),
    "a short digest": changed(extra={"b" * 63: 9}),
    "a size below zero": changed(extra={"b" * 64: -1}),
    "a size as text": changed(extra={"b" * 64: "9"}),
    "a flag as size": changed(extra={"b" * 64: True}),
}


def test_the_line_is_read_as_it_was_written():
    assert read_have(io.BytesIO(WHOLE.encode()), "x") == WHOLE
    assert read_have(io.BytesIO(NOTHING.encode()), "x") == NOTHING


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused(data):
    with pytest.raises(RequestRefusedError) as caught:
        read_have(io.BytesIO(data), "standard input")
    assert caught.value.kind is ErrorKind.BUNDLE
    assert caught.value.message.startswith(
        "standard input: expected the one line that c10 have prints, found "
    )
    assert len(caught.value.message) < 300
    assert "c10 have" in caught.value.hint


def test_a_line_that_is_cut_short_is_refused():
    line = WHOLE.encode()
    for end in range(len(line)):
        with pytest.raises(RequestRefusedError):
            read_have(io.BytesIO(line[:end]), "x")


def test_no_more_is_read_than_a_line_may_have(monkeypatch):
    monkeypatch.setattr("store.transfer.have._MAX_BYTES", 20)
    file = io.BytesIO(WHOLE.encode())
    with pytest.raises(RequestRefusedError, match="more than 20 bytes"):
        read_have(file, "x")
    assert file.tell() == 21


def test_30000_artifacts_make_a_line_of_2_mib_that_is_read_in_a_second():
    extra = {canonical_json.sha256(b"%d" % number): number for number in range(30_000)}
    have = replace(NOTHING, extra=extra)
    assert len(have.encode()) < 75 * 30_000
    assert artifacts_held(over_the_line(have), "c", (), ()) == extra
