"""A decoder that shares no code with C10 projects every manifest again, byte for byte."""

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain import events, maintenance_events
from store.domain.state import FLIGHT
from store.policy import rollback
from store.testing import FakeClock
from tests.conformance import decoder, sound_cases
from tests.conformance.played import build

GOLDEN = Path(__file__).parents[1] / "golden"
LIVES = (
    "tiles",
    "second",
    "delta",
    "chunks",
    "carried",
    "stand-in",
    "networks",
    "columns",
    "rollback",
    "normalised",
)


def manifests_in(folder):
    return {int(path.stem[-8:]): path.read_bytes() for path in (folder / "manifests").glob("*.json")}


@pytest.mark.parametrize("name", ["store_v1", "store_v2", "store_v3"])
def test_golden_caches(name):
    assert decoder.manifests_of_cache(GOLDEN / name) == manifests_in(GOLDEN / name)


@pytest.mark.parametrize("name", LIVES)
def test_sound_caches(name, tmp_path):
    for path, content in sound_cases.files_of(name).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert decoder.manifests_of_cache(tmp_path) == manifests_in(tmp_path)


def long_life(store):
    """Results that are withdrawn, made again, replaced by an engine run, collected and shown again."""
    first, changed = sound_cases.TILES, sound_cases.SECOND
    build(store, first)
    engine = store.state.builds[1].engines[0][1]
    failed = {"check": "signature", "subject": "place", "key": engine.key, "artifact": engine.artifact.sha256}
    store.append(events.CheckFailed(**failed, measured={}, why="nobody vouches for it"), build=None)
    build(store, changed)
    other = store.artifacts.put(b"an engine run on another device")
    store.append(replace(engine, artifact=other, purpose=FLIGHT, host={"name": "orin"}), build=None)
    build(store, replace(changed, flight="f3"))
    build(store, replace(sound_cases.DELTA, flight="f4", before=changed.tiles))
    whole = store.state.builds[2].index.artifact.sha256
    store.roll_back(rollback.plan(store.state, to=3, why="it was better"))
    for kind, rest in (
        (maintenance_events.CollectionPlanned, {"policy": {"keep": 1, "unfinished": True}}),
        (maintenance_events.Collected, {}),
    ):
        store.append(kind(digests=(whole,), generations=(2,), size=1, host={}, **rest), build=None)
    build(store, replace(changed, flight="f5"))
    build(store, replace(first, flight="f6", carry=True, tiles=changed.tiles))


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("decoder") / "cache")
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0) as store:
        long_life(store)
    return layout.root


def test_a_long_life_from_the_journal_and_from_segments(lived, tmp_path):
    found = decoder.manifests_of_cache(lived)
    assert len(found) == 7
    assert found.items() >= manifests_in(lived).items()
    assert len(manifests_in(lived)) >= 6
    shutil.copytree(lived / "segments", tmp_path / "segments")
    assert decoder.manifests_of_cache(tmp_path) == found


def test_a_changed_byte_is_noticed(lived, tmp_path):
    shutil.copytree(lived / "segments", tmp_path / "segments")
    last = tmp_path / "segments" / "00000007.events"
    data = last.read_bytes()
    for place in (3, 20, 40, 80, len(data) // 2, len(data) - 1):
        last.chmod(0o644)
        last.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises((decoder.DamagedError, IndexError)):
            decoder.manifests_of_cache(tmp_path)


def test_records_that_do_not_say_what_was_committed_are_noticed():
    cache = decoder.Cache()
    cache.manifests[1], cache.promised[1] = b"{}\n", "0" * 64
    with pytest.raises(decoder.DamagedError, match="another digest"):
        decoder.require_promised(cache)


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (300, "cd012c"),
        (127, "7f"),
        (128, "cc80"),
        (-32, "e0"),
        (-33, "d0df"),
        (-129, "d1ff7f"),
        (65536, "ce00010000"),
        (2**64 - 1, "cf" + "ff" * 8),
        (-(2**63), "d38000000000000000"),
        ("é", "a2c3a9"),
        ("a" * 32, "d920" + "61" * 32),
        (b"ab", "c4026162"),
        (1.5, "cb3ff8000000000000"),
        ({"b": 1, "a": [None, True, False]}, "82a16193c0c3c2a16201"),
    ],
)
def test_the_forms_in_the_document(value, raw):
    assert decoder.packed(value).hex() == raw


def test_another_form_is_refused():
    good = decoder.packed(["note", 1, None, 300, 0, {"text": "x"}])
    assert decoder.unpack(good)[3] == 300
    for bad in (
        good.replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c"),
        good.replace(b"\xcd\x01\x2c", b"\xce\0\0\x01\x2c"),
    ):
        with pytest.raises(decoder.DamagedError):
            decoder.unpack(bad)


def test_it_shares_no_code_with_c10():
    tree = ast.parse(Path(decoder.__file__).read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} - sys.stdlib_module_names == {"lmdb", "msgpack"}


def test_the_command(lived, tmp_path):
    shutil.copytree(lived, tmp_path / "cache")
    command = [sys.executable, decoder.__file__, tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stderr, done.stdout.count("the same")) == (0, "", len(manifests_in(lived)))
    manifest = tmp_path / "cache" / "manifests" / "00000007.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "generation 7: DIFFERENT")
