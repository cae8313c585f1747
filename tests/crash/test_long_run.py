"""The long run takes turns, adds up, stops when it is told to, and says how to see a failure again."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.harness import shim
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.launch import Sweeper, kind_of
from tests.crash.harness.plan import Plan, document_of, plan_of
from tests.crash.longrun import forever
from tests.crash.longrun.catalogue import Part, Rig, rigs
from tests.crash.longrun.forever import LongRun
from tests.crash.longrun.sweeps import plans
from tests.crash.powercut import trace

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
BUG = "in_place"
SECONDS = 20


def long_run(*arguments, **options):
    """Start one; what it prints is read line by line."""
    command = [sys.executable, "-m", "tests.crash.soak", "--forever", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(trace.STRACE is None, reason="needs strace")
def test_a_seeded_bug_is_reported_with_a_command_that_fails_again(tmp_path):
    file = tmp_path / "scorecard.json"
    chosen = ("--row", "power cuts", "--row", "random histories", "--row", "hostile input")
    with long_run(
        *("--bug", BUG, "--slice", 1, "--minutes", SECONDS / 60, "--seed", 7, "--json", file), *chosen
    ) as run:
        lines = run.stdout.read().splitlines()
    assert run.returncode == 1
    found = json.loads(file.read_text())
    assert {failure["rig"] for failure in found["failures"]} == {"power cuts"}
    assert found["rigs"]["random histories"]["count"] > 0
    assert found["rigs"]["hostile input"]["failures"] == 0
    failure = found["failures"][0]
    assert f"  again: {failure['command']}" in lines
    assert f"--seed {failure['seed']}" in failure["command"]
    assert failure["examples"]
    # As somebody would who reads it in the morning.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    again = subprocess.run(
        failure["command"],
        shell=True,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1, again.stderr
    answer = json.loads(again.stdout.splitlines()[-1])
    assert answer["failures"] > 0
    assert answer["examples"][0]["failed"] == json.loads(failure["examples"][0])["failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_the_sums(tmp_path, number):
    file = tmp_path / "scorecard.json"
    chosen = ("--row", "random histories", "--row", "storm of commits")
    with long_run("--slice", 2, "--seed", 3, "--json", file, *chosen) as run:
        told = [run.stdout.readline() for _ in range(3)]
        run.send_signal(number)
        rest = run.stdout.read().splitlines()
    assert run.returncode == 0
    assert told[0] == "seed 3\n"
    assert told[1].startswith("storm of commits: seed 3, ")
    assert told[2].startswith("random histories: seed 4, ")
    assert "stopped" in rest
    sums = json.loads(file.read_text())["rigs"]
    assert list(sums) == ["storm of commits", "random histories"]
    assert any(line.startswith(f"random histories: {sums['random histories']['count']} op") for line in rest)


def test_a_rig_that_lacks_something_is_skipped_and_told_once(tmp_path):
    chosen = ("--row", "power cuts", "--row", "kills", "--row", "errors", "--row", "cuts of a real ext4")
    with long_run("--slice", 1, *chosen, env=os.environ | {"PATH": str(tmp_path)}) as run:
        lines = run.stdout.read().splitlines()
    assert run.returncode == 2
    for rig, lacking in (("power cuts", "strace"), ("kills", "gcc"), ("errors", "gcc")):
        # When it is found out, and in the sums.
        assert [line for line in lines if line.startswith(f"{rig}: ")] == [
            line for line in lines if line.startswith(f"{rig}: skipped, needs {lacking}")
        ]
        assert sum(line.startswith(f"{rig}: ") for line in lines) == 2


def a_rig(name, text, *, size=4, **fields):
    """A rig that is a line of Python, which knows its SIZE and its SEED."""

    def command(chosen, seed):
        return ["python", "-c", f"SIZE, SEED = {chosen}, {seed}\n{text}"]

    part = Part(name="", command=command, size=size)
    return Rig(name=name, unit="units", parts=(part,), count=lambda _, chosen: chosen, **fields)


GOOD = 'print(\'{"failures": 0, "examples": []}\')'


def run_for(rigs, seconds, tmp_path, *, slice_s=0.2):
    """Let them take turns, and begin none after so many seconds; returns the exit code and the scorecard."""
    file = tmp_path / "scorecard.json"
    run = LongRun(rigs, seed=1, slice_s=slice_s, file=file)
    return run.run(minutes=seconds / 60), json.loads(file.read_text())


def test_slices_grow_to_their_time_and_the_rig_with_the_least_time_is_next(tmp_path):
    slow = a_rig("slow", f"import time; time.sleep(1.5); {GOOD}")
    code, found = run_for([slow, a_rig("quick", GOOD, size=1)], 3, tmp_path, slice_s=1.0)
    rows = found["rigs"]
    assert code == 0
    assert rows["slow"]["slices"] < rows["quick"]["slices"]
    assert rows["quick"]["count"] > rows["quick"]["slices"]
    assert rows["slow"]["count"] <= 4 * rows["slow"]["slices"]


@pytest.mark.parametrize(
    ("text", "by_status", "said"),
    [
        ("raise SystemExit('out of order')", False, "out of order"),
        ("import os; os.kill(os.getpid(), 9)", False, "status -9"),
        ("print('2 failed'); raise SystemExit(1)", True, "2 failed"),
        ("import time; time.sleep(60)", False, "it did not end"),
        ('print(\'{"failures": 2, "examples": ["this"]}\'); raise SystemExit(1)', False, "this"),
        (f"{GOOD}; raise SystemExit(3)", False, "status 3"),
        (f"import os; {GOOD[:-1]}, flush=True); os.kill(os.getpid(), 15)", False, "status -15"),
        ("print(7)", False, "status 0"),
        ("print('{}')", False, "status 0"),
    ],
)
def test_whatever_goes_wrong_is_a_failure(tmp_path, monkeypatch, text, by_status, said):
    monkeypatch.setattr(forever, "HANG_S", 2.0)
    monkeypatch.setattr(forever, "HANG_SLICES", 1)
    code, found = run_for([a_rig("bad", text, by_status=by_status)], 0.1, tmp_path)
    failure, row = found["failures"][0], found["rigs"]["bad"]
    assert code == 1
    assert row["failures"] == row["slices"] * (2 if said == "this" else 1)
    assert said in failure["examples"][0]
    assert failure["seed"] == 1
    assert failure["command"].startswith("python -c ")


def test_images_that_cannot_be_mounted_are_told(tmp_path, capsys):
    text = 'print(\'{"failures": 0, "examples": [], "unmountable": 8}\')'
    code, found = run_for([a_rig("blocks", text)], 0.1, tmp_path)
    row = found["rigs"]["blocks"]
    assert (code, row["unmountable"]) == (0, 8 * row["slices"])
    first, *_, last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("blocks: ")]
    assert first.endswith(", 8 unmountable")
    assert last.endswith(f", {row['unmountable']} unmountable")


def test_all_rigs_have_their_turns():
    names = [rig.name for rig in rigs(most=None, workers=1)]
    assert len(set(names)) == len(names) == 17
    documents = [
        json.loads(part.command(4, 9)[-1])
        for rig in rigs(most=None, workers=1)
        for part in rig.parts
        if "--plan" in part.command(4, 9)
    ]
    assert all(document["seed"] == 9 for document in documents)
    assert len(documents) == len(list(plans(None, 9)))


def test_a_plan_is_carried_by_json():
    for _, plan in plans(None, 5):
        assert plan_of(json.loads(json.dumps(document_of(plan)))) == plan


@pytest.fixture(scope="module")
def sweeper(tmp_path_factory):
    if shim.compiler() is None:
        pytest.skip("needs gcc")
    plan = Plan(driver="accept")
    with Sweeper(kind_of(plan), shim.build(tmp_path_factory.mktemp("shim"))) as found:
        yield found


@pytest.mark.parametrize("action", ["EIO+", "EMFILE", "after"])
def test_without_a_limit_a_sweep_takes_every_call(sweeper, action):
    """Every call that the action fits, not some of each kind."""
    every = sweeper.sweep(Plan(driver="accept", actions=(action,)))
    some = sweeper.sweep(Plan(driver="accept", actions=(action,), most=1))
    assert every["bad"] == []
    assert every["planned"] == every["happened"] > some["planned"]
    if action != "EMFILE":  # which only opening fits
        assert every["planned"] == every["calls"]


def test_without_a_limit_every_writer_meets_every_kill_and_error_at_every_call():
    found = Counter((row, plan.driver, plan.actions) for row, plan in plans(None, 1) if plan.most is None)
    for driver in DRIVERS:
        for row, actions in (("kills", shim.KILLS), ("errors", shim.ERRORS)):
            assert all(found[row, driver, (action,)] == 1 for action in actions)


def test_sweeps_that_go_on_do_each_point_of_a_whole_one_once(sweeper):
    plan = Plan(driver="accept", actions=("EIO+", "after"))
    whole, first, done = sweeper.sweep(plan), 0, []
    assert (whole["done"], whole["of"]) == (whole["happened"], whole["happened"])
    while first < whole["of"]:
        found = sweeper.sweep(replace(plan, first=first, points=7))
        assert (found["bad"], found["of"]) == ([], whole["of"])
        done.append(found["done"])
        first += found["done"]
    assert done[:-1] == [7] * (len(done) - 1)
    assert sum(done) == whole["of"]


def test_a_sweep_whose_time_is_up_stops_after_a_point(sweeper):
    found = sweeper.sweep(Plan(driver="accept", actions=("EIO+",), first=3, seconds=1e-9))
    assert (found["done"], found["happened"]) == (1, 1)
    assert found["of"] > 4


SWEEP = """
import json, sys
given = dict(zip(sys.argv[1::2], map(float, sys.argv[2::2])))
first, done = int(given["--first"]), int(given.get("--points", 3))
print(json.dumps({"failures": 1, "examples": [given], "first": first, "done": min(done, 8 - first), "of": 8}))
raise SystemExit(1)
"""


def test_the_next_slice_of_a_sweep_goes_on_and_its_command_repeats_its_points(tmp_path, capsys):
    rig = a_rig("kills", SWEEP)
    rig = replace(rig, parts=(replace(rig.parts[0], goes_on=True),))
    _, found = run_for([rig], 1.5, tmp_path)
    assert [each["examples"][0] for each in found["failures"]][:4] == [
        json.dumps({"--first": float(first), "--seconds": 0.2}) for first in (0, 3, 6, 0)
    ]
    commands = [shlex.split(each["command"])[3:] for each in found["failures"]][:4]
    assert commands == [
        ["--first", first, "--points", points]
        for first, points in (("0", "3"), ("3", "3"), ("6", "2"), ("0", "3"))
    ]
    assert "those up to 6 of 8" in capsys.readouterr().out


def test_a_slice_under_way_says_so_and_the_file_is_there_from_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(forever, "PROGRESS_S", 0.6)
    file = tmp_path / "scorecard.json"
    text = f"import os; assert os.path.exists({str(file)!r}); import time; time.sleep(2); {GOOD}"
    code, found = run_for([a_rig("slow", text)], 0.1, tmp_path)
    assert (code, found["rigs"]["slow"]["slices"]) == (0, 1)
    assert capsys.readouterr().out.startswith("slow: seed 1, under way for 1 s\n")


@pytest.mark.skipif(shim.compiler() is None, reason="needs gcc")
def test_a_slice_of_a_sweep_ends_soon_after_its_time(tmp_path):
    file = tmp_path / "scorecard.json"
    command = ["--row", "kills", "--bug", BUG, "--slice", 1, "--minutes", 0.01, "--seed", 5, "--json", file]
    with long_run(*command) as run:
        lines = run.stdout.read().splitlines()
    assert "those up to" in lines[1]
    row = json.loads(file.read_text())["rigs"]["kills"]
    assert (row["slices"], row["count"] >= 1) == (1, True)
    assert row["seconds"] < 60  # the whole of it takes minutes
