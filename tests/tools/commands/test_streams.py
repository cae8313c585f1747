"""Bundles through pipes: `export -o -`, `import -` and `have`, whole, cut short, flipped, and with a side that dies."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from store.cache.view import open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from tests.small_builds import tree
from tools.cli import cli

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[3]


def c10(*args, code=0, data=b""):
    """Run a command with something on standard input; returns its output."""
    result = CliRunner().invoke(cli, [str(each) for each in args], input=data)
    assert result.exit_code == code, result.output
    return result


def start(*args, **options):
    """Start a command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "tools.cli", *map(str, args)], cwd=ROOT, stderr=subprocess.PIPE, **options
    )


@pytest.fixture
def stream(built):
    """A bundle of everything, from standard output."""
    result = c10("export", "-o", "-", "--cache", built.cache)
    return result.stdout_bytes


@pytest.fixture
def copy(built, tmp_path):
    """A copy that follows, up to the first build."""
    first = c10("export", "1", "-o", "-", "--cache", built.cache).stdout_bytes
    c10("import", "-", "--follow", "--cache", tmp_path / "copy", data=first)
    return tmp_path / "copy"


def shown(folder):
    """What a cache shows: all files but the artifacts that nothing names yet, the lock, and empty folders."""
    files = {path: data for path, data in tree(folder).items() if not path.endswith("journal.mdb-lock")}
    known = {f"artifacts/{digest[:2]}/{digest}" for digest in named(folder)}
    return {path: data for path, data in files.items() if not path.startswith("artifacts/") or path in known}


def named(folder):
    layout = Layout(folder)
    have = json.loads(c10("have", "--cache", folder).stdout)
    return {digest for digest, _ in Artifacts(layout).names() if digest} - set(have["extra"])


def test_a_stream_has_the_bytes_of_the_file(built, stream, tmp_path):
    built.json("export", "-o", str(tmp_path / "b"))
    assert stream == (tmp_path / "b").read_bytes()
    result = c10("export", "-o", "-", "--cache", built.cache)
    assert "exported to standard output" in result.stderr
    assert "SHA-256" in result.stderr
    done = c10("import", "-", "--cache", tmp_path / "new", "--json", data=stream)
    assert json.loads(done.stdout)["outcome"] == "imported"
    assert read_history(Layout(tmp_path / "new")).facts[-1].event.source == "standard input"
    assert json.loads(c10("verify", "--full", "--cache", tmp_path / "new", "--json").stdout)["go"]


