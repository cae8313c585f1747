"""The photographs of a proof: in the document of a replay, on the map, and in their panel."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pipeline.request.proof_options import ProofOptions
from store.base.canonical_json import encode
from store.domain.events import CheckPassed
from store.domain.proof import PROOF, answers_of
from store.transfer.export import export
from tests.ground import PLACES, GroundSite, chunk_middle, place_at
from tests.pipeline.build.test_proof import STEP_M, write_truth
from tools.analysis.replay_document import replay
from tools.cli import cli
from tools.forensics.ground.proof import proof_document
from tools.forensics.sources import from_bundle, from_cache

ALL = ProofOptions(pictures="truth.csv", min=1, within_m=STEP_M)
PLACES_AND_EDGE = PLACES | {"edge.png": (1, 7)}


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    """Build 1 finds two of four photographs, build 2 reuses that, build 3 asks for more and fails. Never change it."""
    site = GroundSite(tmp_path_factory.mktemp("photographs"))
    write_truth(site, PLACES_AND_EDGE, wrong=("two.png",))
    for options, flight in ((replace(ALL, min=0.5), "f1"), (replace(ALL, min=0.5), "f2")):
        assert site.build(proof=options, flight_id=flight).error is None
    assert site.build(proof=replace(ALL, at=3, near_m=40_000)).error is not None
    return site


def told(site, number):
    return replay(from_cache(site.layout), word=str(number))


class TestDocument:
    def test_it_says_what_prove_and_status_say(self, ground):
        def asked(*words):
            return json.loads(
                CliRunner().invoke(cli, [*words, "--cache", str(ground.cache), "--json"]).stdout
            )

        proof, proved = told(ground, 1)["proof"], asked("prove", str(ground.root / "truth.csv"))
        status = asked("status")["proof"]
        assert {name: proof[name] for name in status} == status
        assert (proof["right"], proof["pictures"], proof["passed"], proof["reused"]) == (2, 4, True, False)
        assert proof["near_m"] is None
        assert (proof["within"], proof["median_m"]) == (proved["within"], proved["median_m"])
        assert proof["better_half_right"] == proved["margin"]["better_half_right"]
        margins = [
            [least, pytest.approx(right / above, abs=1e-6)] for least, above, right in proof["margins"]
        ]
        assert margins == proved["margin"]["table"]
        for shown, answer in zip(proof["answers"], proved["answers"], strict=True):
            assert {name: shown[name] for name in ("file", "outside", "error_m", "margin")} == {
                name: answer[name] for name in ("file", "outside", "error_m", "margin")
            }
            assert shown["best_m"] == min(each["error_m"] for each in answer["candidates"])
            assert shown["answer"] == [answer["candidates"][0][name] for name in ("lon", "lat")]
        assert [each["right"] for each in proof["answers"]] == [True, False, True, False]
        assert proof["answers"][0]["place"] == pytest.approx(place_at(*chunk_middle(9, 7)), abs=1e-7)

    def test_reused_answers_are_shown_too(self, ground):
        first, second = told(ground, 1), told(ground, 2)
        assert second["proof"] == first["proof"] | {"reused": True, "seq": second["proof"]["seq"]}
        rows = {row["seq"]: row["tag"] for row in second["timeline"]}
        assert rows[second["proof"]["seq"]] == "step.reused"

    def test_a_failed_proof_is_shown_with_the_nearest_of_the_answers_that_count(self, ground, tmp_path):
        proof = told(ground, 3)["proof"]
        assert (proof["passed"], proof["at"], proof["near_m"]) == (False, 3, 40_000)
        recorded = json.loads(ground.layout.artifact(self.failed(ground).artifact).read_bytes())["answers"]
        for shown, answer in zip(proof["answers"], recorded, strict=True):
            best = min(answer["candidates"][:3], key=lambda each: each["error_mm"])
            assert shown["answer"] == [best["lon_e7"] / 1e7, best["lat_e7"] / 1e7]
            assert shown["error_m"] == answer["candidates"][0]["error_mm"] / 1000
        export(ground.layout, tmp_path / "bundle", build=3)
        assert replay(from_bundle(tmp_path / "bundle"))["proof"] == proof

    @staticmethod
    def failed(site):
        return next(
            fact.event
            for fact in from_cache(site.layout).history.records
            if getattr(fact.event, "check", "") == PROOF and not isinstance(fact.event, CheckPassed)
        )

    def test_without_the_artifact_the_counts_are_left(self, ground, tmp_path):
        journal = tmp_path / "journal.mdb"
        journal.write_bytes(ground.layout.journal.read_bytes())
        result = CliRunner().invoke(cli, ["replay", "1", "--journal", str(journal), "--json"])
        alone, proof = json.loads(result.stdout)["proof"], told(ground, 1)["proof"]
        assert alone == proof | {"answers": [], "within": None}

    def test_a_build_without_a_proof_has_none(self, tmp_path):
        site = GroundSite(tmp_path)
        assert site.build().error is None
        assert told(site, 1)["proof"] is None


class Held:
    """Reads one artifact, whatever is asked for."""

    def __init__(self, data):
        self.data = data

    def read(self, ref):
        return self.data


class Records:
    def __init__(self, event):
        self.own = [type("Record", (), {"event": event, "seq": 7})()]


GOOD = {
    "file": "a.png",
    "place_e7": [10, 20],
    "outside": False,
    "margin_ppm": None,
    "candidates": [{"lon_e7": 1, "lat_e7": 2, "error_mm": 3, "score_ppm": 4, "level": 1}],
}
FOREIGN = {
    "no JSON": b"\x00",
    "a list": b"[]\n",
    "of another format": {"format": 2, "answers": [GOOD]},
    "no answers": {"format": 1},
    "an answer that is none": {"format": 1, "answers": [3]},
    "no margin": {"format": 1, "answers": [{name: GOOD[name] for name in GOOD if name != "margin_ppm"}]},
    "a margin that is none": {"format": 1, "answers": [GOOD | {"margin_ppm": "much"}]},
    "a place beyond the earth": {"format": 1, "answers": [GOOD | {"place_e7": [0, 10**9]}]},
    "half a place": {"format": 1, "answers": [GOOD | {"place_e7": [0]}]},
    "an error that is none": {"format": 1, "answers": [GOOD | {"candidates": [{"lon_e7": 1, "lat_e7": 2}]}]},
    "an endless error": {
        "format": 1,
        "answers": [GOOD | {"candidates": [GOOD["candidates"][0] | {"error_mm": 2**63 - 1}]}],
    },
}


class TestForeignRecords:
    @pytest.fixture
    def event(self, ground):
        return next(event for event in ground.events(CheckPassed) if event.check == PROOF)

    def document(self, event, data):
        data = data if isinstance(data, bytes) else encode(data) + b"\n"
        return proof_document(Records(event), None, Held(data))

    def test_what_a_build_writes_is_read(self, event):
        (answer,) = self.document(event, {"format": 1, "answers": [GOOD | {"file": "\x1b[2J.png"}]})[
            "answers"
        ]
        assert answer == {
            "file": "\\x1b[2J.png",
            "outside": False,
            "right": True,
            "margin": None,
            "error_m": 0.003,
            "best_m": 0.003,
            "place": [1e-6, 2e-6],
            "answer": [1e-7, 2e-7],
        }
        (nothing,) = self.document(event, {"format": 1, "answers": [GOOD | {"candidates": []}]})["answers"]
        assert (nothing["error_m"], nothing["answer"], nothing["right"]) == (None, None, False)

    @pytest.mark.parametrize("name", FOREIGN)
    def test_what_is_none_leaves_the_counts(self, event, name):
        found = self.document(event, FOREIGN[name])
        assert (found["answers"], found["within"], found["pictures"]) == ([], None, 4)

    def test_measured_values_that_are_none_are_left_out(self, event):
        measured = {**event.measured, "margins": [[1, 2], "x", [2, 2, 1]], "median_mm": "far", "near_mm": 5}
        found = self.document(replace(event, measured=measured), b"")
        assert (found["margins"], found["median_m"], found["near_m"]) == ([[2e-6, 2, 1]], None, 0.005)
        assert self.document(replace(event, measured={**measured, "margins": 3}), b"")["margins"] == []
        assert self.document(replace(event, measured={"size": 3}), b"") is None
        assert answers_of(event).size > 0


@pytest.mark.deep
class TestPage:
    def texts(self, tab, selector):
        return tab.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.innerText)")

    def legend(self, tab):
        rows = self.texts(tab, "#legend tr")
        return {line.split("\t")[1]: line.split("\t")[2] for line in rows if "photograph" in line}

    def test_the_panel_has_every_figure_and_every_photograph(self, draw, ground):
        document = told(ground, 1)
        tab, proof = draw(document), document["proof"]
        figures = " ".join(" ".join(self.texts(tab, "#proof .figures div")).split())
        for said in ("Found 2 of 4", "Asked for 50 %", "reached", "everywhere"):
            assert said in figures
        rows = [row.split("\t") for row in self.texts(tab, "#proof .answers tr, #proof table")]
        table = " ".join(" ".join(" ".join(row) for row in rows).split())
        for each in proof["answers"]:
            assert each["file"] in table
            assert f"{each['margin']:.4f}" in table
        for least, photographs, right in proof["margins"]:
            share = round(100 * right / photographs)
            assert f"{least:.4f} {photographs} {share} %" in table
        # The worst is first; what lies outside is said.
        names = self.texts(tab, "#proof .file")
        assert set(names[:2]) == {"two.png", "edge.png"}
        assert "outside of the area" in table

    def test_the_map_counts_shows_and_hides_them(self, draw, ground):
        tab = draw(told(ground, 1))
        assert self.legend(tab) == {"photograph found": "2", "photograph not found": "2"}
        pixels = "document.getElementById('map').toDataURL()"
        shown = tab.js(pixels)
        tab.js("document.querySelector('#legend label:last-of-type input').click()")
        assert self.legend(tab) == {"photograph found": "0", "photograph not found": "0"}
        assert tab.js(pixels) != shown
        tab.js("document.querySelector('#legend label:last-of-type input').click()")
        assert tab.js(pixels) == shown
        # Before the check nobody knew.
        tab.js(
            "(() => { const at = document.getElementById('slider'); at.value = 0; at.dispatchEvent(new Event('input')); })()"
        )
        assert self.legend(tab) == {"photograph found": "0", "photograph not found": "0"}

    def test_a_hit_and_a_miss_differ_without_colour(self, draw, ground):
        tab = draw(told(ground, 1))
        shapes = tab.js(
            "['hit', 'miss'].map((name) => { const rows = [...document.querySelectorAll('#legend tr')], row ="
            " rows.find((each) => each.innerText.includes(name === 'hit' ? 'photograph found' : 'not found')), made ="
            " row.querySelector('canvas'), { data } = made.getContext('2d').getImageData(0, 0, made.width, made.height), edge ="
            " [data[0], data[1], data[2]]; return [...Array(data.length / 4).keys()].map((at) => (edge.every((value, part) =>"
            " value === data[4 * at + part]) ? '.' : '#')).join(''); })"
        )
        assert shapes[0] != shapes[1]

    def test_a_photograph_is_brought_into_the_middle(self, draw, ground):
        tab = draw(told(ground, 1))
        tab.js("document.querySelector('#proof button[aria-label^=\"two.png\"]').click()")
        assert "Not found: two.png" in tab.js("document.getElementById('tip').innerText")
        assert not tab.js("document.getElementById('tip').hidden")
        assert "two.png" in tab.js("document.getElementById('spoken').textContent")

    def test_without_answers_the_counts_are_shown(self, draw, ground):
        document = told(ground, 3)
        document["proof"] |= {"answers": [], "within": None}
        tab = draw(document)
        shown = tab.js("document.getElementById('proof').innerText")
        assert "too few of them" in shown
        assert "cannot be read here" in shown
        assert self.legend(tab) == {}

    def test_no_area_no_map_and_still_a_panel(self, draw, ground):
        tab = draw(told(ground, 1) | {"area": None})
        assert "2 of 4" in tab.js("document.getElementById('proof').innerText")
        assert tab.js("document.querySelectorAll('#proof button').length") == 0

    @pytest.mark.parametrize("width", [1280, 390])
    def test_it_fits_the_width(self, draw, tab, ground, width):
        tab.size(width, 900, mobile=width < 500)
        document = told(ground, 1)
        document["proof"]["answers"] *= 10
        draw(document)
        assert tab.js("document.documentElement.scrollWidth") == width
        assert tab.js(
            "[...document.querySelectorAll('#proof .wide')].every((each) => each.scrollWidth <= each.clientWidth)"
        )
