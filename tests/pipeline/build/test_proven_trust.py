"""Caches with chunks, a proof and carried tiles: what strangers append behind a signed head is not built upon."""

import shutil
from dataclasses import replace

import pytest

from pipeline.build.report import BuildOutcome
from pipeline.stages import packs, proof
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import (
    BuildAbandoned,
    BuildStarted,
    CellEmbedded,
    CheckFailed,
    CheckPassed,
    TilesPacked,
)
from store.domain.manifest_projection import project
from store.domain.proof import PROOF
from store.errors import Category, ErrorKind, NoGoError
from store.formats import carried_tiles, descriptor_block
from store.reader import FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.trust.key_files import write_key_pair
from store.verify.report import Depth
from store.verify.verify import verify
from tests.child_python import run_python
from tests.ground import ALTITUDE_M
from tests.pipeline.build.test_vouching import forge, head
from tests.played_builds import make
from tests.proven_builds import ProvenSite, frames, write_truth

pytestmark = pytest.mark.deep

SEED = 3
"""What the changed tile shows in builds to come, of which the strangers know."""
WRONG = ("one.png", "two.png")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with a key, a site with one signed generation, and one in which the builds to come were made."""
    root = tmp_path_factory.mktemp("proven")
    root.joinpath("key").mkdir()
    pair = write_key_pair(root / "key" / "ground")
    site = ProvenSite(root / "site")
    assert build(site, pair, "f1").outcome is BuildOutcome.BUILT
    shutil.copytree(root / "site", root / "to come")
    ahead = ProvenSite(root / "to come")
    ahead.change_ground(SEED)
    assert build(ahead, None, "f2").outcome is BuildOutcome.BUILT
    write_truth(ahead, WRONG)
    assert build(ahead, None, "f3").outcome is BuildOutcome.FAILED
    return root, pair, ahead


@pytest.fixture
def site(once, tmp_path):
    shutil.copytree(once[0] / "site", tmp_path / "site")
    return ProvenSite(tmp_path / "site")


@pytest.fixture
def pair(once):
    return once[1]


@pytest.fixture
def ahead(once):
    return once[2]


def build(site, pair, flight, **fields):
    key = {} if pair is None else {"signing_key": pair.private}
    return site.provisioner(**key).build_cache_artifacts(site.request(flight_id=flight, **fields))


def lies(store, what, ahead):
    """Events that look like results of the head or of builds to come, and the digests of their bytes."""
    put, found = store.artifacts.put, []
    state = store.state
    if what in {"engine", "index", "blocks", "checks"}:
        return forge(store, what)
    if what == "blocks to come":
        held = {event.key for name in state.step_cache.blocks for event in state.step_cache.blocks_of(name)}
        for event in ahead.events(CellEmbedded):
            block = descriptor_block.decode(Artifacts(ahead.layout).read(event.block))
            # A lie that neither the check of the index nor the proof can see.
            data = descriptor_block.encode(replace(block, texture=block.texture + 1))
            found += [] if event.key in held else [replace(event, block=put(data))]
        return found, {event.block.sha256 for event in found}
    if what == "packs":
        for event in ahead.events(TilesPacked):
            images = carried_tiles.decode(Artifacts(ahead.layout).read(event.pack))
            turned = dict(zip(images, reversed(images.values()), strict=True))
            found.append(replace(event, pack=put(carried_tiles.encode(turned))))
        return found, {event.pack.sha256 for event in found}
    checks = (*state.step_cache.passed.values(), *ahead.state().step_cache.passed.values())
    proofs = [
        replace(each, measured={**each.measured, "forged": True}) for each in checks if each.check == PROOF
    ]
    if what == "figures of the proof":
        return proofs, set()
    answers = put(b"all of them")
    for each in proofs:
        found.append(replace(each, artifact=answers.sha256, measured=each.measured | {"size": answers.size}))
    return found, {answers.sha256}


KINDS = ("engine", "index", "checks", "blocks", "blocks to come", "packs", "proof", "figures of the proof")


def append_lies(site, what, ahead, *, how="no build"):
    with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
        events, digests = lies(store, what, ahead)
        assert events
        number = None
        if how == "failed build":
            number = store.state.next_build
            store.append(make(BuildStarted), build=number)
        store.append(*events, build=number)
        if number is not None:
            store.append(make(BuildAbandoned), build=number)
    return digests


def require_sound(site, pair, forged):
    """The head is signed, says nothing that strangers said, and shows the ground and finds its places."""
    raw, named = head(site)
    assert not forged & named
    assert b"forged" not in raw
    assert project(site.state(), site.state().head) == raw
    assert verify(site.layout, depth=Depth.FULL, trusted_keys=[pair.public_bytes]).go
    with FlightCache.open(site.layout.root, trusted_keys=[pair.public_bytes]) as cache:
        for place, data in site.carried().items():
            assert cache.tile_bytes(*place) == data
        for frame, place in frames():
            best = cache.locate(frame, altitude_m=ALTITUDE_M, heading_deg=0).candidates[0]
            assert (best.longitude, best.latitude) == pytest.approx(place, abs=1e-5)
    assert len(site.answers()) == 3


@pytest.mark.parametrize("seed", [None, SEED], ids=["same ground", "other ground"])
@pytest.mark.parametrize("what", KINDS)
def test_records_behind_a_signed_head_bring_nothing_into_the_next_build(site, pair, ahead, what, seed):
    forged = append_lies(site, what, ahead, how="failed build" if seed else "no build")
    site.change_ground(seed)
    report = build(site, pair, "f2")
    assert report.outcome is BuildOutcome.BUILT, report.error
    everything = what == "blocks"
    assert report.chunks_embedded == (81 if everything else 0 if seed is None else 25)
    assert report.engines_compiled == (what in {"engine", "checks"})
    told = " ".join(each.message for each in report.warnings if each.kind == "unvouched")
    made_again = {
        "engine": "engine place",
        "checks": "engine place",
        "index": "the index",
        "blocks": "cells of chunks",
    }
    made_again |= dict.fromkeys(("proof", "figures of the proof"), "the proof by photographs")
    made_again |= {"blocks to come": "cells of chunks" if seed else "", "packs": ""}
    assert made_again[what] in told
    assert bool(told) is bool(made_again[what])
    require_sound(site, pair, forged)


@pytest.mark.parametrize("what", ["blocks to come", "packs", "proof", "figures of the proof"])
def test_a_generation_that_a_stranger_committed_is_refused_and_not_built_upon(site, pair, ahead, what):
    forged = append_lies(site, what, ahead)
    site.change_ground(None if what == "figures of the proof" else SEED)
    assert build(site, None, "f2").outcome is BuildOutcome.BUILT
    raw, named = head(site)
    # What a builder without keys believes; of packs it believes none but the very tiles.
    assert (forged <= named) is (what != "packs")
    assert (b"forged" in raw) is (what in {"proof", "figures of the proof"})
    with pytest.raises(NoGoError) as refused:
        FlightCache.open(site.layout.root, trusted_keys=[pair.public_bytes])
    assert refused.value.kind is ErrorKind.SIGNATURE
    assert build(site, pair, "f3").outcome is BuildOutcome.BUILT
    require_sound(site, pair, forged)
    # A rollback signs no stranger's build.
    with pytest.raises(NoGoError, match="to be signed by"):
        site.provisioner(signing_key=pair.private, trusted_keys=(pair.public_bytes.hex(),)).rollback(to=2)


def test_a_proof_that_fails_is_not_passed_by_a_stranger_s_word(site, pair):
    site.change_ground(SEED)
    write_truth(site, WRONG)
    assert build(site, pair, "f2").error.category is Category.BUILD_FAILED
    (failed,) = [check for check in site.events(CheckFailed) if check.check == PROOF]
    fields = {name: getattr(failed, name) for name in ("check", "subject", "key")}
    measured = {**failed.measured, "right": 3}
    for keys, outcome in ((pair, BuildOutcome.FAILED), (None, BuildOutcome.BUILT)):
        with CacheWriter.open(site.layout, clock=FakeClock(), reserve_bytes=0) as store:
            store.append(CheckPassed(**fields, artifact=failed.artifact, measured=measured), build=None)
        assert build(site, keys, "f2").outcome is outcome
        assert site.state().head.number == 1 + (keys is None)


MEANWHILE = """
import sys
from dataclasses import replace
from pathlib import Path
from store.cache.optimistic_append import open_for_append
from store.disk.layout import Layout
from store.testing import FakeClock
with open_for_append(Layout(Path(sys.argv[1])), clock=FakeClock()) as store:
    *_, known = (check for check in store.state.step_cache.passed.values() if check.check == "proof")
    event = replace(known, measured={**known.measured, "right": 3, "forged": True})
    before = store.state.position
    store.append(lambda state: [event] if state.position == before else ())
