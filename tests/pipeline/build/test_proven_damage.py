"""Damage to what caches with chunks, a proof and carried tiles have on disk: named, never handed out, repaired."""

import shutil
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.tiles.images.decode import decode
from store.base.geometry.lattice import chunk_of
from store.base.geometry.mosaic import render_chunks
from store.disk.artifacts import Artifacts
from store.errors import NoGoError
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.verify.report import Depth
from store.verify.verify import verify
from tests.damaging import replace_by
from tests.ground import ALTITUDE_M
from tests.proven_builds import ProvenSite, frames

pytestmark = pytest.mark.deep

REFS = {
    "pack": lambda site: site.packs()[0],
    "pack table": lambda site: site.manifest().carried.packs,
    "proof": lambda site: site.manifest().proof,
    "block": lambda site: decode_blocks(site.artifact(site.manifest().index.blocks).read_bytes())[0].ref,
    "block table": lambda site: site.manifest().index.blocks,
    "tile table": lambda site: site.manifest().tiles,
}
"""What a manifest of such a cache names, by the first words with which `verify` calls it."""

PIXELS = {"pack", "pack table", "tile table"}
"""What some tile cannot be read without."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A site with one build; its records name the folder in which the copies lie."""
    root = tmp_path_factory.mktemp("proven")
    site = ProvenSite(root / "site")
    assert site.build().outcome is BuildOutcome.BUILT
    shutil.copytree(root / "site", root / "saved")
    return root


@pytest.fixture
def site(prepared):
    """The site with one build, as new."""
    shutil.rmtree(prepared / "site")
    shutil.copytree(prepared / "saved", prepared / "site")
    return ProvenSite(prepared / "site")


@pytest.fixture
def ask(site):
    """Returns what an aircraft that does not verify first is told, by question; None where it is refused."""
    first = decode_blocks(site.artifact(site.manifest().index.blocks).read_bytes())[0].ref
    chunks = descriptor_block.decode(Artifacts(site.layout).read(first)).ids[::9].tolist()
    questions = {
        ("tile", place): partial(FlightCache.tile_image, z=z, x=x, y=y)
        for place in site.carried()
        for z, x, y in [place]
    }
    questions |= {
        ("chunk", each): partial(FlightCache.chunk_image, descriptor_id=each, size=(32, 32))
        for each in chunks
    }
    for number, (frame, place) in enumerate(frames()):
        for near in (None, (*place, 30_000.0)):
            settings = {"frame": frame, "altitude_m": ALTITUDE_M, "heading_deg": 0, "near": near}
            questions["place", (number, near)] = partial(FlightCache.locate, **settings)

    def ask_all():
        found = dict.fromkeys(questions)
        with suppress(NoGoError), FlightCache.open(site.layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
            for name, question in questions.items():
                with suppress(NoGoError):
                    answer = question(cache)
                    found[name] = answer if isinstance(answer, np.ndarray) else answer.candidates
        return found

    return ask_all


def same(one, other):
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("harm", ["flipped", "shorter", "missing"])
@pytest.mark.parametrize("role", REFS)
def test_damage_is_named_hands_nothing_wrong_out_and_is_repaired(site, ask, role, harm):
    path = site.artifact(REFS[role](site))
    sound, before = ask(), path.read_bytes()
    assert not any(answer is None for answer in sound.values())
    replace_by(path, harm)
    report = verify(site.layout, depth=Depth.FULL)
    assert not report.go
    (problem,) = (each for each in report.problems if each.path == str(path.relative_to(site.cache)))
    assert problem.subject.startswith(role)
    assert "c10 repair" in problem.fix
    # The quickest check knows of sizes alone, and reads the tables by cell.
    assert verify(site.layout).go is (harm == "flipped" and role not in {"pack table", "block table"})
    with (
        pytest.raises(NoGoError, match=role),
        FlightCache.open(site.layout.root, trusted_keys=ALLOW_UNSIGNED) as cache,
    ):
        cache.verify()
    found = ask()
    assert all(answer is None or same(answer, sound[name]) for name, answer in found.items())
    assert role not in PIXELS or any(answer is None for answer in found.values())
    repaired = site.provisioner().repair()
    assert repaired.go, [str(each.action) for each in repaired.actions]
    assert path.read_bytes() == before
    assert verify(site.layout, depth=Depth.FULL).go
    after = ask()
    assert all(same(after[name], sound[name]) for name in sound)


def test_everything_that_is_damaged_at_once_is_repaired(site):
    paths = [site.artifact(find(site)) for find in REFS.values()]
    sound = [path.read_bytes() for path in paths]
    for path in paths:
        replace_by(path, "flipped")
    assert site.provisioner().repair().go
    assert [path.read_bytes() for path in paths] == sound
    assert verify(site.layout, depth=Depth.FULL).go


def test_the_pictures_that_are_compared_are_those_of_the_ground(site, ask):
    tiles = {place[1:]: decode(data) for place, data in site.carried().items()}
    for (kind, name), found in ask().items():
        if kind == "tile":
            assert (found == tiles[name[1:]]).all()
        elif kind == "chunk":
            level, *place = chunk_of(name)
            (wanted,) = render_chunks(level, [place], tiles, (32, 32))
            assert (found == wanted).all()
