"""Caches of format 1 are read, folded, projected and rebuilt as they were when they were written."""

import importlib.util
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from journal import Journal
from journal.record import decode
from store.cache import segment
from store.cache.event_mapper import to_recorded_events
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain import event_codec
from store.domain.fold import fold
from store.domain.manifest_projection import project
from store.maintenance.rebuild_journal import rebuild
from store.manifest.manifest import parse
from store.testing import FakeClock
from tests.played_builds import Scenario, play

HERE = Path(__file__).parent
FOLDER = HERE / "store_v1"
SEGMENTS = sorted((FOLDER / "segments").iterdir())
LATER = {
    "build.denied": "96ac6275696c642e64656e69656401c0010285a6686f6c64657284a56275696c6403a4686f7374a667726f756e"
    "64a370696411a573696e6365c0a4686f737481a46e616d65a6676f6c64656ea86964656e74697479d940616261"
    "626162616261626162616261626162616261626162616261626162616261626162616261626162616261626162"
    "61626162616261626162616261626162a6696e7075747382a9666c696768745f6964a26631a6736f75726365a9"
    "612e706d74696c6573a97761697465645f6d73cd1388",
    "index.extended": "96ae696e6465782e657874656e646564010201028ca5616464656405a8617274696661637482a6736861323536d94034"
    "663461393431306666636466383935633461646238383036353965396235633064643166323361333037393036383433"
    "343062336561616362303435333938a473697a6505a46261736582a6736861323536d940356435373636636632643738"
    "373031363134323030343138656531343530363930643961663132633834643532353435653438303266303031616435"
    "33303939a473697a6505a6626c6f636b7382a6736861323536d940306434666334613738643337303665646363616662"
    "36363561386232666464393330396538326337383632356262306632623865376262396531633464323163a473697a65"
    "05aa636f6d706f6e656e747382a462617365d94064646464646464646464646464646464646464646464646464646464"
    "646464646464646464646464646464646464646464646464646464646464646464646464a57370616365d94065656565"
    "656565656565656565656565656565656565656565656565656565656565656565656565656565656565656565656565"
    "656565656565656565656565aa64696d656e73696f6e7304a764726f7070656402aa656c61707365645f6d7307a36b65"
    "79d940636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363"
    "63636363636363636363636363636363636363a46b696e64a4686e7377a66d6574726963a26970a4726f777367",
    "tiles.packed": "96ac74696c65732e7061636b65640103050786a663656c6c5f78cd21fca663656c6c5f79cd15e0a36b6579d94063646"
    "36463646364636463646364636463646364636463646364636463646364636463646364636463646364636463646364"
    "6364636463646364636463646364a47061636b82a6736861323536d9406162616261626162616261626162616261626"
    "1626162616261626162616261626162616261626162616261626162616261626162616261626162616261626162a473"
    "697a65cd03e8a574696c6573cd0100a47a6f6f6d12",
    "tiles.carried": "96ad74696c65732e636172726965640103050783a473697a65ce80000000a57461626c6582a6736861323536d940616"
    "26162616261626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
    "626162616261626162616261626162a473697a65cd03e8a574696c6573cdea60",
}
"""Records of kinds of events that came after the files were written."""


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("make_store_v1", HERE / "make_store_v1.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def meaning():
    return json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "cache")
    layout.create()
    for kind in ("segments", "manifests"):
        for path in (FOLDER / kind).iterdir():
            shutil.copyfile(path, layout.root / kind / path.name)
    return layout


def entries():
    return [entry for path in SEGMENTS for entry in segment.decode(path.read_bytes()).entries]


def plain(value):
    return json.loads(json.dumps(value))


def test_segments_join_and_fold(generator, meaning):
    state = fold(to_recorded_events(entries()))
    assert plain(generator.expected(state, FOLDER)) == meaning
    decoded = [segment.decode(path.read_bytes()) for path in SEGMENTS]
    assert [found.generation for found in decoded] == list(range(1, len(decoded) + 1))
    for earlier, later in pairwise(decoded):
        assert later.before == earlier.entries[-1].head


def test_every_generation_projects_to_its_bytes():
    state = fold(to_recorded_events(entries()))
    for number, generation in state.generations.items():
        raw = (FOLDER / "manifests" / f"{number:08d}.json").read_bytes()
        assert project(state, generation) == raw
        assert parse(raw).sha256 == generation.manifest_sha256


def test_every_event_is_written_as_it_was():
    """Decoding and encoding again gives the record bytes; every tag there is occurs."""
    tags = set()
    for entry in entries():
        record = entry.record
        tags.add(record.tag)
        assert event_codec.encode(event_codec.decode(record.tag, record.version, record.payload)) == (
            record.tag,
            record.version,
            record.payload,
        )
    assert tags == {*event_codec.TABLE} - LATER.keys()


@pytest.mark.parametrize("tag", LATER)
def test_events_that_came_later_are_written_as_they_were(tag):
    record = decode(bytes.fromhex(LATER[tag]))
    event = event_codec.decode(record.tag, record.version, record.payload)
    assert (record.tag, event_codec.encode(event)) == (tag, (tag, record.version, record.payload))


def test_segments_encode_to_themselves():
    for path in SEGMENTS:
        found = segment.decode(path.read_bytes())
        assert segment.encode(found.generation, found.before, found.entries) == path.read_bytes()


def test_journal_is_made_again(layout, meaning):
    state = rebuild(layout).state
    assert state == fold(to_recorded_events(entries()))
    with Journal.open(layout.journal, readonly=True) as journal:
        assert (journal.head.seq, journal.head.chain.hex()) == (meaning["seq"], meaning["chain"])
        assert list(journal.entries()) == entries()
    assert open_view(layout).state == state


def test_projections_are_repaired(layout):
    """From the journal alone, byte for byte, and the cache can be built on."""
    rebuild(layout)
    for kind in (layout.manifests, layout.segments):
        for path in kind.iterdir():
            path.unlink()
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
        pass
    for kind in ("segments", "manifests"):
        written = {path.name: path.read_bytes() for path in (layout.root / kind).iterdir()}
        assert written == {path.name: path.read_bytes() for path in (FOLDER / kind).iterdir()}
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
        assert (store.recovered, store.writes) == ((), 0)
        shown, _ = play(store, Scenario(flight="new"))
    assert shown.number == len(SEGMENTS) + 1


def test_generator_writes_the_same_bytes_again(generator, tmp_path):
    generator.make_store(tmp_path / "again")
    files = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    again = {
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    }
    assert again == files
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (FOLDER / path).read_bytes(), path
