"""A cache whose tiles have the descriptors finds no photograph, and C10 says so; of one with chunks it does not."""

import json

import pytest
from click.testing import CliRunner

from store.manifest.levels import NO_LEVELS
from tests.ground import GroundSite
from tools.cli import cli


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("chunks"))
    site.write_request()
    return site


def run(*words):
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout


def answers(request, cache):
    """What the four commands say: warnings of plan and build, status as text, notes of verify."""
    plan = json.loads(run("plan", request, "--cache", cache, "--json"))["warnings"]
    build = json.loads(run("build", request, "--cache", cache, "--json"))["warnings"]
    status = " ".join(run("status", "--cache", cache).split())
    return plan, build, status, json.loads(run("verify", "--cache", cache, "--json"))["notes"]


def test_where_tiles_get_the_descriptors_everybody_is_told(empty):
    for said in answers(empty.request, empty.cache):
        assert NO_LEVELS in said
    again = json.loads(run("build", empty.request, "--cache", empty.cache, "--json"))
    assert (again["outcome"], again["warnings"].count(NO_LEVELS)) == ("reused", 1)


def test_of_chunks_nothing_is_said(chunks):
    for said in answers(chunks.root / "request.toml", chunks.cache):
        assert NO_LEVELS not in said


def test_a_cache_without_a_generation_has_no_note(empty):
    empty.tile().write_bytes(b"no picture")
    assert CliRunner().invoke(cli, ["build", empty.request, "--cache", str(empty.cache)]).exit_code == 3
    assert "note" not in run("status", "--cache", empty.cache)
