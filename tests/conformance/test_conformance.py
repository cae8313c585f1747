"""Every reader reaches the verdict of every conformance case: C10's own, and one in C++ from the documents alone."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.conformance import make_cases
from tests.conformance.cases import cases
from tests.conformance.python_reader import verdict

HERE = Path(__file__).parent
CASES = json.loads((HERE / "cases.json").read_text())["cases"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """The folder of all caches, as the archive has them."""
    folder = tmp_path_factory.mktemp("conformance")
    unpack(folder)
    return folder


def unpack(folder):
    with tarfile.open(HERE / "caches.tar.xz") as archive:
        archive.extractall(folder, filter="fully_trusted")  # links that lead elsewhere are cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_reader_of_c10(caches, case):
    assert verdict(caches / case["name"], case["ask"]) == case["verdict"]


def test_the_cases_are_what_the_generator_writes():
    found = cases()
    assert [case.to_document() for case in found] == CASES
    stored = (HERE / "caches.tar.xz").read_bytes()
    assert make_cases.digest_of(make_cases.archive(found)) == make_cases.digest_of(stored)


def test_there_is_a_case_of_every_kind():
    kinds = {case["verdict"].get("kind") for case in CASES}
    assert kinds == {
        None,
        "no-generation",
        "permission",
        "signature",
        "keys",
        "manifest-invalid",
        "verification",
        "floor",
        "device",
        "artifact-damaged",
    }
    assert len(CASES) > 250
