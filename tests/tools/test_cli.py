import errno
import json
import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from store.disk import layout
from tests.child_python import run_python
from tests.examples_tried import mostly_deep
from tools.cli import _COMMANDS, cli
from tools.commands import status
from tools.config_file import from_environment
from tools.demo import demo
from tools.error_report import report_error
from tools.exit_codes import MEANINGS

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "init",
    "build",
    "plan",
    "rollback",
    "engines",
    "accept",
    "gc",
    "status",
    "log",
    "show",
    "manifest",
    "query",
    "replay",
    "report",
    "diff",
    "why",
    "verify",
    "prove",
    "doctor",
    "repair",
    "rebuild",
    "export",
    "import",
    "have",
    "mirror",
    "keygen",
    "sign",
    "schema",
    "demo",
]


def test_the_help_names_every_command_and_every_exit_code():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.stdout
    for code, meaning in MEANINGS.items():
        assert f"{int(code)}" in result.stdout
        assert meaning.split(";")[0] in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert list(_COMMANDS) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_takes_json(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert ("--cache" in result.stdout) == (name not in {"demo", "init", "keygen", "schema"})


def test_a_wrong_variable_is_named_unless_a_flag_overrides_it(tmp_path):
    wrong = {"C10_WORKERS": "many"}
    result = CliRunner().invoke(cli, ["status", "--cache", str(tmp_path)], env=wrong)
    assert result.exit_code == 2
    assert "C10_WORKERS: workers: expected a whole number from 1 to 256, found 'many'" in result.stderr
    assert from_environment(wrong, prefix="C10_", overridden={"workers"}) == ({}, ())


def test_without_a_command_the_help_is_shown():
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert "Usage: c10" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (["status", "--json"], "open_build"),
        (["build", "--json"], "outcome"),
        (["query", "x.jpg", "--json", "--top", "many"], "hits"),
        (["nonsense", "--json"], "error"),
        (["verify", "--json", "--budget", "soon", "--cache", "x"], "go"),
        (["verify", "--json", "--full", "--budget", "1s", "--cache", "x"], "problems"),
    ],
)
def test_wrong_usage_is_exit_2_with_two_lines_and_one_of_json(arguments, shape):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert shape in document
    assert document["error"]["kind"] == "usage"
    assert result.stderr.startswith("c10: error: ")
    assert "\n  -> c10" in result.stderr


def test_an_internal_error_shows_its_traceback_and_asks_for_a_report(built, monkeypatch):
    def broken(_):
        raise ValueError("oh no")

    monkeypatch.setattr(status, "open_view", broken)
    result = built.run("status", "--json")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "please report it" in result.stderr
    assert json.loads(result.stdout)["error"]["kind"] == "internal"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("deep"),
        RuntimeError("can't start new thread"),
        OSError(errno.EMFILE, "many"),
    ],
)
def test_a_process_that_lacks_something_says_so_in_two_lines(built, monkeypatch, error):
    def starved(_):
        raise error

    monkeypatch.setattr(status, "open_view", starved)
    result = built.run("status", "--json")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    first, second = result.stderr.splitlines()
    assert first.startswith("c10: error: expected ")
    assert second.startswith("  -> ")
    assert json.loads(result.stdout)["error"]["kind"] == "resources"


@pytest.mark.parametrize("mebibytes", mostly_deep((4, 40, 100), 40))
def test_memory_that_runs_out_for_real_is_exit_2(built, mebibytes):
    """Verification loads libraries that this process has no room for."""
    code = f"""
import resource, sys
from tools.cli import cli
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + ({mebibytes} << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main(sys.argv[1:])
"""
    done = run_python(code, "verify", "--full", "--cache", built.cache, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("c10: error: expected enough memory")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(("log",), ("show", "99", "--json")),
        *(pytest.param(each, marks=pytest.mark.deep) for each in (("manifest",), ("status", "--json"))),
    ],
)
def test_a_reader_that_went_away_is_no_error(built, command):
    done = run_without_reader(*command, "--cache", str(built.cache))
    assert done.returncode == (2 if "99" in command else 0)
    assert b"Broken" not in done.stderr
    assert b"Traceback" not in done.stderr


