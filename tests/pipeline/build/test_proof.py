"""Builds that must find photographs of known places before they are committed."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from pipeline.request.options import IndexKind, IndexOptions
from pipeline.request.proof_options import ProofOptions
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from pipeline.stages import proof
from pipeline.testing import RecordingProgress
from store.base.geometry.distances import distance_m
from store.base.geometry.level import tile_side_m
from store.base.identity import build_identity
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain.events import BuildFailed, CheckFailed, CheckPassed, StepReused
from store.domain.proof import PROOF
from store.errors import Category, NoGoError
from store.manifest.manifest import parse
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.trust.key_files import write_key_pair
from store.verify.verify import Depth, verify
from tests.cache_facts import warnings_of
from tests.ground import (
    ALTITUDE_M,
    EDGE,
    PLACES,
    ZOOM,
    GroundSite,
    chunk_middle,
    frame_at,
    place_at,
)

pytestmark = pytest.mark.deep

HEADER = "file,lon,lat,altitude_m,heading_deg\n"
STEP_M = tile_side_m(ZOOM, 0) / 2
WITHIN = ProofOptions(pictures="truth.csv", min=1, within_m=STEP_M)


def write_truth(site, places=None, wrong=()):
    """Write photographs and their table; those that are wrong claim a place two tiles away."""
    text = HEADER
    for name, place in (places or PLACES).items():
        x, y = chunk_middle(*place)
        Image.fromarray(frame_at(x, y)).save(site.root / name)
        lon, lat = place_at(x + (2 * EDGE if name in wrong else 0), y)
        text += f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0\n"
    site.write("truth.csv", text.encode())


@pytest.fixture
def site(tmp_path):
    site = GroundSite(tmp_path)
    write_truth(site)
    return site


def built(site, proof=WITHIN, **fields):
    report = site.build(proof=proof, **fields)
    assert report.error is None, report.error
    return report


def manifest_of(site):
    return parse(site.head_bytes())


def answers_in(site, digest):
    return json.loads((site.layout.artifact(digest)).read_bytes())["answers"]


class TestWhatIsCommitted:
    def test_the_manifest_shows_the_check_and_names_the_answers(self, site):
        built(site)
        manifest = manifest_of(site)
        (check,) = [each for each in manifest.body["checks"] if each["check"] == PROOF]
        assert manifest.proof is not None
        assert check["artifact"] == manifest.proof.sha256
        measured = check["measured"]
        assert (measured["pictures"], measured["right"]) == (3, 3)
        assert measured["within_mm"] == round(STEP_M * 1000)
        assert (measured["at"], measured["min_ppm"]) == (1, 1_000_000)
        assert measured["median_mm"] < 1000
        assert measured["better_half_right_ppm"] == 1_000_000
        assert [each[1:] for each in measured["margins"]] == [[3, 3], [2, 2], [1, 1]]
        assert measured["size"] == manifest.proof.size
        answers = answers_in(site, manifest.proof.sha256)
        assert [each["file"] for each in answers] == list(PLACES)
        for each, place in zip(answers, PLACES.values(), strict=True):
            best = each["candidates"][0]
            true = place_at(*chunk_middle(*place))
            assert distance_m((best["lon_e7"] / 1e7, best["lat_e7"] / 1e7), true) < 1
            assert best["error_mm"] < 1000
            assert not each["outside"]
            assert len(each["candidates"]) == 10
        assert json.loads(manifest.raw)["format"] == 3

    def test_the_identity_names_it_only_where_it_is_asked_for(self, site):
        plain = site.build()
        assert "proof" not in manifest_of(site).inputs
        assert manifest_of(site).proof is None
        built(site)
        inputs = manifest_of(site).inputs
        assert inputs["proof"].keys() == {"table", "photographs", "count", "within_mm", "at", "min_ppm"}
        without = {name: value for name, value in inputs.items() if name != "proof"}
        assert build_identity(without) == plain.identity

    @pytest.mark.parametrize("kind", [IndexKind.HNSW, IndexKind.IVF_PQ])
    def test_every_kind_of_index(self, site, kind):
        built(site, index=IndexOptions(kind=kind))
        assert len(answers_in(site, manifest_of(site).proof.sha256)) == 3

    def test_near_a_guess(self, site):
        built(site, proof=ProofOptions(pictures="truth.csv", min=1, within_m=STEP_M, near_m=3 * 2 * STEP_M))
        assert manifest_of(site).inputs["proof"]["near_mm"] == round(6 * STEP_M * 1000)

    def test_a_thousand_photographs_leave_the_manifest_small(self, site):
        rows = []
        for number in range(1000):
            name = f"a photograph with a rather long name, such as cameras give {number:04}.png"
            lon, lat = place_at(*chunk_middle(9, 7))
            if number == 0:
                Image.fromarray(frame_at(*chunk_middle(9, 7))).save(site.root / name)
            else:
                (site.root / name).hardlink_to(site.root / rows[0].split('"')[1])
            rows.append(f'"{name}",{lon},{lat},{ALTITUDE_M},0\n')
        site.write("truth.csv", (HEADER + "".join(rows)).encode())
        built(site)
        assert len(site.head_bytes()) < 16_384
        assert len(answers_in(site, manifest_of(site).proof.sha256)) == 1000


class TestReuse:
    def test_nothing_to_do_asks_for_nothing(self, site):
        built(site)
        assert built(site).outcome is BuildOutcome.REUSED

    def test_the_same_key_is_not_asked_again(self, site):
        built(site)
        built(site, flight_id="another")
        (passed,) = [event for event in site.events(CheckPassed) if event.check == PROOF]
        (reused,) = [event for event in site.events(StepReused) if event.kind == PROOF]
        assert list(reused.keys.values()) == [passed.key]
        assert manifest_of(site).proof.sha256 == passed.artifact
        assert PROOF in {each["check"] for each in manifest_of(site).body["checks"]}

    def test_what_it_depends_on_is_asked_again(self, site):
        built(site)
        write_truth(site, {"one.png": (9, 7)})
        built(site)
        built(site, proof=ProofOptions(pictures="truth.csv", min=0.5, within_m=STEP_M))
        Image.fromarray(frame_at(*chunk_middle(12, 7))).save(site.root / "one.png")
        assert site.build(proof=WITHIN).outcome is BuildOutcome.FAILED
        assert len([event for event in site.events(CheckPassed) if event.check == PROOF]) == 3

    def test_damaged_answers_are_asked_for_again(self, site):
        built(site)
        digest = manifest_of(site).proof.sha256
        before = site.layout.artifact(digest).read_bytes()
        site.layout.artifact(digest).unlink()
        built(site, force=True)
        assert manifest_of(site).proof.sha256 == digest
        assert site.layout.artifact(digest).read_bytes() == before


REFUSED = {
    "no table": (lambda site: (site.root / "truth.csv").unlink(), "truth.csv"),
    "an empty table": (lambda site: site.write("truth.csv", b""), "column"),
    "no photograph": (lambda site: (site.root / "two.png").unlink(), "two.png"),
    "no picture": (lambda site: site.write("two.png", b"none"), "two.png: expected a JPEG, PNG or WebP"),
    "another shape": (
        lambda site: Image.new("RGB", (64, 64)).save(site.root / "two.png"),
        "two.png: expected a frame of the camera's aspect",
    ),
    "no camera": (lambda site: site.write("camera.json", b'{"focal": 35}'), "camera"),
}


class TestFailure:
    def test_too_few_leave_the_head_and_are_all_recorded(self, site):
        site.build()
        head = site.head_bytes()
        write_truth(site, wrong=("two.png",))
        report = site.build(proof=ProofOptions(pictures="truth.csv", min=0.9, within_m=STEP_M))
        assert report.outcome is BuildOutcome.FAILED
        assert report.error.category is Category.BUILD_FAILED
        for said in ("only 2 of 3", "below 0.9", "two.png"):
            assert said in report.error.message
        assert site.head_bytes() == head
        (failed,) = [event for event in site.events(CheckFailed) if event.check == PROOF]
        assert (failed.measured["pictures"], failed.measured["right"]) == (3, 2)
        assert [each["file"] for each in answers_in(site, failed.artifact)] == list(PLACES)
        (ended,) = site.events(BuildFailed)
        assert ended.inputs["attached"][PROOF]["sha256"] == failed.artifact
        # What was made for it is not made again.
        again = site.build(proof=ProofOptions(pictures="truth.csv", min=0.6, within_m=STEP_M))
        assert again.error is None
        assert (again.chunks_embedded, again.engines_compiled) == (0, 0)

    def test_each_photograph_that_is_not_found_is_told(self, site, monkeypatch):
        monkeypatch.setattr(proof, "_MOST_TOLD", 1)
        write_truth(site, wrong=("two.png", "three.png"))
        progress = RecordingProgress()
        request = site.request(proof=replace(WITHIN, min=0))
        assert site.provisioner(progress=progress).build_cache_artifacts(request).error is None
        told = [line for line in progress.said if "photograph" in line or ".png" in line or "more" in line]
        assert told[0].startswith("proof: 1 of 3 photographs found")
        assert told[1].endswith(".png: 19,546 m off")
        assert told[2:] == ["and 1 more"]

    def test_a_proof_that_fails_tells_every_photograph(self, site, monkeypatch):
        monkeypatch.setattr(proof, "_MOST_TOLD", 1)
        write_truth(site, wrong=("two.png", "three.png"))
        progress = RecordingProgress()
        report = site.provisioner(progress=progress).build_cache_artifacts(site.request(proof=WITHIN))
        assert report.error is not None
        told = [line for line in progress.said if ".png: " in line]
        assert sorted(line.split(":")[0] for line in told) == sorted(PLACES)
        assert told[-1] == "one.png: 0 m off"

    def test_a_photograph_outside_counts_as_wrong_and_is_told(self, site):
        write_truth(site, PLACES | {"edge.png": (1, 7)})
        report = site.build(proof=WITHIN)
        assert "only 3 of 4" in report.error.message
        assert "edge.png" in report.error.message
        report = built(site, proof=ProofOptions(pictures="truth.csv", min=0.75, within_m=STEP_M))
        assert any("edge.png: outside" in each.message for each in report.warnings)

    @pytest.mark.parametrize(("at", "passes"), [(1, False), (10, True)])
    def test_among_how_many_candidates(self, site, at, passes):
        write_truth(site, {"one.png": (9, 7)})
        built(site, proof=ProofOptions(pictures="truth.csv", min=0, within_m=STEP_M))
        (answer,) = answers_in(site, manifest_of(site).proof.sha256)
        # Claims the place of the fifth candidate; middles are further apart than this.
        lon, lat = (answer["candidates"][4][name] / 1e7 for name in ("lon_e7", "lat_e7"))
        site.write("truth.csv", f"{HEADER}one.png,{lon},{lat},{ALTITUDE_M},0\n".encode())
        options = ProofOptions(pictures="truth.csv", min=1, within_m=0.75 * STEP_M, at=at)
        assert (site.build(proof=options).error is None) is passes

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_cannot_be_asked_is_refused(self, site, name):
        spoil, said = REFUSED[name]
        spoil(site)
        with pytest.raises(RequestError, match=said) as caught:
            site.build(proof=WITHIN)
        assert caught.value.hint

    def test_a_picture_cut_short_is_found_by_the_check(self, site):
        site.write("two.png", (site.root / "two.png").read_bytes()[:-100])
        report = site.build(proof=WITHIN)
        assert report.error.category is Category.REFUSED
        assert "two.png" in report.error.message
        assert report.error.hint

    def test_a_distance_that_no_chunk_reaches_is_refused(self, site):
        least = STEP_M / 2**0.5
        with pytest.raises(RequestError, match="within_m"):
            site.build(proof=ProofOptions(pictures="truth.csv", min=0, within_m=0.99 * least))
        built(site, proof=ProofOptions(pictures="truth.csv", min=0, within_m=1.01 * least))

    def test_tiles_have_no_scale(self, site):
        with pytest.raises(RequestError, match=r"altitude_m or \[chunks\]"):
            site.request(proof=WITHIN, chunks=None)


class TestTheRestOfTheCache:
    def test_verify_says_what_was_shown(self, site):
        site.build()
        assert "no-proof" in dict(warnings_of(verify(site.layout, depth=Depth.FULL)))
        built(site)
        report = verify(site.layout, depth=Depth.FULL)
        assert report.go
        assert "no-proof" not in dict(warnings_of(report))
        assert (report.facts.proof["right"], report.facts.proof["pictures"]) == (3, 3)

    def test_damaged_answers_are_found_and_made_again(self, site):
        built(site)
        path = site.layout.artifact(manifest_of(site).proof.sha256)
        before = path.read_bytes()
        path.unlink()
        path.write_bytes(before[:-2] + b"x\n")
        found = verify(site.layout, depth=Depth.FULL)
        assert [problem.subject for problem in found.problems] == [
            f"{PROOF} {path.name[:12]}"
        ] or not found.go
        repaired = site.provisioner().repair()
        assert repaired.go, repaired
        assert path.read_bytes() == before

    def test_photographs_that_changed_do_not_repair_it(self, site):
        built(site)
        path = site.layout.artifact(manifest_of(site).proof.sha256)
        path.unlink()
        write_truth(site, wrong=("one.png",))
        repaired = site.provisioner().repair()
        assert not repaired.go
        assert any("photographs" in str(each.action) for each in repaired.actions)

    def test_photographs_that_are_gone_do_not_repair_it(self, site):
        built(site)
        site.layout.artifact(manifest_of(site).proof.sha256).unlink()
        (site.root / "one.png").unlink()
        repaired = site.provisioner().repair()
        assert not repaired.go
        assert any("one.png" in each.action for each in repaired.actions)

    def test_collection_keeps_the_answers_of_kept_builds(self, site):
        built(site)
        first = manifest_of(site).proof.sha256
        write_truth(site, {"one.png": (9, 7)})
        built(site)
        second = manifest_of(site).proof.sha256
        site.provisioner().collect(KeepPolicy(keep=2), dry_run=False)
        assert site.layout.artifact(first).exists()
        for number in range(2):
            built(site, flight_id=f"f{number}")
        site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
        assert not site.layout.artifact(first).exists()
        assert site.layout.artifact(second).exists()
        assert verify(site.layout, depth=Depth.FULL).go
        # The collected answers count as never given.
        write_truth(site)
        built(site)
        assert manifest_of(site).proof.sha256 == first
        assert verify(site.layout, depth=Depth.FULL).go

    @pytest.mark.parametrize("way", ["mirror", "bundle"])
    def test_copies_have_the_answers(self, site, tmp_path, way):
        built(site)
        digest, copy = manifest_of(site).proof.sha256, Layout(tmp_path / "copy")
        if way == "mirror":
            mirror(site.layout, copy.root)
        else:
            export(site.layout, tmp_path / "bundle")
            import_bundle(copy, tmp_path / "bundle", clock=FakeClock(), host={})
            assert verify(copy, depth=Depth.FULL).go
        assert copy.artifact(digest).read_bytes() == site.layout.artifact(digest).read_bytes()
        with FlightCache.open(copy.root, trusted_keys=ALLOW_UNSIGNED) as cache:
            assert cache.manifest.proof.sha256 == digest
            cache.verify()
        copy.artifact(digest).unlink()
        with pytest.raises(NoGoError, match=PROOF):
            FlightCache.open(copy.root, trusted_keys=ALLOW_UNSIGNED)

    def test_records_behind_a_signed_head_bring_no_proof(self, site, tmp_path):
        pair = write_key_pair(tmp_path / "ground")
        write_truth(site, wrong=("two.png",))
        options = ProofOptions(pictures="truth.csv", min=0.5, within_m=STEP_M)

        def signed(flight):
            request = site.request(proof=options, flight_id=flight)
            report = site.provisioner(signing_key=pair.private).build_cache_artifacts(request)
            assert report.error is None
            (check,) = [each for each in manifest_of(site).body["checks"] if each["check"] == PROOF]
            return check

        first = signed("f1")
        assert signed("f2") == first
        with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
            (known,) = [each for each in store.state.step_cache.passed.values() if each.check == PROOF]
            forged = store.artifacts.put(b"all of them")
            measured = {**known.measured, "right": 3, "size": forged.size}
            store.append(replace(known, artifact=forged.sha256, measured=measured), build=None)
        assert signed("f3") == first
        assert len([event for event in site.events(CheckPassed) if event.measured.get("right") == 2]) == 2
        # Without keys the newest record counts.
        report = site.build(proof=options, flight_id="f4")
        assert report.error is None
        assert verify(site.layout, depth=Depth.FULL, trusted_keys=ALLOW_UNSIGNED).go


def test_a_request_with_a_proof_is_recorded_and_read_again(site):
    request = site.request(proof=replace(WITHIN, near_m=300.5))
    assert BuildRequest.parse(to_toml(request), base=site.root).proof == request.proof
    text = to_toml(request).replace("min = 1.0", "")
    with pytest.raises(RequestError, match=r"proof\.min"):
        BuildRequest.parse(text, base=site.root)
