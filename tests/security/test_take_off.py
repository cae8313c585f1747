"""The take-off sequence of docs/trust.md, run as it stands there."""

import re
import shutil
from pathlib import Path

import pytest

from store.disk.layout import Layout
from store.errors import ErrorKind, NoGoError, StoreError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.trust.key_files import write_key_pair
from tests.small_builds import Site, spread

DOC = Path(__file__).parents[2] / "docs" / "trust.md"
VERSION = library_version("onnxruntime") or "1"


@pytest.fixture
def documented():
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, str(DOC), "exec"), names)
    return names


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A folder with a signed cache of two generations, a copy of its first, and the fleet's keys. Never change it."""
    folder = tmp_path_factory.mktemp("signed")
    old, new = (write_key_pair(folder / name) for name in ("old", "new"))
    (folder / "keys").write_text(
        old.public.read_text().replace("#", "not_after=1 #") + new.public.read_text()
    )
    site = Site(folder / "site", cache=folder / "cache")
    site.write_tiles(spread(3, 2))
    for pair, flight in ((old, "f1"), (new, "f2")):
        provisioner = site.provisioner(signing_key=pair.private, workers=1)
        assert provisioner.build_cache_artifacts(site.request(flight_id=flight)).error is None
        if flight == "f1":
            shutil.copytree(site.cache, folder / "earlier")
    return folder


@pytest.fixture
def site(signed, tmp_path):
    """Copies of both caches, the fleet's keys, and a place for floors."""
    for name in ("cache", "earlier"):
        shutil.copytree(signed / name, tmp_path / name)
    return tmp_path / "cache", tmp_path / "earlier", signed / "keys", tmp_path / "floors"


def test_adopt_take_off_and_refuse_an_older_cache(documented, site):
    cache, earlier, keys, floors = site
    adopt, take_off = documented["adopt"], documented["take_off"]
    with pytest.raises(NoGoError) as unknown:
        take_off(cache, keys, floors)
    assert (unknown.value.kind, floors.exists()) == (ErrorKind.FLOOR, False)
    assert "RollbackProtection.adopt" in unknown.value.hint
    adopt(earlier, keys, floors)
    with take_off(earlier, keys, floors) as flight:
        assert flight.manifest.envelope.generation == 1
    with take_off(cache, keys, floors) as flight:
        assert flight.manifest.envelope.generation == 2
        assert flight.engine("place") is flight.engine("place")  # loaded before the floor was raised
    with pytest.raises(NoGoError, match="expected 2 or newer, found 1"):
        take_off(earlier, keys, floors)
    adopt(earlier, keys, floors)
    with pytest.raises(NoGoError, match="expected 2 or newer, found 1"):
        take_off(earlier, keys, floors)


def test_a_cache_that_fails_verification_raises_no_floor(documented, site):
    cache, earlier, keys, floors = site
    documented["adopt"](earlier, keys, floors)
    before = floors.read_bytes()
    with FlightCache.open(cache, trusted_keys=ALLOW_UNSIGNED) as flight:
        artifact = Layout(cache).artifact(flight.manifest.descriptor_engine.artifact.sha256)
    data = artifact.read_bytes()
    artifact.unlink()
    artifact.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for name in ("adopt", "take_off"):
        with pytest.raises(StoreError, match="engine place"):
            documented[name](cache, keys, floors)
    assert floors.read_bytes() == before


def test_with_damaged_floors_or_keys_nothing_flies(documented, site):
    cache, earlier, keys, floors = site
    documented["adopt"](earlier, keys, floors)
    data = floors.read_bytes()
    floors.write_bytes(data[:-2] + b"x\n")
    with pytest.raises(NoGoError, match="floors"):
        documented["take_off"](cache, keys, floors)
    floors.write_bytes(data)
    keys.write_text("nonsense")
    with pytest.raises(ValueError, match="line 1"):
        documented["take_off"](cache, keys, floors)
    keys.write_text("")
    with pytest.raises(NoGoError, match="of which there is none"):
        documented["take_off"](cache, keys, floors)