def run_without_reader(*args):
    """Run c10 with a pipe as its standard output from which nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "tools.cli", *args]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"C10_WORKERS": "1"},
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize(
    "as_json", [pytest.param([], marks=pytest.mark.deep), ["--json"]], ids=["text", "json"]
)
def test_a_reader_that_went_away_changes_no_exit_code(world, as_json):
    """As in `c10 verify | head -1`: a NO-GO stays one, and a build that failed has failed."""
    (world.cache / "artifacts").chmod(0o777)
    cache = ["--cache", str(world.cache), *as_json]
    assert run_without_reader("verify", *cache).returncode == 5
    (world.cache / "artifacts").chmod(0o755)
    next(iter(world.folder.glob("tiles/*/*/*"))).write_bytes(b"no image")
    assert run_without_reader("build", str(world.folder / "request.toml"), *cache).returncode == 3


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_went_away_from_the_help_is_no_error(option):
    done = run_without_reader(option)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_the_terminal_cannot_show_is_no_error(world, shell):
    strange = world.folder / "caché"
    world.cache.rename(strange)
    for arguments in (("status",), ("status", "--json"), ("doctor", "--json"), ("verify",)):
        done = shell(*arguments, "--cache", strange, env={"PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0, done.stderr


def test_the_same_runs_as_a_process(built, shell):
    done = shell("status", "--json", "--cache", built.cache)
    assert done.returncode == 0
    assert done.stderr == b""
    assert json.loads(done.stdout) == built.json("status")
    assert shell("--version").stdout.startswith(b"c10")


def test_verify_says_go(built):
    for depth in ((), ("--quick",), ("--full",), ("--budget", "20s"), ("--budget", "500ms", "--seed", "4")):
        document = built.json("verify", *depth)
        assert document["go"] is True
        assert document["problems"] == []
    assert document["seed"] == 4
    assert re.match(r"GO, [0-9]+ warnings  generation 3 \(build 1\)\n", built.run("verify").stdout)
    full = built.json("verify", "--full")
    assert full["hashed_files"] == full["total_files"] > built.json("verify")["total_files"]


def test_verify_says_no_go_with_exit_5(world):
    manifest = json.loads(world.manifest_file(3).read_bytes())["body"]
    world.artifact(manifest["index"]["artifact"]["sha256"]).unlink()
    result = world.run("verify", "--json")
    assert result.exit_code == 5
    document = json.loads(result.stdout)
    (problem,) = document["problems"]
    assert (document["go"], problem["subject"], problem["generations"]) == (False, "descriptor index", [1, 3])
    text = world.run("verify")
    assert text.stdout.startswith("NO-GO  generation 3")
    assert (text.stdout.count(problem["found"]), text.stderr) == (1, "")
    assert "c10: error: NO-GO: descriptor index" in result.stderr
    assert world.json("build", world.request)["outcome"] == "built"
    assert world.json("verify", "--full")["go"] is True


def test_what_verify_names_repairs_a_flipped_bit(world):
    manifest = json.loads(world.manifest_file(3).read_bytes())["body"]
    path = world.artifact(manifest["engines"][0]["artifact"]["sha256"])
    path.chmod(0o644)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert world.run("verify").exit_code == 0
    document = world.json("verify", "--full", code=5)
    (problem,) = document["problems"]
    assert problem["mend"] == f"c10 repair --cache {world.cache}"
    assert world.json("repair")["go"] is True
    assert path.read_bytes() == raw
    assert world.json("verify", "--full")["go"] is True


def test_an_engine_of_another_library_is_exit_6(world, monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "onnxruntime" else version(name))
    document = world.json("verify", code=6)
    assert [problem["kind"] for problem in document["problems"]] == ["device"]
    assert document["go"] is False
    hits = world.json("query", str(world.tile()), code=6)
    assert hits["hits"] is None


def test_a_query_finds_the_tile_itself(built):
    hits = built.json("query", str(built.tile(2178, 1409)), "--top", "3")["hits"]
    assert len(hits) == 3
    assert list(hits[0]) == ["z", "x", "y", "lon", "lat", "score", "sha256"]
    assert (hits[0]["z"], hits[0]["x"], hits[0]["y"]) == (12, 2178, 1409)
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-4)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    # The centre of 12/2178/1409: (2178.5 / 4096) turns east of the antimeridian.
    assert hits[0]["lon"] == pytest.approx(2178.5 / 4096 * 360 - 180, abs=1e-6)
    assert 48.8 < hits[0]["lat"] < 49.1
    assert "12/2178/1409" in built.run("query", str(built.tile(2178, 1409))).stdout


def test_more_places_than_there_are_is_no_error(built):
    assert len(built.json("query", str(built.tile()), "--top", "100")["hits"]) == 20


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_exit_2(built, tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert built.run("query", str(path)).exit_code == 2
    assert built.run("query", str(tmp_path)).exit_code == 2
    assert built.run("query", str(tmp_path / "none.jpg")).exit_code == 2


def test_a_picture_without_content_is_exit_2(built, tmp_path):
    path = tmp_path / "black.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    result = built.run("query", str(path))
    assert result.exit_code == 2
    assert "no descriptor" in result.stderr


def test_click_errors_never_reach_the_shell_raw():
    assert issubclass(click.UsageError, click.ClickException)
    result = CliRunner().invoke(cli, ["build", "--nonsense"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 2


@pytest.mark.parametrize("command", [["accept", "1"], ["rollback"]])
def test_text_that_is_no_utf8_is_refused(tmp_path, command):
    why = os.fsdecode(b"caf\xe9")
    result = CliRunner().invoke(cli, [*command, "--cache", str(tmp_path), "--why", why])
    assert result.exit_code == 2
    assert "expected UTF-8 as why" in result.stderr


def run_with(redirection, *args):
    """Run c10 as a process of a shell, with a redirection of its standard output or error."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "tools.cli", *args],
        cwd=ROOT,
        env=os.environ | {"C10_WORKERS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


LOST = (
    (">/dev/full", 8, "No space left on device"),
    (">&-", 2, "it is closed"),
    (">&- 2>&-", 2, ""),
    ("2>/dev/full", 0, ""),
)
TEXT, JSON = (), ("--json",)


@pytest.mark.parametrize(
    ("redirection", "lost", "told", "as_json"),
    [
        *((*lost, as_json) for lost, as_json in zip(LOST, (TEXT, JSON, JSON, TEXT), strict=True)),
        *(
            pytest.param(*lost, as_json, marks=pytest.mark.deep)
            for lost, as_json in zip(LOST, (JSON, TEXT, TEXT, JSON), strict=True)
        ),
    ],
)
def test_a_standard_output_that_takes_nothing(world, redirection, lost, told, as_json):
    other = world.folder / "other.toml"
    other.write_text((world.folder / "request.toml").read_text().replace('"tiny"', '"other"', 1))
    cache = ["--cache", str(world.cache), *as_json]
    # Both commit a generation; a build starts processes.
    words = ["rollback", "--to", "2"] if as_json else ["build", str(other)]
    looked = run_with(redirection, "status", *cache)
    written = run_with(redirection, *words, *cache)
    # Whoever asked cannot read the answer; but what was committed stays.
    assert (looked.returncode, written.returncode) == (lost, 0), (looked.stderr, written.stderr)
    assert world.json("status")["generation"] == 4
    for each in (looked, written):
        assert told in each.stderr
        assert "Traceback" not in each.stderr
    assert world.json("verify", "--full")["go"]


def test_progress_that_nobody_reads_does_not_stop_a_build(world):
    other = world.folder / "other.toml"
    other.write_text((world.folder / "request.toml").read_text().replace('"tiny"', '"other"', 1))
    run_with("2>&1 >/dev/null | true", "build", str(other), "--cache", str(world.cache))
    assert world.json("status")["generation"] == 4


@pytest.mark.parametrize("there", [False, True], ids=["new", "anybody may write to it"])
@pytest.mark.parametrize("command", ["build", "engines", "plan"])
def test_fat_is_refused_before_anything_is_made(empty, monkeypatch, command, there):
    if there:
        empty.cache.mkdir()
        empty.cache.chmod(0o777)
    monkeypatch.setattr(layout, "filesystem_type", lambda _: 0x4D44)
    error = empty.json(command, empty.request, code=2)["error"]
    assert "found FAT, which has no hard links" in error["message"]
    assert not (list(empty.cache.rglob("*")) if there else empty.cache.exists())


@pytest.mark.parametrize("there", [False, True], ids=["new", "anybody may write to it"])
@pytest.mark.parametrize("allowed", ["false", "true"])
@pytest.mark.parametrize("command", ["build", "plan", "import"])
def test_a_file_system_that_a_program_serves_is_refused_for_its_lack_of_hard_links(
    empty, built, monkeypatch, tmp_path, command, allowed, there
):
    """exFAT through FUSE: its type number says nothing, and to allow it would not help."""
    built.json("export", "-o", str(tmp_path / "b"))
    if there:
        empty.cache.mkdir()
        empty.cache.chmod(0o777)

    def no_links(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(layout, "filesystem_type", lambda _: 0x65735546)
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setenv("C10_ALLOW_UNKNOWN_FILESYSTEM", allowed)
    words = [str(tmp_path / "b")] if command == "import" else [empty.request]
    error = empty.json(command, *words, code=2)["error"]
    assert "expected a file system with hard links" in error["message"]
    assert "c10 export -o FILE" in error["hint"]
    assert not (list(empty.cache.rglob("*")) if there else empty.cache.exists())
    assert not list(empty.folder.glob(".c10-probe*"))


@pytest.mark.parametrize("spoilt", ["written by anybody", "a link"])
def test_what_verify_calls_no_go_is_not_called_up_to_date(world, spoilt):
    if spoilt == "a link":
        (world.cache / "artifacts").rename(world.folder / "elsewhere")
        (world.cache / "artifacts").symlink_to(world.folder / "elsewhere")
    else:
        (world.cache / "artifacts").chmod(0o777)
    assert world.run("verify").exit_code == 5
    for command in ("build", "plan"):
        assert world.run(command, world.request).exit_code == 2, command


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("bash", {"COMP_WORDS": "c10 ver", "COMP_CWORD": "1"}, ["plain,verify"]),
        pytest.param(
            *("bash", {"COMP_WORDS": "c10 verify --ful", "COMP_CWORD": "2"}, ["plain,--full"]),
            marks=pytest.mark.deep,
        ),
        ("bash", {"COMP_WORDS": "c10 export --artifacts fa", "COMP_CWORD": "3"}, ["plain,failing"]),
        ("zsh", {"COMP_WORDS": "c10 ver", "COMP_CWORD": "1"}, ["plain", "verify", "Check the cache"]),
        ("fish", {"COMP_WORDS": "c10 ver", "COMP_CWORD": "ver"}, ["plain", "verify", "Check the cache"]),
    ],
)
def test_shells_complete_commands_and_options(shell, name, words, expected):
    source = shell(env={"_C10_COMPLETE": f"{name}_source"})
    assert (source.returncode, b"_C10_COMPLETE" in source.stdout) == (0, True)
    done = shell(env={"_C10_COMPLETE": f"{name}_complete", **words})
    assert done.returncode == 0
    assert all(word in done.stdout.decode() for word in expected)


