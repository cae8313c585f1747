"""The network cache: an entry is valid while `stat` shows unchanged files, and a network's fitness is never cached."""

import os
import time

import pytest

from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.models import network, network_cache
from pipeline.engines.models.network import inspect_models
from pipeline.engines.models.network_cache import NetworkCache
from pipeline.engines.onnx.file import onnx_digest
from pipeline.errors import CompileError
from pipeline.tiles.digest_cache import RACY_NS
from tests.small_builds import Site, tiny_network

LATER_NS = 3600 * 10**9


class Desk:
    """A site, a network cache with an adjustable clock, and the number of networks that were read."""

    def __init__(self, root, monkeypatch):
        self.site = Site(root)
        self.path = self.site.root / "net.onnx"
        self.folder = self.site.root / "memory"
        self.ahead_ns = LATER_NS
        self.read = 0

        def counted(path):
            self.read += 1
            return onnx_digest(path)

        monkeypatch.setattr(network, "onnx_digest", counted)

    def look(self, *, folder=None, **model):
        memory = NetworkCache(folder or self.folder, now_ns=lambda: time.time_ns() + self.ahead_ns)
        request = self.site.request(model=model)
        return inspect_models(request, OnnxRuntimeCompiler(), None, networks=memory)

    def kept(self):
        return sorted(self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def desk(tmp_path, monkeypatch):
    return Desk(tmp_path / "site", monkeypatch)


def with_weights_beside(site):
    import onnx

    model = onnx.load_from_string(tiny_network())
    onnx.save(
        model,
        site.root / "net.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def test_a_network_is_read_once(desk):
    first = desk.look()
    assert desk.look() == first
    assert desk.read == 1
    assert first[0].job.onnx_sha256 == onnx_digest(desk.path)
    assert [path.name[:8] for path in desk.kept()] == ["network-"]


def test_another_content_of_the_same_length_and_time_is_read(desk):
    before, first = desk.path.stat(), desk.look()
    content = tiny_network(seed=1)
    assert len(content) == before.st_size
    desk.path.write_bytes(content)
    os.utime(desk.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert desk.look()[0].key != first[0].key
    assert desk.read == 2


def test_a_network_that_was_just_written_is_not_cached(desk):
    desk.ahead_ns = 0
    desk.look()
    desk.look()
    assert desk.read == 2
    assert desk.kept() == []


def test_a_network_on_a_file_system_without_change_times_is_read_each_time(desk, monkeypatch):
    squashfs = 0x73717368
    desk.look()
    monkeypatch.setattr("journal.storage.filesystem.filesystem_type", lambda _: squashfs)
    desk.look()
    assert desk.read == 2
    (kept,) = desk.kept()
    kept.unlink()
    desk.look()
    assert desk.kept() == []


def test_a_network_that_changes_while_it_is_read_is_not_cached(desk, monkeypatch):
    def replaced(path):
        found = onnx_digest(path)
        path.unlink()
        path.write_bytes(tiny_network())
        return found

    monkeypatch.setattr(network, "onnx_digest", replaced)
    desk.look()
    assert desk.kept() == []


def test_weights_that_change_during_a_long_read_are_not_cached(desk, monkeypatch):
    """The change is long past when the read ends, but it came after the read began."""
    with_weights_beside(desk.site)
    weights = desk.site.root / "weights.bin"

    def read_long(path, *, change):
        found = onnx_digest(path)
        if change:
            written = time.time_ns() + desk.ahead_ns
            weights.write_bytes(bytes(weights.stat().st_size))
            os.utime(weights, ns=(written, written))
        desk.ahead_ns += 2 * RACY_NS
        return found

    monkeypatch.setattr(network, "onnx_digest", lambda path: read_long(path, change=True))
    desk.look()
    assert desk.kept() == []
    # The change prevents the entry, not the length of the read.
    desk.ahead_ns += LATER_NS
    monkeypatch.setattr(network, "onnx_digest", lambda path: read_long(path, change=False))
    desk.look()
    assert len(desk.kept()) == 1


def test_weights_beside_it_count(desk):
    with_weights_beside(desk.site)
    first = desk.look()
    assert desk.look() == first
    assert desk.read == 1
    weights = desk.site.root / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert desk.look()[0].key != first[0].key
    weights.unlink()
    with pytest.raises(CompileError, match="readable network file"):
        desk.look()


def test_weights_that_got_another_hard_link_are_refused(desk):
    with_weights_beside(desk.site)
    desk.look()
    os.link(desk.site.root / "weights.bin", desk.site.root / "other.bin")
    with pytest.raises(CompileError, match="hard links"):
        desk.look()


def test_a_link_in_place_of_the_network_is_read_each_time(desk):
    desk.look()
    real = desk.site.root / "real.onnx"
    os.link(desk.path, real)
    desk.path.unlink()
    desk.path.symlink_to(real)
    first = desk.look()
    assert desk.look() == first
    assert desk.read == 3


def test_whether_a_network_fits_is_checked_each_time(desk):
    desk.look()
    with pytest.raises(CompileError, match="expected an output called 'other'"):
        desk.look(output="other")
    assert desk.read == 1


@pytest.mark.parametrize("content", ["", "torn", "flipped", "foreign"])
def test_a_damaged_entry_is_replaced(desk, content):
    first = desk.look()
    (path,) = desk.kept()
    data = path.read_bytes()
    body = b"\x93\x01\x02\x03"
    damaged = {
        "": b"",
        "torn": data[:-1],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "foreign": network_cache._MAGIC + network_cache.hashlib.sha256(body).digest() + body,
    }[content]
    path.write_bytes(damaged)
    assert desk.look() == first
    assert desk.read == 2
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written_costs_only_time(desk):
    blocked = desk.site.write("blocked", b"")
    assert desk.look(folder=blocked) == desk.look(folder=blocked)
    assert desk.read == 2


def test_a_folder_in_place_of_an_entry_is_ignored(desk):
    desk.look()
    (path,) = desk.kept()
    path.unlink()
    path.mkdir()
    desk.look()
    assert desk.read == 2
