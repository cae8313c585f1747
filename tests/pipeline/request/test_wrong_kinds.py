"""A folder, link, pipe or socket where a file belongs: found, named, set aside, and never waited for."""

import shutil

import pytest

from pipeline.build.report import BuildOutcome
from store.errors import NoGoError, StoreError
from store.reader import FlightCache
from store.trust.key_files import write_key_pair
from store.verify.report import Depth
from store.verify.verify import verify
from tests.damaging import replace_by
from tests.examples_tried import mostly_deep
from tests.small_builds import FakeSite, words

SHAPES = ("folder", "full folder", "dangling", "link to it", "pipe", "socket")
PLACES = (
    *("manifests/00000002.json", "manifests/00000002.sig", "segments/00000002.events"),
    *("manifests/00000001.json", "manifests/00000001.sig", "segments/00000001.events"),
)


def put(site, path, shape):
    """Put something in the place of a file, of which a copy is kept beside the cache."""
    kept = site.root / f"kept-{path.name}"
    shutil.copyfile(path, kept)
    if shape == "link to it":
        path.unlink()
        path.symlink_to(kept)
    else:
        replace_by(path, shape)


class Signed(FakeSite):
    """A site that signs and trusts."""

    def provisioner(self, **ports):
        return super().provisioner(**({"signing_key": self.key.private} | ports))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    key = write_key_pair(folder / "key")
    site = Signed(folder / "site")
    site.key = key
    assert site.build().error is None
    site.tiles[6, 0, 0] = words(-1)
    assert site.build(flight_id="f2").error is None
    shutil.copytree(site.root, folder / "saved")
    return folder, key


@pytest.fixture
def site(saved):
    """Two signed generations, as new."""
    folder, key = saved
    shutil.rmtree(folder / "site")
    shutil.copytree(folder / "saved", folder / "site")
    site = Signed(folder / "site")
    site.key = key
    site.tiles[6, 0, 0] = words(-1)
    return site


def problems(site, depth=Depth.FULL):
    return verify(site.layout, depth=depth, trusted_keys=[site.key.public_bytes]).problems


@pytest.mark.parametrize("shape", mostly_deep(SHAPES, "full folder", "link to it", "pipe"))
@pytest.mark.parametrize("place", mostly_deep(PLACES, PLACES[0], PLACES[4], PLACES[5]))
def test_in_the_place_of_a_projection(site, place, shape):
    path = site.cache / place
    before = path.read_bytes()
    put(site, path, shape)
    found = problems(site)
    assert place in {problem.path for problem in found}
    assert {problem.fix for problem in found} == {f"c10 repair --cache {site.cache}"}
    try:
        report = site.build(flight_id="f3")
    except StoreError as error:
        assert place in error.message
        assert error.hint.startswith(f"c10 repair --cache {site.cache}")
    else:
        assert report.outcome is BuildOutcome.BUILT
    repaired = site.provisioner(trusted_keys=(site.key.public_bytes.hex(),)).repair()
    assert place in {action.what for action in repaired.actions if action.quarantine}
    assert repaired.go
    assert path.read_bytes() == before
    assert not path.is_symlink()
    assert problems(site) == ()


@pytest.mark.parametrize("shape", mostly_deep(SHAPES, "full folder", "dangling", "socket"))
def test_in_the_place_of_an_artifact(site, shape):
    manifest = site.state().head_build
    ref = manifest.index.artifact
    put(site, site.artifact(ref), shape)
    (problem, *_) = problems(site)
    assert "not a regular file" in problem.found
    assert problem.fix == f"c10 repair --cache {site.cache}"
    with pytest.raises(NoGoError):
        FlightCache.open(site.cache, trusted_keys=[site.key.public_bytes])
    report = site.build(flight_id="f2")
    assert (report.outcome, report.error) == (BuildOutcome.BUILT, None)
    assert problems(site) == ()
    assert [path.name for path in site.layout.quarantine.iterdir()] == [f"{ref.sha256}.0"]
