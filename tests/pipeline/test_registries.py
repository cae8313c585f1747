"""One row adds a tile source or an engine backend everywhere, and the documents name every row."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.build.report import BuildOutcome
from pipeline.embed.ray.actor import software
from pipeline.embed.ray.cluster import resource_of
from pipeline.engines.backends.registry import engine_compiler
from pipeline.errors import RequestError
from pipeline.request.options import EngineOptions
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.sources.registry import SOURCES, kind_of, open_source
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends.registry import AUTO, BACKENDS
from store.runtime.capabilities import covered, library_version, runtime_of
from tests import toy_parts
from tests.small_builds import BATCH, Site, spread
from tools.cli import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toys(monkeypatch):
    """The rows of the toys, here and in the workers."""
    monkeypatch.setitem(SOURCES, toy_parts.SOURCE.name, toy_parts.SOURCE)
    monkeypatch.setitem(BACKENDS, toy_parts.BACKEND.name, toy_parts.BACKEND)
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "tests.toy_parts")


@pytest.fixture
def site(quick_path):
    site = Site(quick_path)
    with zipfile.ZipFile(site.root / "tiles.zip", "w") as archive:
        for (z, x, y), data in spread(3, 2).items():
            archive.writestr(f"{z}/{x}/{y}.png", data)
    return site


def ours(site):
    return site.request(source="tiles.zip", engine=EngineOptions(backend="reference", batch=BATCH))


@pytest.mark.usefixtures("toys")
def test_a_row_is_enough_to_build_and_to_fly(site):
    assert site.provisioner().plan(ours(site)).to_embed == 6
    report = site.provisioner(workers=1).build_cache_artifacts(ours(site))
    assert report.outcome is BuildOutcome.BUILT, report.error
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.descriptor_engine.backend == "reference"
        sample = np.zeros((1, *cache.preprocessing.shape), np.float32)
        assert cache.engine("place").run(sample).shape == (1, cache.descriptor_index().dimensions)
        assert cache.descriptor_index().ntotal == 6
    assert site.provisioner().build_cache_artifacts(ours(site)).outcome is BuildOutcome.REUSED


def test_doctor_the_machine_and_ray_know_the_row(toys, tmp_path):
    packages = CliRunner().invoke(cli, ["doctor"]).stdout
    assert "pytest" in packages
    assert "hypothesis" in packages
    assert library_version("reference") == toy_parts.ReferenceCompiler.version
    assert (covered("reference", "cpu"), covered("reference", "gpu")) == (True, False)
    assert resource_of("reference") == "CPU"
    with_it = software()["c10"]
    del BACKENDS["reference"]
    assert software()["c10"] != with_it
    (tmp_path / "tiles.rar").touch()
    with pytest.raises(RequestError, match=r"X\.tif or X\.zip, found 'tiles\.rar'"):
        open_source("tiles.rar", tmp_path)


def test_without_the_row_nothing_knows_it(site):
    with pytest.raises(RequestError, match='"onnxruntime", "tensorrt", "tensorrt-rtx", "openvino"'):
        EngineOptions(backend="reference")
    (site.root / "tiles.zip").touch()
    with pytest.raises(RequestError, match=r"found 'tiles\.zip'"):
        open_source("tiles.zip", site.root)
    with pytest.raises(ValueError, match="a tile locator"):
        read_tile(("zip", str(site.root / "tiles.zip"), "6/0/0.png"))
    assert (runtime_of("reference"), library_version("reference"), covered("reference", "cpu")) == (
        None,
        None,
        False,
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_both_halves_of_a_backend_are_where_its_row_says(name):
    assert engine_compiler(name).backend == name
    assert runtime_of(name).version() == library_version(name)


def documented(setting):
    """What stands in code in the second column of the documents' one row for a setting."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
    (row,) = re.findall(rf"^\| `{re.escape(setting)}` \|([^|]*)\|", "\n".join(texts), re.MULTILINE)
    return re.findall(r"`([^`]+)`", row)


def test_the_documents_name_every_row_and_no_other():
    assert sorted(documented("[engine] backend")) == sorted([*BACKENDS, AUTO])
    assert sorted(kind_of(source).name for source in documented("[tiles] source")) == sorted(SOURCES)
