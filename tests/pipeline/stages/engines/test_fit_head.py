"""Fitting a head: the same sample gives the same bytes, at any number of threads and from any source of tiles."""

import hashlib
import os
from datetime import date

import faiss
import numpy as np
import pytest

from pipeline.embed import worker
from pipeline.engines.models.network import inspect_models
from pipeline.errors import ErrorKind, TileError
from pipeline.planning.heads import SAMPLE, sample_of
from pipeline.request.head_options import HeadOptions
from pipeline.stages.engines.fit_head import fit_head
from pipeline.testing import RecordingProgress
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.selection import select_tiles
from pipeline.tiles.sources.registry import open_source
from tests.child_python import run_python
from tests.small_builds import Site, encoded, local_network, picture
from tests.tile_archives import write_mbtiles

TILES = {(8, x, y): picture(1000 * x + y) for x in range(20) for y in range(10)}
HEAD = {"kind": "vlad", "words": 32, "dimensions": 128}


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.write("net.onnx", local_network(channels=64))
    made.write_tiles(TILES)
    return made


def fitted(site, *, units=None, progress=None, **fields):
    """The file that a head of the site's tiles is fitted to."""
    request = site.request(zoom=(8, 8), model={"head": HEAD}, **fields)
    compiler = site.provisioner().ports.compiler_for(request)
    (model,) = inspect_models(request, compiler, None)
    source = open_source(request.tiles.source, site.root, digest_cache_folder=None)
    selection = select_tiles(request, source, today=date(2026, 1, 1))
    units = sample_of(selection.units) if units is None else units(selection.units)
    return fit_head(
        model, HeadOptions(**HEAD), units, selection.shown_tiles(), progress=progress or RecordingProgress()
    )


FIT = """
import hashlib, pathlib, sys
from tests.pipeline.stages.engines.test_fit_head import fitted
from tests.child_python import run_python
from tests.small_builds import Site

print(hashlib.sha256(fitted(Site(pathlib.Path(sys.argv[1])))).hexdigest())
"""


def test_the_number_of_threads_changes_no_byte(site):
    """Each library reads its number of threads when it is loaded."""
    found = {
        run_python(
            FIT,
            site.root,
            env=os.environ
            | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        ).stdout
        for threads in ("1", "4")
    }
    assert len(found) == 1


def test_what_the_caller_had_set_is_left_as_it_was(site):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        fitted(site)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_another_source_of_the_same_tiles_changes_no_byte(site):
    write_mbtiles(site.root / "x.mbtiles", dict(reversed(TILES.items())))
    assert fitted(site, source="x.mbtiles") == fitted(site)


def test_another_sample_gives_other_bytes(site):
    assert fitted(site, units=lambda units: sample_of(units).take(slice(150))) != fitted(site)


def test_a_tile_that_changes_meanwhile_ends_the_fit(site):
    def change(units):
        site.write("tiles/8/3/3.png", picture(1))
        return sample_of(units)

    with pytest.raises(TileError, match="the source changed") as caught:
        fitted(site, units=change)
    assert (caught.value.kind, caught.value.subject) == (ErrorKind.SOURCE_CHANGED, "8/3/3")


@pytest.mark.parametrize(
    "kind", [kind for kind in ErrorKind if "ARCHIVE" in kind.name or "SOURCE" in kind.name]
)
def test_a_tile_that_cannot_be_read_ends_the_fit(site, monkeypatch, kind):
    """Its sample has the same digest as one of which all tiles were read."""
    read = worker.read_tile

    def fails(locator):
        if locator[1].endswith("8/3/3.png"):
            raise TileError("cannot be read", kind=kind)
        return read(locator)

    monkeypatch.setattr(worker, "read_tile", fails)
    with pytest.raises(TileError, match="8/3/3: cannot be read") as caught:
        fitted(site)
    assert (caught.value.kind, caught.value.subject) == (kind, "8/3/3")


def test_tiles_that_cannot_be_decoded_or_show_nothing_are_left_out_and_counted(site):
    site.write("tiles/8/3/3.png", b"no picture")
    site.write("tiles/8/3/4.png", encoded(np.full((64, 64, 3), 90, np.uint8)))
    progress = RecordingProgress()
    assert fitted(site, progress=progress)
    ((*_, said),) = progress.steps
    assert said == "2 of 200 tiles left out: damaged, or without texture"


def test_progress_counts_what_goes_through_the_network(site):
    progress = RecordingProgress()
    fitted(site, progress=progress)
    assert progress.steps == [("fit the head of place", 400, 400, "")]


def test_the_sample_is_of_the_first_digests_by_their_own_digests_each_once():
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (3000, 32), np.uint8)
    digests[1500:] = digests[:1500]
    units = RetrievalUnits(ids=np.arange(3000), digests=digests)
    chosen = sample_of(units)
    expected = sorted({bytes(each) for each in digests}, key=lambda each: hashlib.sha256(each).digest())
    assert [bytes(each) for each in chosen.digests] == expected[:SAMPLE]
    shuffled = units.take(rng.permutation(3000))
    np.testing.assert_array_equal(sample_of(shuffled).digests, chosen.digests)
    few = units.take(slice(10))
    assert len(sample_of(few)) == 10
