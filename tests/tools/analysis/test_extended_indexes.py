"""What is told of an index that an earlier build wrote, and of the delta beside it."""

import json

import pytest
from click.testing import CliRunner

from store.domain import events as e
from store.manifest.roles import DELTA
from tests.golden.outward import cache_structure, keys
from tests.pipeline.stages.test_extend_index import build, change
from tests.played_builds import make, ref_of
from tests.small_builds import FakeSite
from tests.tools.stories import Shelf, Story
from tools.cli import cli
from tools.forensics.failure import failure_document


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two builds, the second of which extends the index of the first."""
    patch = pytest.MonkeyPatch()
    patch.setattr("pipeline.index.plan.FLAT_BELOW", 8)
    patch.setattr("pipeline.index.plan.MAX_CHANGED_DIVISOR", 5)
    site = FakeSite(tmp_path_factory.mktemp("extended") / "site")
    build(site, 1)
    change(site)
    build(site, 2)
    patch.undo()
    return site


def told(site, *words):
    result = CliRunner().invoke(cli, [*words, "--cache", str(site.cache), "--json"], env={"C10_WORKERS": "1"})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_builds_are_compared_by_file_and_delta(site):
    rows = {row["role"]: row for row in told(site, "diff", "1", "2")["artifacts"]}
    index = site.state().head_build.index
    assert rows["index"]["same"]
    assert (rows[DELTA]["a"], rows[DELTA]["b"]) == (None, index.artifact.sha256)


def test_keys_and_structure_are_what_they_were(site, golden):
    words = (("show", "2"), ("diff", "1", "2"), ("why", "index"), ("why", "6/0/0"), ("replay", "2"))
    found = {" ".join(each): keys(told(site, *each)) for each in words}
    golden.check("json_keys", "an extended index", found)
    golden.check("structure", "an extended index", cache_structure(site.cache))


def test_where_a_descriptor_comes_from(site):
    index = site.state().head_build.index
    links = {link["what"]: link for link in told(site, "why", "6/0/0")["chain"]}
    assert links["index"]["sha256"] == index.base.sha256
    assert links["index"]["facts"]["delta"] == index.artifact.sha256


@pytest.mark.parametrize(
    ("name", "role"), [("artifact", DELTA), ("base", "index"), ("blocks", "block table")]
)
def test_where_a_file_comes_from(site, name, role):
    digest = getattr(site.state().head_build.index, name).sha256
    assert told(site, "why", digest[:16])["artifact"]["role"] == role


def test_status_and_steps_tell_of_it(site):
    shown = CliRunner().invoke(cli, ["status", "--cache", str(site.cache)]).stdout
    assert "beside it 2 added and 2 left out" in " ".join(shown.split())
    steps = [step["what"] for step in told(site, "show", "2")["steps"]]
    assert "hnsw extended, 2 added, 2 left out" in steps


def test_a_failure_after_it_names_both():
    story = Story().genesis()
    story.add(make(e.BuildStarted, calibration=ref_of(b"camera")))
    extended = make(
        e.IndexExtended,
        kind="hnsw",
        rows=9,
        artifact=ref_of(b"delta"),
        base=ref_of(b"whole"),
        blocks=ref_of(b"table"),
    )
    story.add(extended)
    story.add(make(e.BuildFailed, step="commit", kind="unexpected"))
    inputs = failure_document(story.timeline(), story.builds().state, Shelf(b"whole"), dead=False)["inputs"]
    assert [(row["role"], row["present"]) for row in inputs] == [
        ("index", True),
        (DELTA, False),
        ("block table", False),
    ]
