"""A cache goes to another machine through ssh: a real server, on the loopback address."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal.lock import lock_holder
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests import sshd
from tests.small_builds import tree

pytestmark = [pytest.mark.deep, pytest.mark.skipif(not sshd.installed(), reason=sshd.NEEDS)]
ROOT = Path(__file__).parents[3]
HERE = f"{shlex.quote(sys.executable)} -m tools.cli"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        if subprocess.run([*server.client, "true"], check=False).returncode:
            if "locked" in server.log():
                pytest.skip("sshd lets nobody into an account that is locked")
            pytest.fail(server.log())
        yield server


class Drone:
    """A cache on the other side of the connection, and the commands that a person types."""

    def __init__(self, server, cache):
        self.server, self.cache = server, cache
        self.layout = Layout(cache)

    def typed(self, text):
        """Return the words that run `c10` there."""
        there = f"cd {shlex.quote(str(ROOT))} && {HERE} {text} --cache {shlex.quote(str(self.cache))}"
        return [*self.server.client, there]

    def run(self, text, **options):
        return subprocess.run(self.typed(text), capture_output=True, check=False, timeout=120, **options)

    def update(self, world, *, through="cat"):
        """Send what is new, in the one line of the recipe; returns the exit codes and what was said."""
        have, take = (shlex.join(self.typed(text)) for text in ("have", "import - --follow --json"))
        export = f"{HERE} export --have - -o - --cache {shlex.quote(str(world.cache))}"
        line = f"{have} | {export} | {through} | {take}; echo ${{PIPESTATUS[@]}} >&2"
        ended = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, check=False, timeout=240)
        return ended.stderr.decode().splitlines()[-1].split(), ended

    def count(self):
        return len(list(Artifacts(self.layout).names()))

    def wait_until(self, holds, what):
        for _ in range(1200):
            if holds():
                return
            time.sleep(0.05)
        raise AssertionError((what, self.server.log()))


@pytest.fixture
def drone(server, tmp_path):
    return Drone(server, tmp_path / "a cache; of 7")


def test_a_first_transfer_and_then_only_what_is_new(world, drone):
    codes, ended = drone.update(world)
    assert codes == ["0"] * 4, ended.stderr
    first = json.loads(ended.stdout)
    assert (first["outcome"], first["generation"]) == ("imported", 3)
    assert world.json("build", "--again", world.request)["outcome"] == "built"
    codes, ended = drone.update(world)
    assert codes == ["0"] * 4, ended.stderr
    then = json.loads(ended.stdout)
    assert (then["outcome"], then["generation"]) == ("advanced", 4)
    assert then["artifacts"]["files"] < first["artifacts"]["files"] / 2
    codes, ended = drone.update(world)
    assert json.loads(ended.stdout)["outcome"] == "unchanged"
    assert json.loads(drone.run("verify --full --json").stdout)["go"]
    with FlightCache.open(drone.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()


def test_a_connection_that_ends_in_the_middle_changes_nothing(built, drone):
    whole = subprocess.run(
        [sys.executable, "-m", "tools.cli", "export", "-o", "-", "--cache", str(built.cache)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    sending = subprocess.Popen(
        drone.typed("import - --follow"), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sending.stdin.write(whole[: len(whole) * 9 // 10])
    sending.stdin.flush()
    drone.wait_until(lambda: drone.count() > 2, "no artifact arrived")
    sending.kill()
    sending.communicate(timeout=60)
    drone.wait_until(lambda: lock_holder(drone.layout.build_lock) is None, "the receiver still waits")
    assert not drone.layout.exists()
    arrived = drone.count()
    line = drone.run("have").stdout
    assert len(json.loads(line)["extra"]) == arrived > 2
    codes, ended = drone.update(built)
    assert codes == ["0"] * 4, ended.stderr
    assert json.loads(ended.stdout)["artifacts"]["files"] == drone.count() - arrived
    assert json.loads(drone.run("verify --full --json").stdout)["go"]


def test_a_sender_that_dies_leaves_the_copy_as_it_was(built, drone):
    assert drone.update(built)[0] == ["0"] * 4
    before = tree(drone.cache)
    codes, ended = drone.update(built, through="head -c 9000")
    assert codes[:1] + codes[2:] == ["0", "0", "5"], ended.stderr
    assert json.loads(ended.stdout)["error"]["kind"] == "bundle"
    assert tree(drone.cache) == before
    assert drone.update(built)[0] == ["0"] * 4


def test_a_slow_link(built, drone):
    slow = f"{shlex.quote(sys.executable)} -c " + shlex.quote(
        "import sys, time\n"
        "while data := sys.stdin.buffer.read1(2000):\n"
        "    sys.stdout.buffer.write(data); sys.stdout.buffer.flush(); time.sleep(0.1)"
    )
    codes, ended = drone.update(built, through=slow)
    assert codes == ["0"] * 4, ended.stderr
    assert json.loads(ended.stdout)["generation"] == 3


def test_an_error_there_is_an_error_here(built, drone, tmp_path):
    drone.cache.mkdir()
    (drone.cache / "somebody's").touch()
    codes, ended = drone.update(built)
    assert codes[-1] == "2"
    assert "expected an empty folder or a cache" in json.loads(ended.stdout)["error"]["message"]
    drone.cache = tmp_path / "folder" / "cache"
    drone.cache.parent.touch()
    codes, ended = drone.update(built)
    assert codes[-1] != "0"
    assert b"Traceback" not in ended.stderr
