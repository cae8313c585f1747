"""Locales, folders with odd names, and what a shell does to a process."""

import fcntl
import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from store.cache.view import read_history
from store.disk.layout import Layout
from tests.tools.conftest import ROOT, make_world

pytestmark = pytest.mark.deep

ODD = b"caf\xe9"
"""The name of a folder, in Latin-1."""

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LOCALES = [
    pytest.param({"LC_ALL": "C.UTF-8"}, id="UTF-8"),
    pytest.param(ASCII, id="ASCII"),
    pytest.param({**ASCII, "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}, id="ASCII streams"),
]


def run_in(folder, locale, *words):
    """Run c10 in a folder, with a locale; words may be bytes."""
    return subprocess.run(
        [sys.executable, "-m", "tools.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "C10_WORKERS": "1", **locale},
        capture_output=True,
        check=False,
        timeout=120,
    )


def answered(done, code=0):
    """The JSON line of a command that ended with a code and printed no traceback."""
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    found = json.loads(done.stdout)
    json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair, which other readers refuse
    return found


@pytest.mark.parametrize("locale", LOCALES)
def test_folders_whose_names_are_no_utf8(tmp_path, locale):
    odd = tmp_path / os.fsdecode(ODD)
    world = make_world(odd / "world")
    places = {name: odd / name for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for place in places.values():
        place.mkdir()
    setting = locale | {name: str(place) for name, place in places.items()}
    cache = ["--json", "--cache", str(odd / "cache")]
    assert answered(run_in(odd, setting, "plan", world.request, *cache))["wanted"] == 20
    assert answered(run_in(odd, setting, "build", world.request, *cache))["outcome"] == "built"
    world.tile().write_bytes(world.tile().read_bytes()[:50])
    failed = answered(run_in(odd, setting, "build", world.request, *cache), code=3)
    assert failed["error"]["kind"] == "bad-tile"
    answered(run_in(odd, setting, "build", str(odd / "none.toml"), *cache), code=2)
    for words in (("verify", "--full"), ("replay", "2"), ("query", str(world.tile(y=1409)))):
        answered(run_in(odd, setting, *words, *cache))
    shown = run_in(odd, setting, "replay", "2", "--cache", str(odd / "cache"))
    assert (shown.returncode, b"caf\\udce9" in shown.stdout) == (0, True)
    assert answered(run_in(odd, setting, "export", "-o", str(odd / "bundle"), *cache))["records"]
    assert answered(run_in(odd, setting, "log", "--json", "--bundle", str(odd / "bundle")))["entries"]


def test_a_current_folder_that_was_removed_is_named(built, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = [sys.executable, "-m", "tools.cli", "gc", "--cache"]
    for cache, code, told in (("cache", 2, "the current folder"), (str(built.cache), 0, "")):
        done = subprocess.run(
            ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", gone, *words, cache],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert told in done.stderr
        gone.mkdir()


@pytest.mark.parametrize("locale", LOCALES)
def test_a_request_names_files_in_utf8_whatever_the_locale(tmp_path, locale):
    world = make_world(tmp_path / "zdjęcia 写真")
    request = world.folder / "request.toml"
    text = request.read_text(encoding="utf-8")
    for name in ("tiles", "camera.json", "tiny.onnx"):
        shutil.move(world.folder / name, world.folder / f"ü-{name}")
        text = text.replace(f'"{name}', f'"ü-{name}')
    request.write_text(text, encoding="utf-8")
    cache = ["--json", "--cache", str(world.cache)]
    assert answered(run_in(world.folder, locale, "build", "request.toml", *cache))["outcome"] == "built"
    accepted = answered(run_in(world.folder, locale, "accept", "1", "--why", "geprüft", *cache))
    assert accepted["accepted"] == [1]
    assert read_history(Layout(world.cache)).facts[-1].event.why == "geprüft"


def build_and_close_the_terminal(world, ignored):
    """Build on a terminal that is closed once the build has begun; return the exit code."""
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.chdir(ROOT)
        words = ("build", world.request, "--cache", str(world.cache))
        os.execv(sys.executable, [sys.executable, "-m", "tools.cli", *words])
    shown = b""
    while b"compile" not in shown:
        shown += os.read(terminal, 1 << 12)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize(("ignored", "code", "status"), [(False, 129, "failed"), (True, 0, "committed")])
def test_a_terminal_that_is_closed_ends_a_build_unless_it_ignores_that(empty, ignored, code, status):
    assert build_and_close_the_terminal(empty, ignored) == code
    (entry,) = empty.json("log")["entries"]
    assert entry["status"] == status


def test_an_output_that_does_not_block_loses_nothing(built):
    """A pipe that takes a page at a time, and a reader that begins late."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    words = [sys.executable, "-m", "tools.cli", "replay", "1", "--json", "--cache", str(built.cache)]
    with subprocess.Popen(words, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        select.select([reading], [], [])
        time.sleep(0.5)
        with os.fdopen(reading, "rb") as file:
            document = json.loads(file.read())
    assert (process.returncode, document["build"]) == (0, 1)


def removing(folder, at, patch):
    """Remove a folder before the call of that number that looks into it."""
    calls = itertools.count(1)

    def watched(real):
        def call(path, *arguments, **options):
            if str(path).startswith(str(folder)) and next(calls) == at:
                shutil.rmtree(folder)
            return real(path, *arguments, **options)

        return call

    for name in ("open", "stat", "lstat", "scandir"):
        patch.setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize("at", [1, 2, 4, 8, 12, 16, 60])
@pytest.mark.parametrize("command", ["verify", "status", "log", "query", "export"])
def test_a_cache_that_is_removed_meanwhile_is_said_to_be_missing(world, command, at):
    words = {"query": [str(world.tile())], "export": ["-o", str(world.folder / "bundle")]}.get(command, [])
    with pytest.MonkeyPatch.context() as patch:
        removing(world.cache, at, patch)
        done = world.run(command, *words)
    # What `status` had read by then is told; when it looks, depends on the version of Python.
    codes = {0} if world.cache.exists() else {0, 2} if command == "status" else {2}
    assert done.exit_code in codes, done.stderr
    assert "Traceback" not in done.stderr
