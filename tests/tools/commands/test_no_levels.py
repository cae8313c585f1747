"""A cache whose tiles have the descriptors finds no photograph, and C10 says so; of one with chunks it does not."""

import json

import pytest
from click.testing import CliRunner

from tests.ground import GroundSite
from tools.cli import cli


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("chunks"))
    site.write_request()
    return site


def run(*words):
    result = CliRunner().invoke(cli, list(map(str, words)), env={"C10_WORKERS": "1"})
    assert result.exit_code == 0, result.output
    return result.stdout


def answers(request, cache):
    """The kinds of warnings of the four commands."""
    place = ("--cache", cache, "--json")
    for words in (("plan", request, "--no-measure"), ("build", request), ("status",), ("verify",)):
        yield [each["kind"] for each in json.loads(run(*words, *place))["warnings"]]


def test_where_tiles_get_the_descriptors_everybody_is_told(empty):
    for said in answers(empty.request, empty.cache):
        assert "tile-descriptors" in said
    again = json.loads(run("build", empty.request, "--cache", empty.cache, "--json"))
    assert [each["kind"] for each in again["warnings"]].count("tile-descriptors") == 1
    assert again["outcome"] == "reused"


def test_of_chunks_nothing_is_said(chunks):
    for said in answers(chunks.root / "request.toml", chunks.cache):
        assert "tile-descriptors" not in said


def test_a_cache_without_a_generation_has_no_warning(empty):
    empty.tile().write_bytes(b"no picture")
    assert CliRunner().invoke(cli, ["build", empty.request, "--cache", str(empty.cache)]).exit_code == 3
    assert "warning" not in run("status", "--cache", empty.cache)
    found = json.loads(run("status", "--cache", empty.cache, "--json"))
    assert (found["readiness"], found["warnings"]) == (None, [])
