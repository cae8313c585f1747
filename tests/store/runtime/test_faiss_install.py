"""Exactly one faiss: the flavours own one module, and two of them leave neither whole."""

import pytest

from store.runtime.faiss_install import Flavour, FlavourError, installed_flavour, the_one
from store.runtime.load import RuntimeUnavailableError, load_index


def test_exactly_one_distribution_is_accepted():
    assert the_one([("numpy", "2"), ("faiss-cpu", "1.15.1")]) == Flavour("faiss-cpu", "1.15.1")
    # The same folder can be on the path twice.
    assert the_one([("faiss-cpu", "1.15.1")] * 2) == Flavour("faiss-cpu", "1.15.1")
    with pytest.raises(FlavourError, match=r"found none; pip install 'c10\[cpu\]'"):
        the_one([("numpy", "2")])
    with pytest.raises(
        FlavourError, match=r"faiss-cpu 1\.15\.1 and faiss-gpu 1\.15\.1.*pip uninstall faiss-cpu faiss-gpu"
    ):
        the_one([("faiss-gpu", "1.15.1"), ("faiss-cpu", "1.15.1")])


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("faiss-cpu", False),
        ("faiss-gpu", True),
        ("faiss_gpu", True),
        ("faiss-gpu-cu12", True),
        ("faiss", False),
    ],
)
def test_a_name_tells_whether_it_is_for_gpus(name, gpu):
    assert Flavour(name, "1").gpu is gpu


def test_the_one_that_is_here_is_found():
    assert installed_flavour().name.startswith("faiss")


def test_no_index_is_read_on_board_with_two_flavours(monkeypatch):
    def both():
        raise FlavourError("expected one distribution of faiss, found two", "pip uninstall one")

    monkeypatch.setattr("store.runtime.load.installed_flavour", both)
    with pytest.raises(RuntimeUnavailableError, match="found two; pip uninstall one"):
        load_index(b"", kind="flat", dimensions=4, ntotal=0)
