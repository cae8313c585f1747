"""`c10 plan`: without a cache, with and without a measured second."""

import json

from click.testing import CliRunner

from tests.tools.conftest import ACROSS, DOWN, fingerprint
from tools.cli import cli


def plan(*arguments, code=0):
    """Plan with no cache named."""
    done = CliRunner().invoke(cli, ["plan", *arguments], env={"C10_CACHE": None})
    assert done.exit_code == code, done.output
    return done


def test_without_a_cache_it_plans_for_an_empty_one_and_says_so(world, tmp_path):
    before = fingerprint(tmp_path)
    done = plan(world.request, "--no-measure")
    assert "planned for an empty one" in done.stdout
    assert fingerprint(tmp_path) == before
    told = json.loads(plan(world.request, "--no-measure", "--json").stdout)
    assert told["cache"] is None
    assert told["to_embed"] == ACROSS * DOWN
    there = world.json("plan", world.request, "--no-measure")
    assert (there["cache"], there["decision"]) == (str(world.cache), "reused")


def test_a_dry_run_needs_no_cache_either_and_measures_nothing(world):
    done = CliRunner().invoke(cli, ["build", "--dry-run", world.request, "--json"], env={"C10_CACHE": None})
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["cache"] is None
    assert {each["basis"] for each in told["time"]} == {None}
    refused = CliRunner().invoke(cli, ["build", world.request], env={"C10_CACHE": None})
    assert refused.exit_code == 2
    assert "--cache DIR" in refused.output


def test_a_first_plan_says_that_it_measured(world):
    done = plan(world.request)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["embed", "tiny", "less", "than", "10", "s", "measured", "now"] in rows
    assert "measure tiny" in done.stderr


def test_tiles_are_hashed_in_sight(world, tmp_path):
    done = CliRunner().invoke(
        cli,
        ["plan", world.request, "--no-measure"],
        env={"C10_CACHE": None, "XDG_CACHE_HOME": str(tmp_path / "empty")},
    )
    assert f"hash tiles: {ACROSS * DOWN} tiles" in done.stderr
