"""Text and tables on terminals of any width, and for programs."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples_tried import mostly_deep
from tests.tools.conftest import ROOT
from tools.output import page, render

WORDS = st.lists(st.text("abc,/", min_size=1, max_size=12), min_size=1, max_size=30).map(" ".join)
DIGEST = "0123456789abcdef" * 4
HEADER = ("step", "subject", "count", "decision", "why")
ROWS = [
    ("engine", "place", 1, "reuse", "same key, checked"),
    ("cells", None, 40, "run", "its chunks changed since the last build of this place"),
]


def on(columns, lines):
    """The lines that `lines()` gives on a terminal."""
    with page.laid_out_for(columns):
        return lines()


@given(WORDS, st.integers(30, 120))
def test_a_text_is_wrapped_between_words(text, columns):
    shown = on(columns, lambda: render.wrap(text))
    assert max(map(len, shown)) <= columns
    assert " ".join(shown) == text


@given(WORDS, st.integers(30, 120))
def test_a_line_that_nobody_wrapped_is(text, columns):
    shown = on(columns, lambda: page.fit("   " + text))
    assert max(map(len, shown)) <= columns
    assert " ".join(" ".join(shown).split()) == text
    assert all(line.startswith("   ") for line in shown)
    assert page.fit("   " + text) == ["   " + text]


def test_the_further_lines_of_a_hint_begin_below_its_text():
    hint = {"kind": "k", "message": "m", "hint": "set the altitude, with the camera in the calibration"}
    for shown in (
        on(40, lambda: render.warning_lines([hint]))[1:],
        on(40, lambda: page.fit(f"  -> {hint['hint']}")),
    ):
        assert shown == ["  -> set the altitude, with the camera", "     in the calibration"]


@pytest.mark.parametrize(
    ("columns", "pieces"), [(40, [24, 24, 16]), (30, [16] * 4), (60, [40, 24]), (80, [64])]
)
def test_a_digest_is_broken_into_equal_parts_where_it_does_not_fit(columns, pieces):
    shown = on(columns, lambda: render.fields(("identity", DIGEST)))
    assert [len(line[13:]) for line in shown] == pieces
    assert "".join(line[13:] for line in shown) == DIGEST
    assert render.fields(("identity", DIGEST)) == [f"identity     {DIGEST}"]


def test_a_long_path_is_broken_after_its_slashes():
    path = "/mnt/imagery/2026/orthophotos/of/the/north"
    shown = on(40, lambda: render.fields(("page", path)))
    assert [line[13:] for line in shown] == ["/mnt/imagery/2026/", "orthophotos/of/the/north"]


def test_a_table_is_one_line_a_row_for_a_program_however_long():
    assert len(render.table(HEADER, ROWS)) == 3
    assert max(map(len, render.table(HEADER, ROWS))) > page.WIDTH


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_table_fits_the_terminal_and_loses_nothing(columns):
    shown = on(columns, lambda: render.section("Plan", render.table(HEADER, ROWS, right="  r", indent=2)))
    assert max(map(len, shown)) <= columns
    said = " ".join(" ".join(shown).split())
    assert all(str(cell) in said for row in (HEADER, *ROWS) for cell in row if cell is not None)


def test_the_last_column_is_wrapped_in_its_place():
    assert on(60, lambda: render.table(HEADER, ROWS, right="  r"))[2:] == [
        "cells   -           40  run       its chunks changed since",
        "                                  the last build of this",
        "                                  place",
    ]


def test_a_row_is_folded_if_that_does_not_suffice():
    rows = [("one", 1, 2), ("two", None, None)]
    table = on(30, lambda: render.table(("name of the thing", "number", "another number"), rows, right=" rr"))
    assert table == [
        "name of the thing  number",
        "    another number",
        "one                     1",
        "                 2",
        "two                     -",
    ]


@pytest.mark.parametrize(
    "command",
    mostly_deep(
        ("status", "log", "show", "verify", "diff 1 3", "why cells", "replay 2"), "status", "log", "replay 2"
    ),
)
@pytest.mark.parametrize("columns", [40, 100])
def test_no_line_is_wider_than_the_terminal(built, command, columns):
    shown = on_terminal(columns, *command.split(), "--cache", str(built.cache))
    wide = [line for line in shown if len(line) > columns and not set(line) <= {" ", "^"}]
    assert len(shown) >= 3
    assert wide == []


def on_terminal(columns, *words):
    """The lines that a command prints on a terminal."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
    command = [sys.executable, "-m", "tools.cli", *words]
    environ = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=inner, stderr=subprocess.DEVNULL) as process:
        os.close(inner)
        shown = b""
        while part := read(outer):
            shown += part
        process.wait(60)
    os.close(outer)
    return shown.decode().replace("\r\n", "\n").splitlines()


def read(fd):
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # nobody has the other side open
        return b""
