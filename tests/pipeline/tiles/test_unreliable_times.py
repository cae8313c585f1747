"""Where a file may change and keep its fingerprint, content decides whether a cached digest is right.

The cache is made wrong: its digests are those of other content under the same fingerprints, as after another
release of an image was mounted in place of the first.
"""

import hashlib
import os

import numpy as np
import pytest

from journal.storage import filesystem
from pipeline.tiles.digest_cache import Fingerprint, shows_changes
from pipeline.tiles.sources.read_tile import close_archives
from pipeline.tiles.sources.registry import open_source

WIDE = (-1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
KINDS = ("xyz", "mbtiles", "pmtiles")
EXT4 = 0xEF53
UNRELIABLE = {
    "squashfs": 0x73717368,
    "erofs": 0xE0F5E1E2,
    "iso9660": 0x9660,
    "overlay": 0x794C7630,
    "nfs": 0x6969,
    "9p": 0x01021997,
    "fuse": 0x65735546,
    "vfat": 0x4D44,
}


@pytest.fixture
def mounted(monkeypatch):
    """Make every path be on a file system of some type, mounted writable or not."""

    def mount(number=EXT4, *, read_only=False, elsewhere=False):
        status = os.statvfs("/")
        flags = status.f_flag | os.ST_RDONLY if read_only else status.f_flag & ~os.ST_RDONLY
        shown = os.statvfs_result((*status[:8], flags, status[9]))
        monkeypatch.setattr(filesystem, "filesystem_type", lambda _: number)
        monkeypatch.setattr(os, "statvfs", lambda _: shown)
        monkeypatch.setattr(filesystem, "_is_written_elsewhere", lambda _: elsewhere)

    mount()
    return mount


@pytest.fixture(params=KINDS)
def digests(request, archives, tmp_path):
    """Return a function that queries a source with a digest cache, and returns the digests."""
    tiles = archives.block(5, 10, 10)
    write = getattr(archives, f"write_{request.param}")
    spec = write(tmp_path / ("tiles" if request.param == "xyz" else f"a.{request.param}"), tiles)

    def query():
        try:
            source = open_source(
                spec, tmp_path, digest_cache_folder=tmp_path / "cache", now_ns=lambda: 4 * 10**18
            )
            return [tile.sha256 for tile in source.query_by_bbox(WIDE, (5, 5))]
        finally:
            close_archives()

    return query


def make_wrong(folder):
    """Change the last digest in a cache file, and mend the checksum."""
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    content[8:40] = hashlib.sha256(content[40:]).digest()
    path.write_bytes(content)


@pytest.mark.parametrize("name", UNRELIABLE)
def test_content_decides_where_change_times_mean_nothing(digests, tmp_path, mounted, name):
    right = digests()
    make_wrong(tmp_path / "cache")
    assert digests() != right, "a cached digest is believed where change times are kept"
    mounted(UNRELIABLE[name])
    assert digests() == right


def test_content_decides_on_a_read_only_mount(digests, tmp_path, mounted):
    right = digests()
    make_wrong(tmp_path / "cache")
    mounted(read_only=True)
    assert digests() == right


def test_a_folder_that_a_container_sees_read_only_is_not_hashed_each_time(digests, tmp_path, mounted):
    right = digests()
    make_wrong(tmp_path / "cache")
    mounted(read_only=True, elsewhere=True)
    assert digests() != right
    mounted(UNRELIABLE["overlay"], read_only=True, elsewhere=True)
    assert digests() == right


MOUNTS = """\
22 1 0:21 / /proc rw,nosuid - proc proc rw
30 1 {device} / /part/one ro,relatime shared:1 - ext4 /dev/sda1 {options}
31 1 {device} /tiles /part/two ro,relatime - ext4 /dev/sda1 {options}
"""


@pytest.mark.parametrize(
    ("options", "found"), [("rw,errors=remount-ro", True), ("ro,rw_hint=1", False), (None, False)]
)
def test_the_kernel_says_whether_a_file_system_is_writable_as_a_whole(monkeypatch, tmp_path, options, found):
    device = tmp_path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}" if options else "250:250"
    text = MOUNTS.format(device=name, options=options)
    monkeypatch.setattr(filesystem.Path, "read_text", lambda _, errors: text)
    assert filesystem._is_written_elsewhere(tmp_path) is found


def test_nothing_is_cached_where_change_times_mean_nothing(digests, tmp_path, mounted):
    mounted(UNRELIABLE["squashfs"])
    digests()
    assert not (tmp_path / "cache").exists()


def test_a_change_time_of_whole_seconds_was_set_by_a_program(mounted):
    keys = np.array([Fingerprint(1, 2, 3, 4, 5_000_000_000 + more) for more in (0, 1, 999_999_999)])
    assert shows_changes(keys, lambda _: "/").tolist() == [False, True, True]


def test_each_device_is_asked(monkeypatch):
    monkeypatch.setattr("pipeline.tiles.digest_cache.keeps_change_times", lambda path: path.name != "image")
    keys = np.array([Fingerprint(device, 1, 1, 1, 1) for device in (-7, 8, -7, 9)])
    shown = shows_changes(keys, lambda row: ["image", "disk", "image", "disk"][row])
    assert shown.tolist() == [False, True, False, True]


def test_a_path_that_cannot_be_asked_is_not_relied_on(tmp_path):
    assert not filesystem.keeps_change_times(tmp_path / "none")
