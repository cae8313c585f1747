"""What takes a foreign permission to write away: chmod, or, where that changes nothing, another mount."""

import os
import stat
from pathlib import Path

import pytest

from store.disk.layout import Layout
from store.errors import CacheUnusableError, NoGoError
from store.files.permissions import mount_without_permissions, refuse_world_writable, revoke_writing
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.transfer.mirror import mirror
from store.verify.verify import verify
from tests.played_builds import Scenario, play
from tests.store_caches import open_writer


@pytest.fixture
def card(tmp_path):
    source = Layout(tmp_path / "source")
    with open_writer(source) as store:
        play(store, Scenario())
    mirror(source, tmp_path / "card")
    for folder in (tmp_path / "card", tmp_path / "card" / "artifacts"):
        folder.chmod(0o777)
    return tmp_path / "card"


@pytest.fixture
def mounted(monkeypatch, tmp_path):
    """Let the test's folder be on a file system of some name."""
    read_text = Path.read_text

    def mount(name):
        device = tmp_path.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        text = f"25 1 0:999 / /other rw - ext4 /dev/a rw\n36 25 {number} / /a\\040b rw shared:7 - {name} /dev/b rw\n"

        def faked(self, *args, **options):
            return text if str(self) == "/proc/self/mountinfo" else read_text(self, *args, **options)

        monkeypatch.setattr(Path, "read_text", faked)

    return mount


@pytest.mark.parametrize("name", ["vfat", "exfat", "fuseblk", "ntfs3"])
def test_no_chmod_is_advised_where_it_changes_nothing(card, mounted, name):
    mounted(name)
    said = f"mount it again with umask=022 (chmod changes nothing on {name})"
    with pytest.raises(CacheUnusableError) as refused:
        refuse_world_writable(card)
    assert refused.value.hint == said
    problems = verify(Layout(card)).problems
    assert {problem.fix for problem in problems if problem.kind == "exposed"} == {said}
    with pytest.raises(NoGoError) as denied:
        FlightCache.open(card, trusted_keys=ALLOW_UNSIGNED)
    assert "chmod -R" not in denied.value.hint
    assert "umask=022" in denied.value.hint
    assert "read-only" in denied.value.hint


@pytest.mark.parametrize("name", ["ext4", "f2fs", "overlay", "fuse.sshfs"])
def test_where_there_are_permissions_chmod_is_advised(card, mounted, name):
    mounted(name)
    assert revoke_writing(card) == f"chmod -R o-w {card}"
    assert revoke_writing(card, "g") == f"chmod -R g-w {card}"
    with pytest.raises(NoGoError) as denied:
        FlightCache.open(card, trusted_keys=ALLOW_UNSIGNED)
    assert denied.value.hint.startswith("chmod -R o-w CACHE")


def test_what_the_kernel_does_not_list_has_permissions(card, mounted, tmp_path):
    mounted("exfat")
    assert mount_without_permissions(card) == "exfat"
    assert mount_without_permissions("/proc") == ""
    assert mount_without_permissions(tmp_path / "none") == ""
    assert stat.S_IMODE(card.stat().st_mode) == 0o777
