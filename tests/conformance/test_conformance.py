"""Every reader reaches the verdict of every conformance case: C10's own, and one in C++ from the documents alone."""

import json
import lzma
import tarfile
from pathlib import Path

import pytest

from tests.conformance import make_cases, make_vectors
from tests.conformance.cases import cases
from tests.conformance.cpp_reader import OPTIMISED, SANITIZERS, compiled, told_by
from tests.conformance.python_reader import verdict

HERE = Path(__file__).parent
CASES = json.loads((HERE / "cases.json").read_text())["cases"]
VECTORS = json.loads((HERE / "vectors.json").read_text())


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """The folder of all caches, as the archive has them."""
    folder = tmp_path_factory.mktemp("conformance")
    with tarfile.open(HERE / "caches.tar.xz") as archive:
        archive.extractall(folder, filter="fully_trusted")  # some cases are links that lead elsewhere
    return folder


@pytest.fixture(scope="module", params=["plain", pytest.param("sanitized", marks=pytest.mark.deep)])
def reader(request, tmp_path_factory):
    """The reader in C++, compiled."""
    if request.param == "plain":
        return request.getfixturevalue("cpp_reader")
    return compiled(tmp_path_factory.mktemp("reader"), *OPTIMISED, *SANITIZERS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_reader_of_c10(caches, case):
    assert verdict(caches / case["name"], case["ask"]) == case["verdict"]


def test_the_reader_in_cpp(caches, reader):
    told = told_by(reader, "cases", HERE / "cases.json", caches)
    expected = {case["name"]: case["verdict"] for case in CASES}
    assert {name: found for name, found in told.items() if found != expected[name]} == {}
    assert told.keys() == expected.keys()


def test_the_arithmetic_in_cpp(reader):
    told = told_by(reader, "vectors", HERE / "vectors.json")
    assert told == {vector["name"]: vector["out"] for vector in VECTORS["vectors"]}


def test_the_arithmetic_of_c10():
    assert make_vectors.document() == VECTORS


@pytest.mark.deep
def test_the_cases_are_what_the_generator_writes():
    found = cases()
    assert [case.to_document() for case in found] == CASES
    same = make_cases.archive(found) == lzma.decompress((HERE / "caches.tar.xz").read_bytes())
    assert same, "make them anew: python -m tests.conformance.make_cases"


def test_there_is_a_case_of_every_kind():
    kinds = {case["verdict"].get("kind", "go") for case in CASES}
    refusals = {"no-generation", "permission", "signature", "keys", "manifest-invalid", "verification"}
    assert kinds == {"go", "floor", "device", "artifact-damaged", *refusals}
