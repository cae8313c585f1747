"""After a power cut a cache opens by itself, shows what was acknowledged, and takes the next build.

The counts here are for every run; tests/crash/README.md has the commands of the long ones.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.crash.powercut import bugs, trace
from tests.crash.powercut.model import Change, Naming, Recording, UnmodelledError
from tests.crash.powercut.rig import blank, fresh, mounted, unable
from tests.crash.powercut.states import Cuts
from tests.crash.rigs import rig

pytestmark = pytest.mark.deep

STATES = 5000
STATES_WITH_A_BUG = 130
EXT4_CUTS = 16
BLOCK_CUTS = 24

needs_strace = pytest.mark.skipif(trace.STRACE is None, reason="needs strace")


@needs_strace
def test_every_legal_state_is_good():
    found = rig("powercut.replay", "--states", STATES)
    assert found["states"] >= STATES
    assert all(count > 0 for count in found["by_history"].values())
    # The recorder saw the calls: an empty history has no failures either.
    assert min(found["points"].values()) > 80


@needs_strace
@pytest.mark.parametrize("bug", bugs.BUGS)
def test_replay_finds(bug):
    found = rig(
        "powercut.replay",
        "--states",
        STATES_WITH_A_BUG,
        "--bug",
        bug,
        "--history",
        "generations",
        expect=None,
    )
    assert found["failures"] > 0, f"{bug} was not noticed in {found['states']} states"


def test_real_ext4_is_cut():
    found = rig("powercut.ext4", "--cuts", EXT4_CUTS)
    assert found["cuts"] == EXT4_CUTS
    assert found["after_an_acknowledgement"] > 0


def test_blocks_are_torn_and_reordered():
    found = rig("powercut.blocks", "--cuts", BLOCK_CUTS)
    assert found["cuts"] + found["unmountable"] == BLOCK_CUTS
    assert found["block_writes"] > 0
    assert found["flushes"] > 0


def test_real_ext4_shows_a_missing_sync():
    found = rig("powercut.ext4", "--cuts", 6, "--bug", "no_file_sync", expect=None)
    assert found["failures"] > 0


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_file_system_that_somebody_keeps_mounted_is_not_mounted_again(tmp_path):
    if reason := unable():
        pytest.skip(reason)
    image, at = blank(tmp_path), tmp_path / "mount"
    with mounted(image, at):
        before = at.stat().st_dev
        (at / "written").write_bytes(b"1")
        os.sync()
        # As any container that begins meanwhile.
        keeper = subprocess.Popen(["unshare", "-m", "--propagation", "private", "cat"], stdin=subprocess.PIPE)
        while str(at) not in Path(f"/proc/{keeper.pid}/mounts").read_text() or _same_mounts(keeper.pid):
            time.sleep(0.01)
    try:
        with mounted(fresh(image), at):
            assert (at / "written").read_bytes() == b"1"
            assert at.stat().st_dev != before
    finally:
        keeper.communicate()


def _same_mounts(pid):
    return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")


CREATED = (
    '7 openat(AT_FDCWD, "{top}\\x2f\\x61", O_WRONLY|O_CREAT, 0600) = 3',
    '7 write(3, "\\x41\\x42", 2) = 2',
)
FOLDER_SYNCED = ('7 openat(AT_FDCWD, "{top}", O_RDONLY|O_DIRECTORY) = 4', "7 fsync(4) = 0")


class TestModel:
    """The model of what is durable, on calls written by hand."""

    def recording(self, tmp_path, *lines):
        top = tmp_path / "top"
        top.mkdir()
        (top / "folder").mkdir()
        recording = Recording(str(top), str(tmp_path / "promises"))
        recording.begin()
        recording.follow(trace.parse(line.format(top=self.escaped(str(top))) for line in lines))
        return recording

    @staticmethod
    def escaped(text):
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    def states(self, recording, point, count=200):
        cuts = Cuts(recording, seed=1)
        return {
            json.dumps({k: None if v is None else v.decode() for k, v in cuts.draw(point, n).items()})
            for n in range(count)
        }

    def test_a_file_without_any_sync_may_be_there_in_every_way(self, tmp_path):
        recording = self.recording(tmp_path, *CREATED)
        found = {json.loads(each).get("a", "none") for each in self.states(recording, 2)}
        assert found == {"none", "", "AB", "\0\0"}

    def test_a_synced_file_without_its_folder_is_whole_or_absent(self, tmp_path):
        recording = self.recording(tmp_path, *CREATED, "7 fsync(3) = 0")
        found = {json.loads(each).get("a", "none") for each in self.states(recording, 3)}
        assert found == {"none", "AB"}
        # While the call that makes it durable is under way, it is not.
        assert len({json.loads(each).get("a", "none") for each in self.states(recording, 2)}) > 2

    def test_a_folder_makes_its_own_names_durable_and_no_others(self, tmp_path):
        recording = self.recording(
            tmp_path,
            CREATED[0],
            '7 mkdir("{top}\\x2f\\x66\\x6f\\x6c\\x64\\x65\\x72\\x2f\\x62", 0755) = 0',
            *FOLDER_SYNCED,
        )
        states = [json.loads(each) for each in self.states(recording, 4)]
        assert all("a" in state for state in states)
        assert {"folder/b" in state for state in states} == {True, False}

    def test_a_write_that_syncs_itself_covers_no_other(self, tmp_path):
        recording = self.recording(
            tmp_path,
            '7 openat(AT_FDCWD, "{top}\\x2f\\x61", O_RDWR|O_CREAT, 0600) = 3',
            '7 openat(AT_FDCWD, "{top}\\x2f\\x61", O_RDWR|O_DSYNC) = 5',
            '7 pwrite64(3, "\\x41", 1, 1) = 1',
            '7 pwrite64(5, "\\x42", 1, 0) = 1',
            *FOLDER_SYNCED,
        )
        found = {json.loads(each)["a"] for each in self.states(recording, recording.points)}
        assert found == {"B", "BA", "B\0"}

    def test_a_nameless_file_gets_its_name(self, tmp_path):
        recording = self.recording(
            tmp_path,
            '7 openat(AT_FDCWD, "{top}\\x2f\\x66\\x6f\\x6c\\x64\\x65\\x72", O_RDWR|O_TMPFILE, 0600) = 3',
            '7 write(3, "\\x41", 1) = 1',
            "7 fsync(3) = 0",
            '7 linkat(AT_FDCWD, "\\x2f\\x70\\x72\\x6f\\x63\\x2f\\x73\\x65\\x6c\\x66\\x2f\\x66\\x64\\x2f\\x33", AT_FDCWD, '
            '"{top}\\x2f\\x61", AT_SYMLINK_FOLLOW) = 0',
        )
        assert [type(each) for each in (*recording.changes, *recording.namings)] == [Change, Naming]
        found = {json.loads(each).get("a", "none") for each in self.states(recording, recording.points)}
        assert found == {"none", "A"}

    def test_calls_of_two_threads_are_put_together(self):
        lines = [
            "1 fsync(3 <unfinished ...>",
            '2 write(4, "\\x41", 1) = 1',
            "1 <... fsync resumed>)            = 0",
            "2 fsync(9) = -1 EBADF (Bad file descriptor)",
        ]
        assert [(call.name, call.arguments[0]) for call in trace.parse(lines)] == [
            ("write", "4"),
            ("fsync", "3"),
        ]

    def test_what_the_model_does_not_know_is_refused(self, tmp_path):
        with pytest.raises(UnmodelledError):
            self.recording(tmp_path, '7 rename("{top}\\x2f\\x61", "{top}\\x2f\\x62") = 0')


@needs_strace
def test_the_tracer_is_there():
    assert shutil.which("strace") == trace.STRACE
