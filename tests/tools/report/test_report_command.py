"""`c10 report`: it writes a page and nothing else, and never over anything but a page."""

import json
import os
import re
import shutil

import pytest
from click.testing import CliRunner

from tests.tools.conftest import fingerprint, only_line
from tools.cli import cli


def told_by(path):
    text = path.read_text()
    return json.loads(
        re.search(r'<script type="application/json" id="replay-data">(.*?)</script>', text, re.DOTALL)[1]
    )


def test_the_page_holds_what_replay_prints(site, tmp_path):
    before = fingerprint(site.cache)
    page = tmp_path / "report.html"
    said = site.json("report", "-o", str(page))
    assert (said["build"], said["status"], said["path"]) == (2, "failed", str(page))
    assert said["bytes"] == page.stat().st_size
    assert told_by(page) == site.json("replay", "2")
    assert fingerprint(site.cache) == before


def test_any_build_and_any_moment_of_it(site, tmp_path):
    page = tmp_path / "report.html"
    result = site.run("report", "1", "--at", "3", "-o", str(page))
    assert result.exit_code == 0, result.output
    assert str(page) in result.output
    assert told_by(page) == site.json("replay", "1", "--at", "3")


def test_an_earlier_page_is_replaced_whole(site, tmp_path):
    page = tmp_path / "report.html"
    assert site.run("report", "2", "-o", str(page)).exit_code == 0
    page.write_text(page.read_text() + "x" * 1_000_000)
    assert site.run("report", "1", "-o", str(page)).exit_code == 0
    assert told_by(page)["build"] == 1
    assert page.read_text().endswith("</html>\n")


def make_file(path):
    path.write_text("my notes")


def make_link(path):
    path.symlink_to(path.parent / "elsewhere")


def make_linked_page(path):
    (path.parent / "elsewhere").write_text("<!-- C10 flight recorder -->")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_file, make_link, make_linked_page, os.mkdir, os.mkfifo])
def test_nothing_but_a_page_is_written_over(site, tmp_path, make):
    target = tmp_path / "report.html"
    make(target)
    before = fingerprint(tmp_path)
    error = site.json("report", "-o", str(target), code=2)["error"]
    assert "an earlier page" in error["message"]
    assert error["hint"] == "choose another -o FILE"
    assert fingerprint(tmp_path) == before


def test_nothing_is_written_into_the_cache_whose_journal_is_read(site):
    before = fingerprint(site.cache)
    journal, target = site.cache / "journal.mdb", site.cache / "segments" / "report.html"
    result = site.run("report", "--journal", str(journal), "-o", str(target))
    assert result.exit_code == 2
    assert "inside of the cache" in result.stderr
    assert fingerprint(site.cache) == before


@pytest.mark.parametrize(
    "inside", ["report.html", "journal.mdb", "artifacts/report.html", "../cache/report.html"]
)
def test_nothing_is_written_into_the_cache(site, inside):
    before = fingerprint(site.cache)
    assert (
        "inside of the cache"
        in site.json("report", "-o", str(site.cache / inside), code=2)["error"]["message"]
    )
    assert fingerprint(site.cache) == before


def test_a_folder_that_is_not_there_is_said(site, tmp_path):
    error = site.json("report", "-o", str(tmp_path / "none" / "report.html"), code=2)["error"]
    assert "no folder" in error["message"]


def test_nothing_is_left_where_there_is_no_such_build(site, tmp_path):
    assert site.json("report", "77", "-o", str(tmp_path / "report.html"), code=2)["error"]
    assert list(tmp_path.iterdir()) == []


def test_standard_output_takes_the_page_but_not_beside_json(site):
    result = site.run("report", "-o", "-")
    assert result.exit_code == 0
    assert result.stdout.startswith("<!doctype html>")
    assert "-o FILE beside --json" in site.json("report", "-o", "-", code=2)["error"]["message"]


def test_a_copied_journal_alone_is_enough(site, tmp_path):
    shutil.copy(site.cache / "journal.mdb", tmp_path / "copy.mdb")
    page = tmp_path / "report.html"
    result = CliRunner().invoke(
        cli, ["report", "--journal", str(tmp_path / "copy.mdb"), "-o", str(page), "--json"]
    )
    assert only_line(result)["build"] == 2
    assert told_by(page)["area"]["known"] == "cells"


def test_a_bundle_brings_the_failing_tile_along(site, tmp_path, draw):
    bundle, page = tmp_path / "failed.c10", tmp_path / "report.html"
    assert site.run("export", "2", "-o", str(bundle)).exit_code == 0
    result = CliRunner().invoke(cli, ["report", "--bundle", str(bundle), "-o", str(page), "--json"])
    assert only_line(result)["build"] == 2
    told = told_by(page)
    assert told["failure"]["pictures"][0]["data"]
    assert "Failed" in draw(told).js("document.querySelector('.badge').innerText")
