"""Versions of what is installed, told by the names of folders: as `importlib.metadata` tells them."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from store.base.distributions import version_of, with_prefix


def made(folder, name, version, *, info="dist-info", file="METADATA"):
    path = folder / f"{name.replace('-', '_')}-{version}.{info}"
    path.mkdir(parents=True)
    (path / file).write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Version: 9\n\nVersion: 8\n"
    )
    return path


def test_every_distribution_here_has_the_version_that_the_standard_library_finds():
    names = {each.name for each in metadata.distributions()}
    assert len(names) > 10
    assert {name: version_of(name) for name in names} == {name: metadata.version(name) for name in names}


@pytest.mark.parametrize("asked", ["Some.Thing", "some-thing", "some_thing", "SOME--thing"])
def test_a_name_is_compared_as_installers_do(tmp_path, monkeypatch, asked):
    made(tmp_path, "some-thing", "1.2+cu12")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert version_of(asked) == "1.2+cu12"
    assert version_of("some-thing-else") is None


def test_the_first_on_the_path_is_the_one_that_is_imported(tmp_path, monkeypatch):
    made(tmp_path / "later", "some-thing", "1")
    made(tmp_path / "first", "some-thing", "2")
    for folder in ("later", "first"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert version_of("some-thing") == metadata.version("some-thing") == "2"
    assert with_prefix("some") == [("some-thing", "2"), ("some-thing", "1")]


def test_metadata_that_lies_otherwise_is_left_to_the_standard_library(tmp_path, monkeypatch):
    made(tmp_path, "old-thing", "3", info="egg-info", file="PKG-INFO")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert version_of("old-thing") == "3"
    # One of two that is told in another way is as much in the way as the other.
    made(tmp_path, "old-thing-gpu", "4")
    assert sorted(with_prefix("old")) == [("old-thing", "3"), ("old-thing-gpu", "4")]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("info", ["dist-info", "egg-info"])
def test_of_two_of_one_name_in_a_folder_the_standard_library_says_which(
    tmp_path, monkeypatch, backwards, info
):
    """It takes the first that the folder lists: 1.19 may come before 1.20 or after it."""
    made(tmp_path, "some-thing", "1.20")
    made(tmp_path, "some-thing", "1.19", info=info, file="METADATA" if info == "dist-info" else "PKG-INFO")
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listed(path), reverse=backwards))
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = "1.20" if backwards else "1.19"
    assert version_of("some-thing") == metadata.version("some-thing") == expected
    assert sorted(with_prefix("some")) == [("some-thing", "1.19"), ("some-thing", "1.20")]


def test_what_is_no_folder_of_packages_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "archive.zip").write_bytes(b"")
    made(tmp_path / "here", "some-thing", "1")
    for name in ("archive.zip", "nowhere", "here"):
        monkeypatch.syspath_prepend(str(tmp_path / name))
    assert version_of("some-thing") == "1"


def test_a_distribution_that_is_there_is_told_without_the_reader_of_mail():
    code = (
        "import sys; from store.base.distributions import version_of, with_prefix\n"
        "assert version_of('numpy') and with_prefix('faiss')\n"
        "assert 'email.message' not in sys.modules and 'importlib.metadata' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