"""


def test_figures_that_a_stranger_gives_a_proof_while_the_build_runs_are_not_signed(site, pair, monkeypatch):
    honest = packs.pack_tiles

    def attacked(cell):
        run_python(MEANWHILE, site.cache)
        return honest(cell)

    site.change_ground(SEED)
    with monkeypatch.context() as patch:
        patch.setattr(packs, "pack_tiles", attacked)
        report = build(site, pair, "f2")
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, ErrorKind.WITHDRAWN)
    assert site.state().head.number == 1
    assert build(site, pair, "f2").outcome is BuildOutcome.BUILT
    require_sound(site, pair, set())


def test_a_proof_that_a_stranger_replaces_as_it_is_reused_is_no_damage(site, pair, monkeypatch):
    honest = proof.answers_of

    def attacked(known):
        run_python(MEANWHILE, site.cache)
        return honest(known)

    with monkeypatch.context() as patch:
        patch.setattr(proof, "answers_of", attacked)
        report = build(site, pair, "f2")
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, ErrorKind.WITHDRAWN)
    assert build(site, pair, "f2").outcome is BuildOutcome.BUILT
    require_sound(site, pair, set())


@pytest.mark.parametrize("what", KINDS)
def test_a_bundle_brings_nothing_from_behind_its_signed_head(site, pair, ahead, tmp_path, what):
    forged = append_lies(site, what, ahead)
    export(site.layout, tmp_path / "bundle")
    copy = Layout(tmp_path / "copy")
    trusted = [pair.public_bytes]
    import_bundle(copy, tmp_path / "bundle", clock=FakeClock(), host={}, trusted_keys=trusted)
    assert not {digest for digest, _ in Artifacts(copy).names()} & forged
    assert verify(copy, depth=Depth.FULL, trusted_keys=trusted).go
    imported = ProvenSite(site.root)
    imported.cache, imported.layout = copy.root, copy
    assert b"forged" not in imported.head_bytes()
    assert build(imported, pair, "f2").outcome is BuildOutcome.BUILT
    require_sound(imported, pair, forged)
