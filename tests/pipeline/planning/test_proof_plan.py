"""What a plan says of the photographs that a build must find."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pipeline.errors import RequestError
from pipeline.planning.proof import proof_document, read_truth
from pipeline.request.options import IndexKind, IndexOptions
from pipeline.request.proof_options import ProofOptions
from pipeline.request.to_toml import to_toml
from store.domain.events import StepReused
from store.domain.proof import PROOF
from store.manifest.manifest import parse
from tests.ground import ALTITUDE_M, GROUND, GroundSite
from tests.pipeline.build.test_proof import HEADER, STEP_M, WITHIN, write_truth
from tools.cli import cli

pytestmark = pytest.mark.deep


@pytest.fixture
def site(tmp_path):
    site = GroundSite(tmp_path)
    write_truth(site)
    return site


def planned(site, **fields):
    report = site.provisioner().plan(site.request(**{"proof": WITHIN} | fields))
    steps = [step for step in report.steps if step["kind"] == PROOF]
    assert [(step["decision"], step["why"], step["count"]) for step in steps] == [
        (report.proof["decision"], report.proof["why"], report.proof["pictures"])
    ]
    return report.proof["decision"], report.proof["why"]


def what_a_build_does(site, **fields):
    """Whether a build reuses earlier answers."""
    before = len(site.events(StepReused)) if site.layout.exists() else 0
    report = site.build(**{"proof": WITHIN} | fields)
    assert report.error is None, report.error
    return "reuse" if PROOF in [event.kind for event in site.events(StepReused)[before:]] else "run"


def test_a_plan_without_a_proof_has_none(site):
    report = site.provisioner().plan(site.request())
    assert report.proof is None
    assert PROOF not in {step["kind"] for step in report.steps}


def test_a_plan_tells_what_is_asked_for(site):
    options = ProofOptions(pictures="truth.csv", min=0.25, within_m=STEP_M, at=5, near_m=30_000)
    assert site.provisioner().plan(site.request(proof=options)).to_document()["proof"] == {
        "table": "truth.csv",
        "pictures": 3,
        "within_m": STEP_M,
        "at": 5,
        "min": 0.25,
        "near_m": 30_000,
        "decision": "run",
        "why": "cells or engines change",
    }


@pytest.mark.parametrize(("least", "ppm"), [(0, 0), (1e-9, 1), (4e-7, 1), (1e-6, 1), (0.25, 250_000)])
def test_a_least_fraction_never_becomes_none(site, least, ppm):
    """None lets a cache pass that finds no photograph."""
    options = ProofOptions(pictures="truth.csv", min=least)
    table = read_truth(site.root / "truth.csv")
    assert proof_document(options, table)["min_ppm"] == ppm


def test_a_build_that_reuses_everything_has_reused_all_of_it(site):
    for flight in ("f1", "f2"):
        assert site.build(flight_id=flight).error is None
    result = CliRunner().invoke(cli, ["log", "--json", "--cache", str(site.cache)])
    assert [each["reuse_ppm"] for each in json.loads(result.stdout)["entries"]] == [1_000_000, 0]
    # The tiles are a part of the build's key, which also names the flight.
    shown = CliRunner().invoke(cli, ["why", "tiles", "--cache", str(site.cache)]).stdout
    assert "nothing here, but other parts of the build" in shown


def test_the_reason_of_other_chunks_is_not_their_tiles(site):
    def reasons(**fields):
        steps = site.provisioner().plan(site.request(**fields)).steps
        return {step["why"] for step in steps if step["kind"] == "cells"}

    assert site.build().error is None
    chunks = site.request().chunks
    larger = [replace(each, side_m=1.25 * each.side_m) for each in chunks.level]
    assert reasons(chunks=replace(chunks, level=larger)) == {"other chunks are wanted"}
    darker(site)
    assert "its chunks changed" in reasons()


def darker(site):
    site.write_ground(GROUND // 2, [(5, 5)])


def other_photographs(site):
    write_truth(site, {"one.png": (9, 7)})


CHANGED = {
    "nothing but the flight": (None, {"flight_id": "another"}),
    "what is asked": (None, {"proof": replace(WITHIN, min=0.5)}),
    "where is searched": (None, {"proof": replace(WITHIN, near_m=30_000)}),
    "the photographs": (other_photographs, {}),
    "a tile": (darker, {}),
    "the index": (None, {"index": IndexOptions(kind=IndexKind.HNSW)}),
    "the camera": (
        lambda site: site.write("camera.json", (site.root / "camera.json").read_bytes() + b"\n"),
        {},
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_build_does_what_its_plan_says(site, name):
    assert planned(site)[0] == what_a_build_does(site) == "run"
    assert planned(site) == ("reuse", "same engine, index and photographs")
    change, fields = CHANGED[name]
    if change is not None:
        change(site)
    expected, _ = planned(site, **fields)
    assert expected == what_a_build_does(site, **fields)
    assert expected == ("reuse" if name == "nothing but the flight" else "run")
    # Then back to the first one, which is not what the cache shows.
    site.write_ground(GROUND)
    site.write("camera.json", (site.root / "camera.json").read_bytes().rstrip())
    write_truth(site)
    assert planned(site) == ("reuse", "same engine, index and photographs")
    assert what_a_build_does(site, flight_id="back") == "reuse"


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.HNSW])
def test_an_index_that_is_gone_is_written_again_and_the_answers_hold(site, kind):
    index = IndexOptions(kind=kind)
    assert what_a_build_does(site, index=index) == "run"
    site.artifact(parse(site.head_bytes()).index.artifact).unlink()
    assert planned(site, index=index) == ("reuse", "same engine, index and photographs")
    assert what_a_build_does(site, index=index) == "reuse"


def test_answers_that_are_gone_are_asked_for_again(site):
    assert what_a_build_does(site) == "run"
    site.layout.artifact(parse(site.head_bytes()).proof.sha256).unlink()
    assert planned(site) == ("run", "its answers are missing or damaged")
    assert what_a_build_does(site) == "run"


def test_a_proof_that_failed_is_asked_for_again(site):
    write_truth(site, wrong=("two.png",))
    assert site.build(proof=WITHIN).error is not None
    assert planned(site)[0] == "run"


def test_the_answers_count_among_the_bytes_to_write(site):
    few = site.provisioner().plan(site.request(proof=WITHIN)).bytes
    text = (site.root / "truth.csv").read_text()
    for number in range(200):
        (site.root / f"{number}.png").hardlink_to(site.root / "one.png")
        text += f"{number}.png,0,0,{ALTITUDE_M},0\n"
    site.write("truth.csv", text.encode())
    many = site.provisioner().plan(site.request(proof=replace(WITHIN, min=0))).bytes
    assert site.build(proof=replace(WITHIN, min=0)).error is None
    assert many - few >= parse(site.head_bytes()).proof.size * 200 / 203


@pytest.mark.parametrize(
    "table", ["", HEADER, HEADER + "none.png,0,0,100,\n", HEADER + "one.png,0,95,100,\n"]
)
def test_a_wrong_table_is_refused_by_the_plan(site, table):
    site.write("truth.csv", table.encode())
    with pytest.raises(RequestError, match=r"truth.csv|none.png"):
        site.provisioner().plan(site.request(proof=WITHIN))


def test_the_command_shows_it(site):
    request = site.root / "request.toml"
    options = replace(WITHIN, min=0.8, at=5, near_m=30_000)
    request.write_text(to_toml(site.request(proof=options)).replace("cpu-fake", "cpu"))

    def run(*words):
        return CliRunner().invoke(cli, [*words, str(request), "--cache", str(site.cache)])

    assert json.loads(run("plan", "--json").stdout)["proof"]["table"] == "truth.csv"
    shown = " ".join(run("plan").stdout.split())
    within = f"{STEP_M:g} m by one of the first 5 candidates, searched within 30000 m of a guess"
    assert (
        f"3 photographs of truth.csv, at least 0.8 of them to be found within {within}; all are asked for"
        in shown
    )
    site.write("truth.csv", b"")
    assert run("plan").exit_code == 2
