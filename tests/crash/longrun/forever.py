"""Rigs that take turns, a slice of time each with a fresh seed, until somebody stops them."""

import contextlib
import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.crash.longrun.catalogue import Part, Rig
from tests.crash.longrun.scorecard import Failure, Row, Scorecard

ROOT = Path(__file__).parents[3]
GROWTH = 4
"""A slice asks at most for so many times as much as the one before of the same part."""

HANG_S, HANG_SLICES = 3600.0, 60
"""A slice hangs if it takes longer than an hour and than so many slices."""

STOP_S = 30.0
"""How long a slice under way has for its answer when the run is stopped."""

PROGRESS_S = 30.0
"""A slice under way says so after so many seconds, and again after as many."""

EXAMPLES = 6
SHOWN = 3000
"""Characters of what a command that broke down said."""


class LongRun:
    """One run.

    Attributes:
        scorecard: The sums so far.
        stopped: Whether somebody asked it to stop.
    """

    def __init__(self, rigs: Sequence[Rig], *, seed: int, slice_s: float, file: Path | None) -> None:
        self.scorecard = Scorecard(seed, file, rows={rig.name: Row(rig.unit) for rig in rigs})
        self.stopped = False
        self._slice_s = slice_s
        self._seeds = itertools.count(seed)
        self._child: subprocess.Popen[str] | None = None
        self._stopped_at = 0.0
        dice = random.Random(seed)
        self._turns = {rig.name: _in_turn(rig.parts, dice) for rig in rigs}
        self._firsts: dict[tuple[str, str], int] = {}
        self._sizes = {(rig.name, part.name): part.size for rig in rigs for part in rig.parts}
        self._rigs = list(rigs)
        for rig in rigs:
            if rig.missing:
                self._skip(rig, rig.missing)

    def run(self, *, minutes: float | None) -> int:
        """Go on until stopped, or begin no slice after so many minutes; returns the exit code."""
        self.scorecard.write()
        ends = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        with self._signals():
            while self._rigs and not self.stopped and time.monotonic() < ends:
                # Some slices take longer than others; whoever had the least time so far is next.
                rig = min(self._rigs, key=lambda each: self.scorecard.rows[each.name].seconds)
                self._slice(rig, next(self._turns[rig.name]))
        return self._end()

    def _end(self) -> int:
        print("stopped" if self.stopped else "done", *self.scorecard.lines(), sep="\n", flush=True)
        if not any(row.slices for row in self.scorecard.rows.values()):
            print("no rig has run", file=sys.stderr)
            return 2
        return 1 if self.scorecard.failures else 0

    def _slice(self, rig: Rig, part: Part) -> None:
        """Run one command, book what came of it, and choose the size of the next."""
        key, seed = (rig.name, part.name), next(self._seeds)
        size = self._sizes[key]
        command = part.command(size, seed)
        first = ["--first", str(self._firsts.get(key, 0))] if part.goes_on else []
        limit = ["--seconds", f"{self._slice_s:g}"] if part.goes_on else []
        name = f"{rig.name} [{part.name}]" if part.name else rig.name
        began = time.monotonic()
        answer = self._answer([*command, *first, *limit], f"{name}: seed {seed}", by_status=rig.by_status)
        seconds = max(time.monotonic() - began, 0.001)
        if answer is None:
            print(f"{name}: seed {seed}, ended in the middle, not counted", flush=True)
        elif "skipped" in answer:
            self._skip(rig, str(answer["skipped"]))
        else:
            self._sizes[key] = max(1, min(round(size * self._slice_s / seconds), GROWTH * size))
            count = 0 if answer.get("broken") else rig.count(answer, size)
            row = self.scorecard.rows[rig.name]
            row.slices, row.count, row.seconds = row.slices + 1, row.count + count, row.seconds + seconds
            row.failures += answer["failures"]
            row.unmountable += answer.get("unmountable", 0)
            told = f"{count} {rig.unit}, {answer['failures']} failures, {seconds:.0f} s"
            told += f", {answer['unmountable']} unmountable" if answer.get("unmountable") else ""
            if "of" in answer:
                last = answer["first"] + answer["done"]
                told += f", those up to {last} of {answer['of']}"
                # The same points, however long they take.
                limit = ["--points", str(max(1, answer["done"]))]
                self._firsts[key] = last if last < answer["of"] else 0
            print(f"{name}: seed {seed}, {told}", flush=True)
            if answer["failures"]:
                self._fail(rig, part, seed, shlex.join([*command, *first, *limit]), answer["examples"])
            self.scorecard.write()

    def _fail(self, rig: Rig, part: Part, seed: int, command: str, examples: Sequence[object]) -> None:
        shown = [each if isinstance(each, str) else json.dumps(each) for each in examples[:EXAMPLES]]
        self.scorecard.failures.append(
            Failure(rig=rig.name, part=part.name, seed=seed, command=command, examples=shown)
        )
        print(*(f"  BAD {each}" for each in shown), f"  again: {command}", sep="\n", flush=True)

    def _skip(self, rig: Rig, reason: str) -> None:
        print(f"{rig.name}: skipped, {reason}", flush=True)
        self.scorecard.rows[rig.name].skipped = reason
        self._rigs.remove(rig)

    def _answer(self, command: Sequence[str], name: str, *, by_status: bool) -> dict[str, Any] | None:
        """What a command answers; None if it was stopped before it had an answer.

        Args:
            command: Its words; "python" stands for this interpreter.
            name: What progress is told of.
            by_status: Whether its exit status is its answer. Otherwise that is JSON, in its last line.
        """
        words = [sys.executable if word == "python" else word for word in command]
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            # A group of its own: a key that is pressed here reaches this process alone, which then tells the child.
            with subprocess.Popen(
                words, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
            ) as self._child:
                out, hung = self._wait(self._child, name)
            status, self._child = self._child.returncode, None
            said.seek(0)
            end = (out + said.read())[-SHOWN:]
        answer = None if by_status else _answer_in(out)
        if self.stopped:
            # Its status may be that of the signal.
            return answer
        if by_status and not hung:
            return {"failures": int(status != 0), "examples": [end] if status else []}
        if answer is not None and not hung and status == int(answer.get("failures", 0) > 0):
            return answer
        how = "did not end" if hung else f"ended with status {status} and no answer that explains it"
        return {"broken": True, "failures": 1, "examples": [f"it {how}: {end}"]}

    def _wait(self, child: "subprocess.Popen[str]", name: str) -> tuple[str, bool]:
        """Return what a child printed, and whether it had to be killed because it did not end; tell that it goes on."""
        began = told = time.monotonic()
        ends = began + max(HANG_S, HANG_SLICES * self._slice_s)
        while True:
            try:
                return child.communicate(timeout=0.5)[0], time.monotonic() > ends
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if now > told + PROGRESS_S:
                    print(f"{name}, under way for {now - began:.0f} s", flush=True)
                    told = now
                if now > ends or (self.stopped and now > self._stopped_at + STOP_S):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the run, and the slice under way says what it has so far."""

        def stop(*_: object) -> None:
            if not self.stopped:
                self.stopped, self._stopped_at = True, time.monotonic()
                if self._child is not None:
                    self._child.send_signal(signal.SIGINT)

        before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _answer_in(out: str) -> dict[str, Any] | None:
    """The answer of a rig in the last line of what it printed; None if there is none."""
    with contextlib.suppress(IndexError, ValueError):
        answer = json.loads(out.splitlines()[-1])
        if isinstance(answer, dict) and ("skipped" in answer or isinstance(answer.get("failures"), int)):
            return answer
    return None


def _in_turn(parts: Sequence[Part], dice: random.Random) -> Iterator[Part]:
    """All parts in a random order, then all in another one, without an end."""
    while True:
        yield from dice.sample(parts, len(parts))