def test_an_empty_variable_is_not_set(built):
    assert built.run("status", env={"C10_SIGNING_KEY": "", "C10_NONSENSE": ""}).stderr == ""


def test_the_demonstration_asks_for_its_packages_first(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "faiss" else name)
    result = CliRunner().invoke(cli, ["demo", "--json"])
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["message"].split(", ")[-1]) == (2, "found no faiss")
    assert "pip install" in error["hint"]


@pytest.mark.parametrize("starts", [True, False])
def test_an_interrupt_by_a_library_that_lacks_threads_is_a_shortage(monkeypatch, capsys, starts):
    """OpenBLAS interrupts its own process if the system starts no thread for it (`ulimit -u`)."""

    def refuse(_):
        raise RuntimeError("can't start new thread")

    if not starts:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    code = report_error(KeyboardInterrupt(), shape={}, as_json=True)
    kind = json.loads(capsys.readouterr().out)["error"]["kind"]
    assert (code, kind) == ((130, "interrupted") if starts else (2, "resources"))


STARVED = """
import resource, sys
import tools.cli
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv.pop(1)) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv[0] = "c10"
tools.cli.main()
"""


@pytest.mark.parametrize(
    "mebibytes", mostly_deep((1, 3, 6, 10, 20, 35, 50, 70, 90, 110, 130, 150, 200), 1, 20, 70, 150)
)
def test_no_address_space_for_its_libraries_is_a_shortage(mebibytes, tmp_path):
    """OpenBLAS would end the process, or interrupt it; the loader has a message of its own."""
    arguments = ["query", "photo.png", "--cache", str(tmp_path / "none"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(mebibytes), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    kind = json.loads(done.stdout)["error"]["kind"]
    assert kind == "resources" or (mebibytes > 100 and kind == "no-cache"), done.stdout
