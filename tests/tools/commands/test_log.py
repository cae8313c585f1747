"""The log of real builds."""

import numpy as np

from store.disk.layout import Layout
from tests.played_builds import Scenario
from tests.store_caches import record_builds
from tests.tools.conftest import World, picture


def test_the_log_is_newest_first(built):
    entries = built.json("log")["entries"]
    assert [(each["type"], each["build"], each["generation"], each["status"]) for each in entries] == [
        ("rollback", 1, 3, "rolled back"),
        ("build", 3, 2, "committed"),
        ("build", 2, None, "failed"),
        ("build", 1, 1, "committed"),
    ]
    assert entries[2]["error"]["kind"] == "bad-tile"
    assert entries[3]["tiles_embedded"] == 20
    assert entries[1]["tiles_embedded"] == 1


def test_the_log_tells_neither_nearly_all_as_all_nor_little_as_nothing(tmp_path):
    tiles = {(x, y): "a" for x in range(16) for y in range(16)}
    record_builds(
        Layout(tmp_path / "cache"),
        Scenario(tiles={**tiles, (20, 0): "a"}),
        Scenario(flight="f2", tiles={**tiles, (20, 0): "b"}),
        Scenario(flight="f3", tiles={**dict.fromkeys(tiles, "c"), (20, 0): "b"}),
    )
    lines = World(tmp_path).run("log").stdout.splitlines()
    assert [" ".join(line.split()[6:8]) for line in lines[1:4]] == ["0.4 %", "99.6 %", "0 %"]


def test_the_log_can_be_narrowed(built):
    assert [each["build"] for each in built.json("log", "--failed")["entries"]] == [2]
    assert [each["generation"] for each in built.json("log", "-n", "2")["entries"]] == [3, 2]
    assert built.run("log", "-n", "0").exit_code == 2


def test_the_log_fits_a_terminal(built):
    lines = built.run("log").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("left build 3: just because" in line for line in lines)


def test_log_tells_what_builds_cost(built):
    entries = {entry["generation"]: entry for entry in built.json("log")["entries"]}
    assert (entries[2]["reuse_ppm"], entries[1]["reuse_ppm"], entries[None]["reuse_ppm"]) == (
        950_000,
        0,
        None,
    )
    assert entries[1]["bytes"] > entries[2]["bytes"] > entries[None]["bytes"] > 0
    assert entries[3]["bytes"] is None
    assert "95 %" in built.run("log").stdout


def test_log_shows_a_trend_of_several_builds(world):
    for number in range(3):
        picture(np.random.default_rng(200 + number)).save(world.tile())
        world.json("build", world.request)
    lines = world.run("log").stdout.splitlines()
    assert len(lines[-1].split()[-1]) >= 3
    assert lines[-1].split()[0] == "reused"
