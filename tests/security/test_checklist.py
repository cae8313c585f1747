"""The security checklist, point by point: whoever can write to the card, and cannot sign, gets a NO-GO at most.

The attacker can write to the folder of the cache, exchange the card, or put an old one back. Each point is one test of
what such a person would try, on caches that were really built. What has tests of its own elsewhere is named.
"""

import json
import os
import pickle
import shutil
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from journal import safe_reader
from journal.errors import JournalDamagedError, RecordError
from journal.record import decode as decode_record
from pipeline.engines.onnx.file import onnx_digest, read_onnx
from pipeline.errors import CompileError
from pipeline.tiles.images.decode import MAX_PIXELS
from store.disk.layout import Layout
from store.domain.events import BuildFailed, BuildStarted
from store.errors import CacheUnusableError, ErrorKind, NoGoError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime import ExecutionError
from store.trust.rollback_protection import RollbackProtection
from store.trust.signatures import TrustedKey, signature_file
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.child_python import run_python
from tests.damaging import overwrite, replace_by
from tests.played_builds import make, play
from tests.security.cards import (
    ALICE,
    FIRST,
    MALLORY,
    SECOND,
    Card,
    built,
    flip,
    png,
    with_external,
)
from tests.store_caches import open_writer
from tools.cli import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("no_library")
def test_01_a_tampered_engine_never_reaches_the_library_that_would_run_it(real):
    layout, public = real
    with FlightCache.open(layout.root, trusted_keys=[public]) as cache:
        entry = cache.manifest.descriptor_engine
    path, size = layout.artifact(entry.artifact.sha256), entry.artifact.size
    for at in (0, size // 2, size - 1):
        flip(path, at)
        with (
            FlightCache.open(layout.root, trusted_keys=[public]) as cache,
            pytest.raises(NoGoError, match=f"engine {entry.model}"),
        ):
            cache.engine(entry.model)
        flip(path, at)


@pytest.mark.usefixtures("no_library")
def test_02_a_flipped_bit_in_the_index_never_reaches_faiss(real):
    """faiss reads flipped indexes and answers wrongly; digests do not. Kind and size: tests/store/runtime/test_load.py."""
    layout, public = real
    with FlightCache.open(layout.root, trusted_keys=[public]) as cache:
        ref = cache.manifest.index.artifact
    for at in range(0, ref.size, max(1, ref.size // 40)):
        flip(layout.artifact(ref.sha256), at)
        with (
            FlightCache.open(layout.root, trusted_keys=[public]) as cache,
            pytest.raises(NoGoError, match="descriptor index"),
        ):
            cache.descriptor_index()
        flip(layout.artifact(ref.sha256), at)


class _Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_03_nothing_that_is_read_is_unpickled(card, folder):
    """No module imports pickle or loads arrays with it: tests/architecture/test_purity.py. Here one is planted."""
    marker = folder / "unpickled"
    bomb = pickle.dumps(_Bomb(marker))
    pickle.loads(bomb)
    assert marker.exists(), "the bomb works"
    marker.unlink()

    def change(body):
        planted = card.put(bomb)
        body["calibration"] = planted
        body["inputs"]["calibration"] = planted["sha256"]
        body["tiles"]["table"] = body["index"]["artifact"] = body["index"]["blocks"] = planted
        body["engines"][0]["artifact"] = planted

    card.forge(change)
    with card.fly(trusted_keys=ALLOW_UNSIGNED) as cache:
        for use in (cache.calibration, lambda: cache.tile(0), cache.descriptor_index, cache.verify):
            with pytest.raises((NoGoError, ExecutionError)):
                use()
        with pytest.raises(ExecutionError):
            cache.engine("place")
    assert not marker.exists()


@pytest.mark.parametrize(
    "escape",
    [
        "..",
        "../secret",
        "/absolute",
        "a/../../secret",
        "link",
        "hard link",
        "fifo",
        "folder",
        "sparse",
        "nul",
        "empty",
    ],
)
def test_04_external_weights_lead_nowhere(tmp_path, escape):
    folder, secret = tmp_path / "model", tmp_path / "secret"
    folder.mkdir()
    locations = {
        "/absolute": str(secret),
        "nul": "weights\0",
        "empty": "",
        "..": "..",
        "../secret": "../secret",
    }
    location = locations.get(escape, escape if "/" in escape else "weights")
    secret.write_bytes(with_external(folder, location))
    weights = folder / "weights"
    match escape:
        case "link":
            weights.symlink_to(secret)
        case "hard link":
            os.link(secret, weights)
        case "fifo":
            os.mkfifo(weights)
        case "folder":
            weights.mkdir()
        case "sparse":
            weights.touch()
            os.truncate(weights, 1 << 40)
    for use in (onnx_digest, lambda path: read_onnx(path, expected_sha256="0" * 64)):
        with pytest.raises(CompileError) as error:
            use(folder / "net.onnx")
        assert "expected" in error.value.message
        assert error.value.hint
    if escape == "hard link":
        weights.unlink()
        weights.write_bytes(secret.read_bytes())
        assert len(onnx_digest(folder / "net.onnx")) == 64, "it is the second name alone that is refused"


NAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "",
    "a\0b",
    "ａ" * 64,  # noqa: RUF001 - a look-alike is the point
    "A" * 64,
    "a" * 63 + "/",
    "a" * 63 + "\n",
]
OCCUPANTS = ["link", "dangling", "pipe", "folder", "sparse", "socket", "device"]


def test_05_names_lead_nowhere_and_only_regular_files_of_the_right_size_are_read(card):
    original = card.file().read_bytes()
    for name in NAMES:
        for change in (
            lambda body, name=name: body["index"]["artifact"].update(sha256=name),
            lambda body, name=name: body["calibration"].update(path=name),
            lambda body, name=name: (
                body["engines"][0].update(model=name),
                body["inputs"]["models"][0].update(name=name),
            ),
        ):
            card.forge(change)
            card.no_go(ErrorKind.MANIFEST_INVALID, trusted_keys=ALLOW_UNSIGNED)
            overwrite(card.file(), original)
    for role in ("engine place", "descriptor index", "tile table"):
        for what in OCCUPANTS:
            path = card.artifact(role)
            data = path.read_bytes()
            replace_by(path, what)
            (reason,) = card.no_go(ErrorKind.ARTIFACT_DAMAGED)
            assert reason.startswith(role)
            path.rmdir() if what == "folder" else path.unlink()
            path.write_bytes(data)
    for suffix, kind in (("json", ErrorKind.NO_GENERATION), ("sig", ErrorKind.SIGNATURE)):
        for what in OCCUPANTS:
            path = card.file(suffix=suffix)
            data = path.read_bytes()
            replace_by(path, what)
            card.no_go(kind)
            path.rmdir() if what == "folder" else path.unlink()
            path.write_bytes(data)
    card.fly().close()


def test_06_what_was_verified_is_what_is_used(card, folder, monkeypatch):
    """Files replaced between opening and use, while they are read, in place, and with the whole folder."""
    engine = card.artifact("engine place")
    original = engine.read_bytes()
    with card.fly() as cache:
        overwrite(engine, b"EVIL" + original[4:])
        assert cache.engine_bytes("place") == original, (
            "the file that was opened, not the one of that name now"
        )
    overwrite(engine, original)

    real, swapped = os.pread, []

    def pread(fd, length, at):
        chunk = real(fd, length, at)
        if not swapped:
            swapped.append(fd)
            with engine.open("r+b") as file:
                file.write(b"EVIL")
        return chunk

    with card.fly() as cache:
        monkeypatch.setattr("store.files.sealed_memory.os.pread", pread)
        assert cache.engine_bytes("place") == original, "read once; what changes afterwards does not matter"
        assert swapped
        monkeypatch.undo()
        assert cache.engine_bytes("place") == original
    with card.fly() as cache, pytest.raises(NoGoError, match="engine place"):
        cache.engine_bytes("place")
    overwrite(engine, original)

    with card.fly() as cache:
        card.layout.root.rename(folder / "aside")
        built(folder / "cache", replace(SECOND, flight="evil"), signer=MALLORY)
        assert cache.engine_bytes("place") == original
        assert cache.verify().files == 7
        assert cache.manifest.inputs["flight_id"] == "f2"


def test_07_an_old_card_does_not_fly_again(card, folder):
    floors = RollbackProtection.load(folder / "floors")
    shutil.copytree(card.layout.root, folder / "old")
    for suffix in ("json", "sig"):
        Card(Layout(folder / "old")).file(2, suffix).unlink()
    old = Card(Layout(folder / "old"))
    cache_id = old.manifest(1).envelope.cache_id

    assert cache_id in old.no_go(ErrorKind.FLOOR, floor=floors)[0], "nobody adopted it yet"
    floors.adopt(cache_id, 1)
    old.fly(floor=floors).close()
    with card.fly(floor=floors) as cache:
        floors.advance(cache_id, cache.manifest.envelope.generation)
    floors = RollbackProtection.load(folder / "floors")
    card.fly(floor=floors).close()
    assert "expected 2 or newer, found 1" in old.no_go(ErrorKind.FLOOR, floor=floors)[0]
    assert "expected 2 or newer, found 1" in card.no_go(ErrorKind.FLOOR, floor=floors, generation=1)[0]
    other = Card(built(folder / "other", FIRST, SECOND))
    assert "expected a known cache" in other.no_go(ErrorKind.FLOOR, floor=floors)[0]


def test_08_a_card_that_is_kept_from_its_updates_is_noticed(card):
    """A mission names the least generation, and a key the last one: counters, since no clock can be trusted."""
    card.fly(floor=2).close()
    assert "expected 3 or newer, found 2" in card.no_go(ErrorKind.FLOOR, floor=3)[0]
    card.fly(trusted_keys=[TrustedKey(ALICE.public, 2)]).close()
    assert "not_after" in card.no_go(ErrorKind.SIGNATURE, trusted_keys=[TrustedKey(ALICE.public, 1)])[0]


def test_09_parts_of_two_builds_do_not_mix(card, folder):
    engines = [card.artifact("engine place", generation) for generation in (1, 2)]
    data = [path.read_bytes() for path in engines]
    assert data[0] != data[1]
    overwrite(engines[1], data[0].ljust(len(data[1]))[: len(data[1])])
    with card.fly() as cache, pytest.raises(NoGoError, match="engine place"):
        cache.engine_bytes("place")
    overwrite(engines[1], data[1])

    new = {suffix: card.file(2, suffix).read_bytes() for suffix in ("json", "sig")}
    old = {suffix: card.file(1, suffix).read_bytes() for suffix in ("json", "sig")}
    for manifest, signature, kind in (
        (new["json"], old["sig"], ErrorKind.SIGNATURE),
        (old["json"], new["sig"], ErrorKind.SIGNATURE),
        (old["json"], old["sig"], ErrorKind.VERIFICATION),
    ):
        overwrite(card.file(2, "json"), manifest)
        overwrite(card.file(2, "sig"), signature)
        card.no_go(kind)
    for suffix, content in new.items():
        overwrite(card.file(2, suffix), content)

    first = card.manifest(1)
    for change in (
        lambda body: body["engines"][0].update(artifact=first.body["engines"][0]["artifact"]),
        lambda body: body.update(index=first.body["index"]),
        lambda body: body["engines"].clear(),
        lambda body: body["engines"].append(body["engines"][0]),
        lambda body: body.pop("geography"),
    ):
        for signer, kinds in ((None, {ErrorKind.SIGNATURE}), (MALLORY, {ErrorKind.SIGNATURE})):
            card.forge(change, signer=signer)
            with pytest.raises(NoGoError) as error:
                card.fly().close()
            assert error.value.kind in kinds
            for suffix, content in new.items():
                overwrite(card.file(2, suffix), content)
    card.fly().close()

    floors = RollbackProtection.load(folder / "floors")
    floors.adopt(first.envelope.cache_id, 1)
    other = Card(built(folder / "other", replace(FIRST, flight="f9"), replace(SECOND, flight="f8")))
    for suffix in ("json", "sig"):
        overwrite(card.file(2, suffix), other.file(2, suffix).read_bytes())
    assert "expected a known cache" in card.no_go(ErrorKind.FLOOR, floor=floors)[0]


def test_10_one_value_has_one_form_and_nothing_follows_it(card):
    """Every form of a signature file: tests/store/trust/test_signatures.py. Here manifests, of which even the signer is held to it."""
    pristine = card.file().read_bytes()
    body = pristine[:-1]
    backwards = dict(reversed(json.loads(body).items()))
    forms = {
        "trailing bytes": pristine + b"x",
        "trailing line": pristine + b"\n",
        "no line end": body,
        "white space": body.replace(b'{"body"', b'{ "body"') + b"\n",
        "duplicate key": body[:-1] + b',"format":1}\n',
        "duplicate inside": body.replace(b'"envelope":{', b'"envelope":{"generation":2,') + b"\n",
        "another order": json.dumps(backwards, separators=(",", ":")).encode() + b"\n",
        "another escape": body.replace(b'"cache_id"', b'"\\u0063ache_id"') + b"\n",
        "float": body.replace(b'"format":1}', b'"format":1.0}') + b"\n",
        "NaN": body.replace(b'"format":1}', b'"format":NaN}') + b"\n",
        "byte order mark": b"\xef\xbb\xbf" + pristine,
        "UTF-16": pristine.decode().encode("utf-16"),
        "two manifests": pristine * 2,
    }
    for name, content in forms.items():
        assert content != pristine, name
        overwrite(card.file(), content)
        card.no_go(ErrorKind.SIGNATURE)
        card.no_go(ErrorKind.MANIFEST_INVALID, trusted_keys=ALLOW_UNSIGNED)
        overwrite(card.file(suffix="sig"), signature_file(ALICE.sign(content)))
        card.no_go(ErrorKind.MANIFEST_INVALID)
    overwrite(card.file(), pristine)
    overwrite(card.file(suffix="sig"), signature_file(MALLORY.sign(pristine)))
    assert MALLORY.key_id in card.no_go(ErrorKind.SIGNATURE)[0]
    overwrite(card.file(suffix="sig"), signature_file(ALICE.sign(pristine)))
    card.fly().close()


def test_11_msgpack_bombs_are_refused_in_no_memory():
    record = [b"\xa3tag", b"\x01", b"\xc0", b"\x00", b"\x00"]
    head = b"\x96" + b"".join(record)
    nested = [b"\x91" * 100_000 + b"\xc0", b"\x81\xa1a" * 100_000 + b"\xc0"]
    bombs = [
        *(kind + struct.pack(">I", 0xFFFFFFFF) for kind in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")),
        *nested,
        b"\xdc\xff\xff" + b"\x91" * 65_535,
        b"\xd4\x01\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x01\x02",
        b"\xc1",
    ]
    assert decode_record(head + b"\xc0").payload is None
    tracemalloc.start()
    try:
        for bomb in bombs:
            for content in (bomb, head + bomb, head + bomb + b"\x00" * 1000):
                with pytest.raises(RecordError):
                    decode_record(content)
        with pytest.raises(RecordError):
            decode_record(head + b"\xc6" + struct.pack(">I", 2 << 20) + bytes(2 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_12_a_picture_of_some_kilobytes_does_not_become_gigabytes(tmp_path):
    """Text and profile bombs: tests/pipeline/tiles/images/test_decode.py; archives: test_tiles_pmtiles.py, test_tiles_mbtiles.py."""
    side = 16_000
    bombs = {
        "bomb": png(side, side, bytes((side // 8 + 1) * side)),
        "long": png(1 << 31, 1, b""),
        "endless": png(0xFFFFFFFF, 0xFFFFFFFF, b""),
        "more than it says": png(64, 64, bytes(100 << 20), kind=2),
    }
    assert side * side > MAX_PIXELS
    for name, content in bombs.items():
        assert len(content) < 128_000
        (tmp_path / name).write_bytes(content)
    code = (
        "import json, resource, sys\nfrom pathlib import Path\nfrom pipeline.tiles.images.decode import decode\n"
        "from pipeline.errors import TileError\nanswers = {}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try:\n        answers[path.name] = list(decode(path.read_bytes()).shape)\n"
        "    except TileError as error:\n        answers[path.name] = error.message\n"
        "print(json.dumps([answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))"
    )
    done = run_python(code, *(str(tmp_path / name) for name in bombs))
    answers, grown_kib = json.loads(done.stdout)
    assert answers["bomb"] == "expected 1 to 16777216 pixels, found 16000 x 16000"
    assert answers["long"].startswith("expected")
    assert answers["endless"].startswith("expected")
    assert answers["more than it says"] == [64, 64, 3] or "expected" in answers["more than it says"]
    assert grown_kib < 16 << 10


def test_13_a_journal_from_elsewhere_is_not_read_on_board_and_kills_nobody_on_the_ground(card):
    """Damage in all its forms: tests/journal/test_safe_reader.py."""
    journal = card.layout.journal
    data = journal.read_bytes()
    lock = journal.with_name(journal.name + "-lock")
    overwrite(lock, b"\xff" * 8192)
    head = safe_reader.snapshot(journal, foreign=True).head
    assert head.seq > 10
    assert lock.read_bytes() == b"\xff" * 8192, "the lock file of a foreign journal is not used"
    refused = list[str]()
    hostile = {
        "cut": data[: len(data) // 2],
        "zeros": data[:8192] + bytes(len(data) - 8192),
        "junk": os.urandom(len(data)),
        "pages swapped": data[:8192] + data[12288:16384] + data[8192:12288] + data[16384:],
        "empty": b"",
    }
    for name, content in hostile.items():
        overwrite(journal, content)
        try:
            found = safe_reader.snapshot(journal, foreign=True, timeout_s=20).head
        except JournalDamagedError:
            refused.append(name)
        else:
            assert found == head, f"{name}: what is left of it is another history"
        with card.fly() as cache:
            assert cache.verify().files == 7, name
    assert {"zeros", "junk", "empty"} <= set(refused)
    journal.unlink()
    os.mkfifo(journal)
    card.fly().close()


def test_14_a_cache_that_anybody_may_write_to_is_refused(card, folder):
    """Who may read signing keys, and where they may lie: tests/store/trust/test_signatures.py."""
    for path, subject in (
        (card.layout.root, "cache folder"),
        (card.layout.manifests, "folder manifests"),
        (card.layout.artifacts, "folder artifacts"),
    ):
        for mode in (0o777, 0o1777, 0o757):
            path.chmod(mode)
            (reason,) = card.no_go(ErrorKind.PERMISSION)
            assert reason.startswith(subject)
            (problem,) = verify(card.layout, trusted_keys=[ALICE.public]).problems
            assert (problem.kind, problem.fix) == (ProblemKind.EXPOSED, f"chmod -R o-w {card.layout.root}")
            with pytest.raises(CacheUnusableError) as error:
                built(card.layout.root, FIRST)
            assert error.value.kind is ErrorKind.PERMISSION
        path.chmod(0o775)
        result = verify(card.layout, trusted_keys=[ALICE.public])
        assert result.go
        assert [
            each
            for each in result.warnings
            if each.message.startswith(subject) and "its group" in each.message
        ]
        path.chmod(0o755)
    card.fly().close()
    before = os.umask(0)
    try:
        layout = built(folder / "new", FIRST)
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o022 for path in (layout.root, *layout.root.rglob("*"))}
    assert [str(path.relative_to(folder)) for path, mode in found.items() if mode] == []


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mGO\x9b1m\r\nGO  generation 9\x00\u202egnp.exe\u2028\x7f\x08"


def test_15_what_a_journal_says_is_shown_as_text(folder):
    layout = Layout(folder / "cache")
    long = HOSTILE + "x" * 60_000
    with open_writer(layout, host={"name": HOSTILE}) as store:
        store.append(
            make(BuildStarted, inputs={"flight_id": HOSTILE, "source": long}, host={"name": HOSTILE}),
            make(
                BuildFailed,
                **dict.fromkeys(("step", "kind", "subject", "hint"), HOSTILE),
                message=long,
                traceback="\n".join([HOSTILE] * 12_000),
            ),
            build=1,
        )
        play(store, replace(SECOND, flight=HOSTILE))
        play(store, replace(SECOND, flight="f3"))
    for command in (
        ["log"],
        ["show", "1"],
        ["show", "2"],
        ["status"],
        ["doctor"],
        ["verify"],
        ["verify", "--full"],
    ):
        result = CliRunner().invoke(cli, [*command, "--cache", str(layout.root)])
        shown = result.stdout + result.stderr
        strange = {letter for letter in shown if not letter.isprintable()} - {"\n"}
        assert strange == set(), command
        assert len(shown) < 64_000, command
        assert not any(line.startswith("GO  generation 9") for line in shown.splitlines())
    result = CliRunner().invoke(cli, ["show", "1", "--json", "--cache", str(layout.root)])
    assert result.stdout.isascii()
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["failure"]["message"] == long, "programs get all of it"
    assert "\\x1b[2J" in CliRunner().invoke(cli, ["show", "1", "--cache", str(layout.root)]).stdout


def test_the_checklist_is_whole():
    numbers = sorted(int(name[5:7]) for name in globals() if name.startswith("test_") and name[5:7].isdigit())
    assert numbers == list(range(1, 16))


def test_ground_finds_what_the_aircraft_refuses(card):
    """Both use one function: a NO-GO on board is a NO-GO on the ground, for the same reasons."""
    for keys in ([], [MALLORY.public], [TrustedKey(ALICE.public, 1)], [b"short", b""]):
        reasons = card.no_go(ErrorKind.SIGNATURE, trusted_keys=keys)
        found = verify(card.layout, depth=Depth.QUICK, trusted_keys=keys)
        assert [str(problem) for problem in found.problems] == list(reasons)
    overwrite(card.file(suffix="sig"), signature_file(MALLORY.sign(card.file().read_bytes())))
    card.no_go(ErrorKind.SIGNATURE)
    (problem,) = verify(card.layout, depth=Depth.QUICK, trusted_keys=[ALICE.public]).problems
    assert (problem.kind, problem.path) == (ProblemKind.PROJECTION_DAMAGED, "manifests/00000002.sig")
