"""What a word on the command line means, and what is said of one that means nothing."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.cli import _COMMANDS, cli


def run(*words, env=None):
    return CliRunner().invoke(cli, words, env=env)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("biuld", "build"),
        ("statsu", "status"),
        ("rolback", "rollback"),
        ("BUILD", "build"),
        ("veryfy", "verify"),
    ],
)
def test_a_mistyped_command_is_told_the_nearest(typed, meant):
    found = run(typed, "--cache", "x")
    assert found.exit_code == 2
    assert f"expected a command, found {typed!r}; did you mean {meant}?" in found.stderr


def test_a_word_that_is_near_to_nothing_gets_no_proposal():
    assert "found 'xyzzy'\n  -> c10 --help" in run("xyzzy").stderr


def test_a_mistyped_option_is_told_the_nearest():
    assert "Did you mean '--cache'?" in run("status", "--chache", "x").stderr


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_is_a_command_too(name):
    assert run("help", name).stdout == run(name, "--help").stdout


def test_help_without_a_name_lists_the_commands():
    found = run("help")
    assert (found.exit_code, found.stdout) == (0, run("--help").stdout)
    assert "did you mean build?" in run("help", "biuld").stderr


def test_no_word_at_all_is_a_mistake_that_shows_the_help():
    found = run()
    assert (found.exit_code, found.stdout) == (2, "")
    assert "Usage: c10" in found.stderr


@pytest.mark.parametrize(
    "name", [name for name in _COMMANDS if name not in {"init", "keygen", "schema", "demo"}]
)
def test_the_variables_that_stand_for_options_are_in_the_help(name):
    shown = " ".join(run(name, "--help").stdout.split())
    assert "[env var: C10_CACHE]" in shown
    assert "[env var: C10_CONFIG]" in shown


def test_a_cache_is_asked_for_with_the_variable_that_names_it():
    assert "expected --cache DIR (or the variable C10_CACHE), found none" in run("status").stderr
    assert "found none" in run("status", env={"C10_CACHE": ""}).stderr
    assert "nowhere" in run("status", env={"C10_CACHE": "nowhere"}).stderr
    assert "elsewhere" in run("status", "--cache", "elsewhere", env={"C10_CACHE": "nowhere"}).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "foo"), "from 1, found 'foo'"),
        (("show", "0"), "from 1, found '0'"),
        (("log", "-n", "1.5"), "from 1, found '1.5'"),
        (("rollback", "--to", "x"), "from 1, found 'x'"),
        (("query", "a.jpg", "--top", "99999"), "from 1 to 10,000, found '99999'"),
    ],
)
def test_a_number_that_is_none_is_told_plainly(words, said):
    assert f"expected a whole number {said}" in run(*words, "--cache", "x").stderr


@pytest.mark.parametrize(
    ("path", "said"), [("~/a", "only a shell expands ~"), ("https://b.c/a", "C10 fetches nothing")]
)
@pytest.mark.parametrize("key", ["calibration", "captured", "source", "onnx"])
def test_a_path_that_only_other_programs_follow_is_no_file(empty, key, path, said):
    request = Path(empty.request)
    lines = request.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(key))
    request.write_text("\n".join([*lines[:at], f'{key} = "{path}"', *lines[at + 1 :]]))
    assert said in empty.run("plan", empty.request, "--no-measure").stderr


def test_each_problem_of_a_request_has_its_line(empty):
    request = Path(empty.request)
    request.write_text(request.read_text().replace("bbox =", "polygon =").replace("sector =", "sectr ="))
    first, *others = empty.run("plan", empty.request, "--no-measure").stderr.splitlines()
    assert first == f"c10: error: {empty.request}: 4 problems:"
    assert [line.split(":")[0] for line in others[:-1]] == ["  sectr", "  polygon", "  sector", "  bbox"]
    assert others[-1].startswith("  -> ")