def test_a_file_whose_name_is_a_hyphen_is_written_with_a_dot(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built.json("export", "-o", "./-")
    assert (tmp_path / "-").stat().st_size > 1000
    c10("import", "./-", "--cache", tmp_path / "new")


def test_only_what_is_new_is_sent(built, copy, tmp_path):
    line = c10("have", "--cache", copy).stdout_bytes
    assert line.count(b"\n") == 1
    assert len(line) < 300
    result = c10("export", "--have", "-", "-o", "-", "--cache", built.cache, data=line)
    assert "are there already" in result.stderr
    (tmp_path / "line").write_bytes(line)
    told = built.json("export", "--have", str(tmp_path / "line"), "-o", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == result.stdout_bytes
    assert told["held"] > 5
    done = c10("import", "-", "--follow", "--cache", copy, "--json", data=result.stdout_bytes)
    assert json.loads(done.stdout)["artifacts"]["files"] == told["artifacts"]["files"] < told["held"]
    ours, theirs = (c10("status", "--cache", each, "--json").stdout for each in (built.cache, copy))
    assert ours == theirs


def test_what_is_no_line_of_have_is_refused_before_a_byte_is_sent(built, tmp_path):
    for data in (b"", b"Permission denied (publickey).\n", b"[]\n"):
        result = c10("export", "--have", "-", "-o", "-", "--cache", built.cache, code=2, data=data)
        assert result.stdout_bytes == b""
        assert "c10 have" in result.stderr
    assert built.json("export", "--have", "none", "-o", str(tmp_path / "b"), code=2)["error"]["kind"] == (
        "file-system"
    )
    assert not (tmp_path / "b").exists()


def test_json_and_the_bundle_do_not_share_a_stream(built):
    result = c10("export", "-o", "-", "--json", "--cache", built.cache, code=2)
    assert json.loads(result.stdout)["error"]["kind"] == "usage"


def test_a_stream_that_is_cut_short_anywhere_changes_nothing(stream, copy, tmp_path):
    before = shown(copy)
    step = len(stream) // 20
    ends = (*range(0, 120, 11), *range(120, len(stream), step), len(stream) - 1)
    for number, end in enumerate(ends):
        for folder in (copy, tmp_path / "new")[: 1 + (number % 4 == 0)]:
            result = c10("import", "-", "--follow", "--cache", folder, "--json", code=5, data=stream[:end])
            error = json.loads(result.stdout)["error"]
            assert error["kind"] == "bundle"
            assert "the end of the stream" in error["message"] or not end
            assert "run both again" in error["hint"]
        assert shown(copy) == before
        assert not (tmp_path / "new" / "journal.mdb").exists()
    result = c10("import", "-", "--follow", "--cache", copy, data=stream)
    assert "generation   3" in result.stdout


def test_a_flipped_bit_anywhere_changes_nothing(stream, copy):
    before = shown(copy)
    for at in (*range(0, 300, 31), *range(300, len(stream), len(stream) // 20), len(stream) - 1):
        data = bytearray(stream)
        data[at] ^= 1 << at % 8
        c10("import", "-", "--follow", "--cache", copy, code=5, data=bytes(data))
        assert shown(copy) == before


def test_what_stands_behind_the_trailer_is_refused(stream, copy):
    before = shown(copy)
    result = c10("import", "-", "--follow", "--cache", copy, code=5, data=stream + b"x")
    assert "nothing behind the trailer" in result.stderr
    assert shown(copy) == before


def test_no_folder_is_made_for_what_is_no_bundle(tmp_path):
    for data, found in (
        (b"", "its sender wrote no byte"),
        (b"x" * 500, "begins otherwise"),
        (b"C10", "the end of"),
    ):
        result = c10("import", "-", "--cache", tmp_path / "new", code=5, data=data)
        assert found in result.stderr
    assert not (tmp_path / "new").exists()


def stored(folder):
    return len(list(Artifacts(Layout(folder)).names()))


def wait_until(holds, what):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(what)


@pytest.mark.parametrize("killed", ["sender", "receiver"])
@pytest.mark.parametrize("follows", [False, True], ids=["first", "next"])
def test_a_side_that_is_killed_changes_nothing(stream, copy, tmp_path, killed, follows):
    folder = copy if follows else tmp_path / "new"
    before, count = (shown(folder), stored(folder)) if follows else ({}, 0)
    receiver = start("import", "-", "--follow", "--cache", folder, stdin=subprocess.PIPE)
    receiver.stdin.write(stream[: len(stream) - 40])
    receiver.stdin.flush()
    wait_until(lambda: stored(folder) > count, "no artifact arrived")
    if killed == "receiver":
        receiver.kill()
        receiver.stdin.close()
        assert receiver.wait(60) == -signal.SIGKILL
    else:
        receiver.stdin.close()
        assert receiver.wait(60) == 5
    assert shown(folder) == before if follows else not (folder / "journal.mdb").exists()
    line = c10("have", "--cache", folder).stdout_bytes
    assert json.loads(line)["extra"]
    c10("import", "-", "--follow", "--cache", folder, data=stream)
    assert json.loads(c10("verify", "--full", "--cache", folder, "--json").stdout)["go"]
    assert not any(Layout(folder).scratch.iterdir())


def test_an_export_whose_reader_goes_away_says_so(built, tmp_path):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:  # noqa: PTH123 - a descriptor
        sender = start("export", "-o", "-", "--cache", built.cache, stdout=closed)
        _, told = sender.communicate(timeout=60)
    assert sender.returncode == 2
    assert b"found that its reader went away" in told
    assert b"Traceback" not in told


def test_a_full_disk_behind_standard_output_is_exit_code_8(built):
    with Path("/dev/full").open("wb") as full:
        sender = start("export", "-o", "-", "--cache", built.cache, stdout=full)
        _, told = sender.communicate(timeout=60)
    assert sender.returncode == 8, told


@pytest.mark.parametrize(
    "words", [("export", "-o", "-"), ("import", "-"), ("export", "--have", "-", "-o", "x")]
)
def test_a_terminal_is_refused(built, tmp_path, words):
    leader, terminal = pty.openpty()
    try:
        folder = built.cache if words[0] == "export" else tmp_path / "new"
        words = [str(tmp_path / "x") if word == "x" else word for word in words]
        ended = start(*words, "--cache", folder, stdin=terminal, stdout=terminal)
        _, told = ended.communicate(timeout=60)
    finally:
        os.close(leader)
        os.close(terminal)
    assert ended.returncode == 2
    assert b"found a terminal" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("export", "-o", "-"), ("import", "-")])
def test_a_closed_stream_is_refused(built, tmp_path, words):
    folder = built.cache if words[0] == "export" else tmp_path / "new"
    shell = f'exec "$0" -m tools.cli "$@" --cache {folder} <&- >&-'
    ended = subprocess.run(
        ["bash", "-c", shell, sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, check=False
    )
    assert ended.returncode == 2
    assert b"closed" in ended.stderr


def test_a_receiver_waits_for_a_slow_sender_that_does_not_block(stream, tmp_path):
    read, write = os.pipe()
    os.set_blocking(read, False)
    receiver = start("import", "-", "--cache", tmp_path / "new", stdin=read)
    os.close(read)
    with open(write, "wb", buffering=0) as sender:  # noqa: PTH123 - a descriptor
        for at in range(0, len(stream), 4096):
            time.sleep(0.02)
            sender.write(stream[at : at + 4096])
    _, told = receiver.communicate(timeout=60)
    assert receiver.returncode == 0, told
    assert open_view(Layout(tmp_path / "new")).state.head.number == 3


def test_two_receivers_at_once(stream, tmp_path):
    (tmp_path / "stream").write_bytes(stream)
    sides = []
    for _ in range(2):
        with (tmp_path / "stream").open("rb") as sender:
            sides.append(start("import", "-", "--follow", "--cache", tmp_path / "new", stdin=sender))
    ends = [side.communicate(timeout=120) for side in sides]
    assert sorted({side.returncode for side in sides}) in ([0], [0, 4]), ends
    assert open_view(Layout(tmp_path / "new")).state.head.number == 3


def test_a_bundle_that_is_too_long_for_one_file_is_told_so(built, tmp_path):
    """As on FAT32, which takes 4 GiB a file."""
    script = f'ulimit -f 8; exec "$0" -m tools.cli export --cache {built.cache} -o {tmp_path / "b"}'
    ended = subprocess.run(
        ["bash", "-c", script, sys.executable], cwd=ROOT, stderr=subprocess.PIPE, check=False
    )
    assert ended.returncode == 2
    assert b"FAT32 takes 4 GiB a file" in ended.stderr
    assert not (tmp_path / "b").exists()
