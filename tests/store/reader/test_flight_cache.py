"""The onboard reader against damaged, foreign and hostile caches: an answer or a NO-GO, never anything else."""

import errno
import gc
import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from store.base.canonical_json import decode, encode
from store.base.identity import build_identity, descriptor_id
from store.base.values import ArtifactRef
from store.disk.layout import Layout
from store.errors import DiskFullError, ErrorKind, IncompatibleDeviceError, NoGoError
from store.files.sealed_memory import SealError, check_digest, open_expected, seal_file
from store.formats.tables import BlockRow, encode_blocks, encode_tiles
from store.manifest import manifest as m
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.reader import ALLOW_UNSIGNED, FlightCache, Tile, flight_cache
from store.runtime import ExecutionError
from store.runtime.capabilities import library_version
from tests.damaging import flip, overwrite, replace_by
from tests.played_builds import Scenario, play, ref_of
from tests.store_caches import open_writer

VERSION = library_version("onnxruntime") or "1"
STORE = str(Path(flight_cache.__file__).parents[1])


def build(root, *scenarios):
    layout = Layout(root)
    with open_writer(layout) as store:
        for scenario in scenarios:
            play(store, scenario)
    return layout


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A cache with two generations of different tiles."""
    tiles = {(0, 0): "a", (1, 0): "x"}
    root = tmp_path_factory.mktemp("reader") / "cache"
    return build(root, Scenario(version=VERSION), Scenario(version=VERSION, flight="f2", tiles=tiles))


@pytest.fixture
def layout(template, tmp_path):
    shutil.copytree(template.root, tmp_path / "cache", ignore=shutil.ignore_patterns("journal.mdb*"))
    return Layout(tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open(tmp_path):
    yield
    if open_of(tmp_path):
        gc.collect()  # `contextlib` of Python 3.13.0 keeps what passes through it, and its frames, in a cycle
    assert open_of(tmp_path) == []


def open_of(folder):
    return [target for _, target in descriptors_of(folder)]


def descriptors_of(folder):
    targets = [
        (int(path.name), str(path.readlink()))
        for path in Path("/proc/self/fd").iterdir()
        if path.is_symlink()
    ]
    return [each for each in targets if str(folder) in each[1] or each[1].startswith("/memfd:")]


def fly(layout, **changes):
    return FlightCache.open(layout.root, **({"trusted_keys": ALLOW_UNSIGNED} | changes))


def no_go(layout, kind, **changes):
    with pytest.raises(NoGoError) as error:
        fly(layout, **changes).close()
    assert error.value.kind is kind
    assert error.value.message.startswith("NO-GO: ")
    return error.value.reasons


def manifest_of(layout, generation=2):
    return m.parse((layout.manifests / layout.manifest_name(generation)).read_bytes())


def ref_to(layout, role, generation=2):
    return dict(manifest_of(layout, generation).artifacts())[role]


def path_of(layout, role):
    return layout.artifact(ref_to(layout, role).sha256)


class Interruption:
    """A trace function that raises `KeyboardInterrupt` before the first line of `store` that is not in `seen`.

    Python would drop what is raised in a finalizer.
    """

    def __init__(self, seen):
        self.seen = seen
        self.line = None

    def __call__(self, frame, event, _):
        line = frame.f_code.co_filename, frame.f_lineno
        if not line[0].startswith(STORE) or frame.f_code.co_name == "__del__":
            return None
        if event == "line" and line not in self.seen:
            self.seen.add(line)
            self.line = line
            sys.settrace(None)
            raise KeyboardInterrupt
        return self


def test_an_interrupt_anywhere_is_an_interrupt_and_leaves_no_cache_open(layout):
    """Only the file that is being opened at that moment, and the folder that it is in, may stay open."""
    fly(layout).close()  # modules are imported
    seen, left_open = set(), {}
    before = sys.gettrace()
    while True:
        interruption = Interruption(seen)
        sys.settrace(interruption)
        try:
            fly(layout).close()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        if interruption.line is None:
            break
        if descriptors_of(layout.root):
            gc.collect()
        left_open[interruption.line] = descriptors_of(layout.root)
        for each, _ in left_open[interruption.line]:
            os.close(each)
    assert len(seen) > 100
    assert {line for line, files in left_open.items() if len(files) > 2} == set()
    assert sum(map(bool, left_open.values())) < 20


NO_FILES = ["missing", "pipe", "folder", "link", "loop", "shorter", "longer", "empty", "device"]


class TestGo:
    def test_the_newest_generation(self, layout):
        before = {path: path.lstat().st_mtime_ns for path in layout.root.rglob("*")}
        with fly(layout) as cache:
            assert cache.manifest.envelope.generation == 2
            found = cache.verify()
            named = [ref for _, ref in cache.manifest.artifacts()]
            assert (found.files, found.size > sum(ref.size for ref in named)) == (7, True)
            assert cache.engine_bytes("place") == b"engine of net"
            assert cache.calibration() == {}
            identifier = descriptor_id(6, 1, 0)
            assert cache.tile(identifier) == Tile(6, 1, 0, hashlib.sha256(b"x").hexdigest())
            assert cache.tile(identifier).z == 6
        assert {path: path.lstat().st_mtime_ns for path in layout.root.rglob("*")} == before
        cache.close()

    def test_an_older_generation_by_name(self, layout):
        with fly(layout, generation=1) as cache:
            assert cache.manifest.tile_count == 3
            assert cache.verify().files == 8
        assert "expected generation 9" in no_go(layout, ErrorKind.NO_GENERATION, generation=9)[0]

    def test_unknown_tiles_and_engines_are_key_errors(self, layout):
        with fly(layout) as cache:
            for identifier in (0, -1, 1 << 63, 1 << 80, descriptor_id(6, 1, 0, view=1)):
                with pytest.raises(KeyError, match="no tile"):
                    cache.tile(identifier)
            for ask in (cache.engine, cache.engine_bytes):
                with pytest.raises(KeyError, match="no engine 'other'"):
                    ask("other")

    def test_intact_bytes_that_no_library_loads(self, layout):
        """These files match their digests; only their library can say that they are no engine or index."""
        with fly(layout) as cache:
            with pytest.raises(ExecutionError):
                cache.engine("place")
            with pytest.raises(ExecutionError):
                cache.descriptor_index()
            with pytest.raises(NoGoError, match="preprocessing"):
                _ = cache.preprocessing

    def test_files_replaced_after_opening_are_not_used(self, layout):
        with fly(layout) as cache:
            for role in ("engine place", "calibration", "tile table"):
                overwrite(path_of(layout, role), b"something else")
            shutil.rmtree(layout.manifests)
            assert cache.engine_bytes("place") == b"engine of net"
            assert cache.calibration() == {}
            assert cache.tile(descriptor_id(6, 0, 0))

    def test_sealed_bytes_outlive_changes_of_the_file(self, layout):
        """Bytes that change in place are noticed before they are sealed, and do no harm later."""
        path = path_of(layout, "engine place")
        path.chmod(0o644)
        with fly(layout) as cache, path.open("r+b") as file:
            assert cache.engine_bytes("place") == b"engine of net"
            file.write(b"ENGINE")
            file.flush()
            assert cache.engine_bytes("place") == b"engine of net"
            with pytest.raises(NoGoError):
                cache.verify()
        with fly(layout) as cache, pytest.raises(NoGoError, match="engine place"):
            cache.engine_bytes("place")


class TestPolicy:
    @pytest.mark.parametrize("keys", [[], [bytes(32)], (b"k" * 32, b"l" * 32)])
    def test_unsigned_is_a_no_go_unless_allowed(self, layout, keys):
        no_go(layout, ErrorKind.SIGNATURE, trusted_keys=keys)
        for junk in (b"", b"x" * 64, b"x" * 5000):
            (layout.manifests / "00000002.sig").write_bytes(junk)
            no_go(layout, ErrorKind.SIGNATURE, trusted_keys=keys)
            (layout.manifests / "00000002.sig").unlink()

    def test_keys_have_to_be_given(self, layout):
        with pytest.raises(TypeError, match="trusted_keys"):
            FlightCache.open(layout.root)

    def test_floor(self, layout):
        cache_id = manifest_of(layout).envelope.cache_id
        for floor in (0, 2, {cache_id: 2}, {cache_id: 0, "other": 7}):
            fly(layout, floor=floor).close()
        for floor in (3, {cache_id: 3}):
            assert "expected 3 or newer, found 2" in no_go(layout, ErrorKind.FLOOR, floor=floor)[0]
        for floor in (2, {cache_id: 2}):
            no_go(layout, ErrorKind.FLOOR, floor=floor, generation=1)
        for floor in ({}, {"other": 0}):
            assert cache_id in no_go(layout, ErrorKind.FLOOR, floor=floor)[0]

    @pytest.mark.parametrize("change", [{"target": "orin"}, {"version": "0.0.1"}])
    def test_another_device(self, tmp_path, change):
        if "version" in change and not library_version("onnxruntime"):
            pytest.skip("onnxruntime is not installed here, so that no version can differ")
        layout = build(tmp_path / "cache", Scenario(**({"version": VERSION} | change)))
        with pytest.raises(IncompatibleDeviceError, match="engine place") as error:
            fly(layout)
        assert error.value.kind is ErrorKind.DEVICE


class TestNoGo:
    def test_no_cache(self, tmp_path):
        no_go(Layout(tmp_path / "nowhere"), ErrorKind.NO_GENERATION)
        no_go(Layout(tmp_path), ErrorKind.NO_GENERATION)
        (tmp_path / "manifests").mkdir()
        no_go(Layout(tmp_path), ErrorKind.NO_GENERATION)
        (tmp_path / "file").touch()
        no_go(Layout(tmp_path / "file"), ErrorKind.NO_GENERATION)

    def test_a_symlinked_manifests_folder_is_refused(self, layout, tmp_path):
        shutil.copytree(layout.manifests, tmp_path / "elsewhere")
        shutil.rmtree(layout.manifests)
        layout.manifests.symlink_to(tmp_path / "elsewhere")
        no_go(layout, ErrorKind.NO_GENERATION)

    @pytest.mark.parametrize("what", ["pipe", "folder", "link", "loop", "device"])
    def test_manifests_that_are_no_regular_files(self, layout, what):
        replace_by(layout.manifests / layout.manifest_name(2), what)
        no_go(layout, ErrorKind.NO_GENERATION)
        fly(layout, generation=1).close()

    @pytest.mark.parametrize("what", ["shorter", "longer", "empty", "flip", "garbage", "other generation"])
    def test_a_damaged_newest_manifest_is_refused_and_no_older_one_used(self, layout, what):
        path = layout.manifests / layout.manifest_name(2)
        match what:
            case "flip":
                # Another flipped digit may give a consistent manifest, which only a signature would refuse.
                identity = manifest_of(layout).identity.encode()
                overwrite(path, path.read_bytes().replace(identity, bytes([identity[0] ^ 1]) + identity[1:]))
            case "garbage":
                overwrite(path, os.urandom(2000))
            case "other generation":
                overwrite(path, (layout.manifests / layout.manifest_name(1)).read_bytes())
            case _:
                replace_by(path, what)
        with pytest.raises(NoGoError) as error:
            fly(layout)
        assert error.value.kind in {ErrorKind.MANIFEST_INVALID, ErrorKind.VERIFICATION}
        fly(layout, generation=1).close()

    def test_endless_manifests_and_signatures(self, layout):
        overwrite(layout.manifests / layout.manifest_name(2), b" " * (MAX_MANIFEST_BYTES + 1))
        no_go(layout, ErrorKind.NO_GENERATION)

    @pytest.mark.parametrize("what", NO_FILES)
    @pytest.mark.parametrize("role", ["engine place", "descriptor index", "tile table"])
    def test_artifacts_that_are_no_regular_files(self, layout, role, what):
        replace_by(path_of(layout, role), what)
        (reason,) = no_go(layout, ErrorKind.ARTIFACT_DAMAGED)
        assert reason.startswith(role)

    def test_all_reasons_are_listed_at_once(self, layout):
        path_of(layout, "engine place").unlink()
        replace_by(path_of(layout, "calibration"), "longer")
        replace_by(path_of(layout, "block table"), "pipe")
        reasons = no_go(layout, ErrorKind.ARTIFACT_DAMAGED)
        assert [reason.split(":")[0] for reason in reasons] == ["calibration", "engine place", "block table"]

    @pytest.mark.parametrize(
        "role",
        ["calibration", "tile table", "geographic report", "engine place", "descriptor index", "block table"],
    )
    def test_a_flipped_bit_is_found_by_verifying_and_by_use(self, layout, role):
        flip(path_of(layout, role))
        with fly(layout) as cache:
            with pytest.raises(NoGoError) as error:
                cache.verify()
            assert [reason.split(":")[0] for reason in error.value.reasons] == [role]
            use = {
                "calibration": cache.calibration,
                "tile table": lambda: cache.tile(0),
                "engine place": lambda: cache.engine_bytes("place"),
                "descriptor index": cache.descriptor_index,
            }.get(role)
            if use is not None:
                with pytest.raises(NoGoError, match=role):
                    use()

    @pytest.mark.parametrize("what", NO_FILES)
    def test_blocks_are_verified(self, layout, what):
        (digest_of_block,) = blocks_of(layout)
        replace_by(layout.artifact(digest_of_block), what)
        with fly(layout) as cache, pytest.raises(NoGoError, match="block 6/0/0"):
            cache.verify()

    def test_everything_that_is_flipped_is_listed(self, layout):
        (digest_of_block,) = blocks_of(layout)
        flip(layout.artifact(digest_of_block))
        flip(path_of(layout, "engine place"))
        flip(path_of(layout, "tile table"))
        with fly(layout) as cache, pytest.raises(NoGoError) as error:
            cache.verify()
        assert [reason.split(":")[0] for reason in error.value.reasons] == [
            "tile table",
            "engine place",
            "block 6/0/0",
        ]


def blocks_of(layout):
    from store.formats.tables import decode_blocks

    return [row.ref.sha256 for row in decode_blocks(path_of(layout, "block table").read_bytes())]


def put(layout, data):
    ref = ref_of(data)
    layout.artifact(ref.sha256).write_bytes(data)
    return {"sha256": ref.sha256, "size": ref.size}


class TestHostile:
    """A manifest that nobody signed may name anything."""

    def forge(self, layout, change):
        path = layout.manifests / layout.manifest_name(2)
        document = decode(path.read_bytes()[:-1])
        change(document["body"])
        document["body"]["identity"] = build_identity(document["body"]["inputs"])
        overwrite(path, encode(document) + b"\n")

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b"null"])
    def test_calibrations_that_are_no_json_object(self, layout, data):
        def change(body):
            body["calibration"] = put(layout, data)
            body["inputs"]["calibration"] = body["calibration"]["sha256"]

        self.forge(layout, change)
        with fly(layout) as cache, pytest.raises(NoGoError, match="calibration"):
            cache.calibration()

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"C10TILE1",
            b"C10TILE1" + b"\xff" * 8,
            encode_tiles([]),
            encode_tiles([(0, "00" * 32, None), (1, "00" * 32, None)]),
            encode_blocks([]),
        ],
    )
    def test_tile_tables_that_do_not_fit(self, layout, data):
        self.forge(layout, lambda body: body["tiles"].update(table=put(layout, data)))
        with fly(layout) as cache:
            with pytest.raises(NoGoError, match="tile table"):
                cache.verify()
            with pytest.raises((NoGoError, KeyError)):
                cache.tile(descriptor_id(6, 1, 0))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"C10BLCK1",
            encode_blocks([]),
            encode_blocks(
                [
                    BlockRow(
                        zoom=6,
                        cell_x=0,
                        cell_y=0,
                        rows=2,
                        ref=ArtifactRef(sha256="00" * 32, size=(1 << 64) - 1),
                    )
                ]
            ),
        ],
    )
    def test_block_tables_that_do_not_fit(self, layout, data):
        self.forge(layout, lambda body: body["index"].update(blocks=put(layout, data)))
        with fly(layout) as cache, pytest.raises(NoGoError, match="block"):
            cache.verify()

    def test_one_file_in_two_sizes(self, layout):
        def change(body):
            body["geography"]["report"] = dict(
                body["tiles"]["table"], size=body["tiles"]["table"]["size"] + 1
            )

        self.forge(layout, change)
        with pytest.raises(NoGoError, match="geographic report"), fly(layout) as cache:
            cache.verify()

    def test_engines_without_names_of_their_inputs(self, layout):
        self.forge(layout, lambda body: body["engines"][0].update(signature={}))
        with fly(layout) as cache, pytest.raises((NoGoError, ExecutionError)):
            cache.engine("place")


class TestSealed:
    @pytest.fixture
    def folder(self, tmp_path):
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        yield fd
        os.close(fd)

    @pytest.mark.parametrize("size", [(1 << 20) + 5, (16 << 20) - 1, 16 << 20, (17 << 20) + 5])
    def test_sealed_bytes_cannot_change(self, tmp_path, folder, size):
        data = os.urandom(size)
        (tmp_path / "x").write_bytes(data)
        fd = open_expected("x", folder=folder, size=len(data))
        sealed = seal_file(fd, ref_of(data))
        check_digest(fd, ref_of(data))
        os.close(fd)
        view = sealed.view()
        assert view == Path(sealed.path).read_bytes() == data
        assert view.readonly
        for change in (
            lambda: os.pwrite(sealed.fd, b"x", 0),
            lambda: os.ftruncate(sealed.fd, 1),
            lambda: os.ftruncate(sealed.fd, len(data) + 1),
        ):
            with pytest.raises(PermissionError):
                change()
        sealed.close()
        sealed.close()
        assert view == data, "what was mapped outlives the descriptor"

    def test_a_large_file_that_is_damaged_or_has_no_room_is_not_sealed(self, tmp_path, folder, monkeypatch):
        data = os.urandom(17 << 20)
        (tmp_path / "x").write_bytes(data)
        fd = open_expected("x", folder=folder, size=len(data))
        with (tmp_path / "x").open("r+b") as file:
            file.seek(9 << 20)
            file.write(bytes(8))
        open_files = len([*Path("/proc/self/fd").iterdir()])
        with pytest.raises(SealError, match="expected 17,825,792 bytes with SHA-256"):
            seal_file(fd, ref_of(data))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskFullError):
            seal_file(fd, ref_of(data))
        os.close(fd)
        assert len([*Path("/proc/self/fd").iterdir()]) == open_files - 1

    def test_an_empty_file_can_be_sealed(self, tmp_path, folder):
        (tmp_path / "x").touch()
        fd = open_expected("x", folder=folder, size=0)
        sealed = seal_file(fd, ref_of(b""))
        os.close(fd)
        assert sealed.view() == b""
        sealed.close()

    def test_files_that_are_too_long_or_too_short(self, tmp_path, folder):
        (tmp_path / "x").write_bytes(b"12345")
        for limits in ({"size": 4}, {"size": 6}, {"limit": 4}):
            with pytest.raises(SealError, match="expected"):
                open_expected("x", folder=folder, **limits)
        os.close(open_expected("x", folder=folder, limit=5))

    @pytest.mark.parametrize("data", [b"1234", b"123456", b"12346", b""])
    def test_a_file_that_changes_after_it_was_opened(self, tmp_path, folder, data):
        path = tmp_path / "x"
        path.write_bytes(b"12345")
        fd = open_expected("x", folder=folder, size=5)
        path.write_bytes(data)
        for check in (seal_file, check_digest):
            with pytest.raises(SealError, match="expected 5 bytes"):
                check(fd, ref_of(b"12345"))
        os.close(fd)

    def test_descriptors_that_cannot_be_read(self, tmp_path, folder):
        (tmp_path / "x").write_bytes(b"12345")
        fd = os.open(tmp_path / "x", os.O_WRONLY)
        for check in (seal_file, check_digest):
            with pytest.raises(SealError):
                check(fd, ref_of(b"12345"))
        os.close(fd)
        with pytest.raises(SealError):
            check_digest(folder, ref_of(b"12345"))


def test_the_newest_generation_is_found_in_any_order_of_the_folder(layout, monkeypatch):
    """Of several files of one generation the first by name counts; a generation 0 does not exist."""
    for stray in ("1.json", "old-00000002.json", "00000000.json", "000000000.json"):
        (layout.manifests / stray).write_bytes(b"another\n")
    listed = os.scandir

    for backwards in (False, True):
        monkeypatch.setattr(
            os,
            "scandir",
            lambda folder, backwards=backwards: closing_list(
                sorted(listed(folder), key=lambda entry: entry.name, reverse=backwards)
            ),
        )
        with fly(layout) as cache:
            assert cache.manifest.envelope.generation == 2
    monkeypatch.undo()
    for entry in list(layout.manifests.iterdir()):
        if entry.name not in {"00000000.json", "000000000.json"}:
            entry.unlink()
    assert "found none" in no_go(layout, ErrorKind.NO_GENERATION)[0]


def closing_list(entries):
    """Return what `os.scandir` returns, of these entries."""

    class Listing(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.clear()

    return Listing(entries)
