"""Inner products, and the search that is made of them, keep to the calling thread."""

import json
import os

import numpy as np
import pytest

from store.runtime.inner_products import inner_products
from tests.child_python import run_python

pytest.importorskip("faiss")

SEARCHES = """
import json, time
import faiss
import numpy as np
from store.base.geometry.distances import points_of, within
from store.base.joined_vectors import unit_rows
from store.runtime.inner_products import inner_products
from store.runtime.rounded_vectors import RoundedVectors

rng = np.random.default_rng(0)
vectors = unit_rows(rng.standard_normal((20_000, 128)).astype(np.float32))
points = points_of(rng.uniform(-80, 80, (200_000, 2)))
rounded = RoundedVectors(vectors)
searches = {
    "one": lambda: inner_products(vectors[:1], vectors),
    "eight": lambda: inner_products(vectors[:8], vectors),
    "near": lambda: within(points, points[0], 1e6),
    "rounded": lambda: rounded.best(vectors[0], 200),
}
shares = {}
for name, search in searches.items():
    search()
    own, whole = time.thread_time(), time.process_time()
    until = own + 0.1
    while time.thread_time() < until:
        search()
    shares[name] = (time.process_time() - whole) / (time.thread_time() - own)
print(json.dumps([shares, faiss.omp_get_max_threads()]))
"""


@pytest.mark.parametrize("queries", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1300])
@pytest.mark.parametrize("dimensions", [1, 4, 12, 16, 50])
def test_they_are_those_of_numpy(queries, count, dimensions):
    rng = np.random.default_rng(count)
    one, other = (rng.standard_normal((rows, dimensions)).astype(np.float32) for rows in (queries, count))
    found = inner_products(one, other)
    assert found.dtype == np.float32
    assert found == pytest.approx(one @ other.T, abs=1e-4)


def test_arrays_that_are_not_contiguous():
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((20, rows)).astype(np.float32).T for rows in (2, 30))
    assert inner_products(one, other) == pytest.approx(one @ other.T, abs=1e-5)


def test_no_other_thread_takes_part():
    threads = {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    shares, kept = json.loads(run_python(SEARCHES, env=os.environ | threads).stdout)
    assert shares == pytest.approx(dict.fromkeys(shares, 1), abs=0.2)
    assert kept == 4, "what the caller had set is left as it was"
