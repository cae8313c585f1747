"""Exactly one distribution of faiss: two overwrite each other's files."""

import sys

import pytest

from store.runtime.faiss_install import FaissDistribution, installed_faiss, require_one_faiss
from store.runtime.load import RuntimeUnavailableError, load_index


def test_exactly_one_distribution_is_accepted():
    assert require_one_faiss([("numpy", "2"), ("faiss-cpu", "1.15.1")]) == FaissDistribution(
        "faiss-cpu", "1.15.1"
    )
    # The same folder can be on the path twice.
    assert require_one_faiss([("faiss-cpu", "1.15.1")] * 2) == FaissDistribution("faiss-cpu", "1.15.1")
    with pytest.raises(RuntimeUnavailableError, match="found none"):
        require_one_faiss([("numpy", "2")])
    with pytest.raises(RuntimeUnavailableError, match=r"faiss-cpu 1\.15\.1 and faiss-gpu 1\.15\.1") as error:
        require_one_faiss([("faiss-gpu", "1.15.1"), ("faiss-cpu", "1.15.1")])
    assert error.value.hint.startswith("pip uninstall faiss-cpu faiss-gpu")


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
def test_the_name_says_whether_it_is_for_gpus(name, gpu):
    assert FaissDistribution(name, "1").gpu is gpu


def test_the_installed_distribution_is_found():
    assert installed_faiss().name.startswith("faiss")


def installed(folder, name, *, info="dist-info", file="METADATA"):
    (folder / "faiss").mkdir(exist_ok=True)
    (folder / "faiss" / "__init__.py").touch()
    path = folder / f"{name.replace('-', '_')}-1.2.{info}"
    path.mkdir()
    (path / file).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")


def test_distributions_beside_the_imported_module_count(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(tmp_path, "faiss-gpu-cu99")
    (tmp_path / "faiss_gpu_cu99-1.1.dist-info").mkdir()  # an uninstallation that was cut short
    assert installed_faiss.__wrapped__() == FaissDistribution("faiss-gpu-cu99", "1.2")
    # A distribution of an older installer counts as well.
    installed(tmp_path, "faiss", info="egg-info", file="PKG-INFO")
    with pytest.raises(RuntimeUnavailableError, match=r"found faiss 1\.2 and faiss-gpu-cu99 1\.2"):
        installed_faiss.__wrapped__()


def test_a_folder_that_an_uninstaller_left_is_no_faiss(tmp_path, monkeypatch):
    (tmp_path / "faiss").mkdir()
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(RuntimeUnavailableError, match="found none"):
        installed_faiss.__wrapped__()


def test_no_index_is_read_on_board_with_two_distributions(monkeypatch):
    def both():
        raise RuntimeUnavailableError(
            "expected one distribution of faiss, found two", hint="pip uninstall one"
        )

    monkeypatch.setattr("store.runtime.load.installed_faiss", both)
    with pytest.raises(RuntimeUnavailableError, match="found two"):
        load_index(b"", kind="flat", dimensions=4, ntotal=0)
