"""The figures of a page agree with each other: document, head, map, legend and tables, for builds of every kind."""

import json
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np
import pytest

from pipeline.request.proof_options import ProofOptions
from store.disk.layout import Layout
from tests.ground import COLUMN, ROW, GroundSite
from tests.ground import ZOOM as GROUND_ZOOM
from tests.pipeline.build.test_proof import STEP_M, write_truth
from tests.tools.conftest import ACROSS, DOWN, LEFT, TOP, ZOOM, make_world, picture
from tools.analysis.replay_document import replay
from tools.forensics.sources import from_cache

KINDS = (
    "good",
    "part",
    "failed",
    "killed",
    "skipped",
    "polygon",
    "chunks",
    "reused chunks",
    "failed chunks",
    "two networks",
)
MODEL = '[[models]]\nname = "tiny"\nrole = "descriptor"\nonnx = "tiny.onnx"\n'


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Name to the document of a build, as `c10 replay` prints it."""
    world = make_world(tmp_path_factory.mktemp("figures"))
    request = Path(world.request)
    text, whole, found = request.read_text(), world.tile().read_bytes(), {}

    def build(name, code=0):
        world.json("build", world.request, code=code)
        source = from_cache(Layout(world.cache))
        found[name] = replay(source, word=str(world.json("log")["entries"][0]["build"]))
        return source

    source = build("good")
    started = next(row["seq"] for row in found["good"]["timeline"] if row["tag"] == "step.started")
    done = next(row["seq"] for row in found["good"]["timeline"] if row["tag"] == "cell.embedded")
    assert started < done
    found["killed"] = replay(replace(source, history=source.history.until(done), lock_held=False), word="1")
    picture(np.random.default_rng(99)).save(world.tile())
    build("part")
    world.tile().write_bytes(whole[: len(whole) // 2])
    build("failed", code=3)
    request.write_text(text.replace("[tiles]", '[tiles]\non_bad = "skip"'))
    build("skipped")
    world.tile().write_bytes(whole)
    corners = [mercantile.bounds(LEFT, TOP, ZOOM), mercantile.bounds(LEFT + ACROSS - 1, TOP + DOWN - 1, ZOOM)]
    west, north, east, south = corners[0].west, corners[0].north, corners[1].east, corners[1].south
    ring = [[west, south], [east, south], [west, north], [west, south]]
    (world.folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    world.tile(LEFT + 1, TOP + 1).unlink()
    lines = [line for line in text.splitlines() if not line.startswith("bbox")]
    request.write_text("\n".join([*lines, '[area]\nfile = "area.geojson"\n[coverage]\nmin_fraction = 0.5\n']))
    build("polygon")
    request.write_text(
        text.replace(MODEL, MODEL + MODEL.replace('"tiny"', '"other"')) + "[coverage]\nmin_fraction = 0.5\n"
    )
    build("two networks")
    found.update(chunk_documents(tmp_path_factory.mktemp("chunks")))
    return {name: json.dumps(document) for name, document in found.items()}


def chunk_documents(folder):
    site = GroundSite(folder)
    write_truth(site)
    proof = ProofOptions(pictures="truth.csv", min=0.5, within_m=STEP_M)
    for flight in ("f1", "f2"):
        assert site.build(proof=proof, flight_id=flight).error is None
    tile = site.root / f"tiles/{GROUND_ZOOM}/{COLUMN + 6}/{ROW + 6}.png"
    tile.write_bytes(tile.read_bytes()[:90])
    assert site.build(flight_id="f3").error is not None
    return {
        name: replay(from_cache(site.layout), word=str(number))
        for name, number in (("chunks", 1), ("reused chunks", 2), ("failed chunks", 3))
    }


def tiles_in(document, name, zoom=None):
    runs = document["area"]["tiles"][name]
    return sum(last - first + 1 for level, _, first, last in runs if zoom in {None, level})


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_agrees_with_itself(documents, kind):
    told = json.loads(documents[kind])
    area, cost, steps = told["area"], told["cost"], told["steps"]
    cells, done, chunks = area["cells"], area["descriptors"], bool(area["levels"])
    networks = 2 if kind == "two networks" else 1
    lowest, highest = area["zoom"]
    assert sum(tiles_in(told, "present", zoom) for zoom in range(lowest, highest + 1)) == area["present"]
    assert (
        area["wanted"] - area["present"]
        == sum(tiles_in(told, "holes", zoom) for zoom in range(lowest, highest + 1))
        or not area["report"]
        or chunks
    )
    if not chunks:
        assert sum(cell[3] for cell in cells) == area["present"] == cost["tiles"]
    embedded = sum(found[0] for found in done if found)
    assert embedded * networks == cost["embedded"]
    described = sum(found[1] for found in done if found)
    if cost["reuse_ppm"] is not None and cost["reused_tiles"] is not None:
        assert described * networks == cost["embedded"] + cost["reused_tiles"]
        assert cost["reuse_ppm"] == round(1e6 * cost["reused_tiles"] / (described * networks))
        index = next((step for step in steps if step["kind"] == "index" and step["outcome"] == "done"), None)
        assert index is None or index["count"] == described
    for cell, found in zip(cells, done, strict=True):
        assert (found is None) == (cell[6] is None)
        assert found is None or found[0] <= found[1] <= cell[3]
    assert (
        sum(step["bytes"] for step in steps) == cost["bytes"] == sum(part["bytes"] for part in cost["steps"])
    )
    assert sum(step["ms"] or 0 for step in steps) <= told["ms"] == cost["ms"]
    assert len(told["timeline"]) + told["timeline_cut"] >= len(steps)


def test_skipped_tiles_are_neither_embedded_nor_reused(documents):
    told = json.loads(documents["skipped"])
    assert [cell[3] for cell in told["area"]["cells"]] == [20]
    assert told["area"]["descriptors"] == [[0, 19]]
    assert (told["cost"]["embedded"], told["cost"]["reused_tiles"], told["cost"]["reuse_ppm"]) == (
        0,
        19,
        10**6,
    )
    assert tiles_in(told, "skipped") == 1


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_head_legend_and_tables_say_the_same(draw, documents, kind):
    told = json.loads(documents[kind])
    tab, cells = draw(told), told["area"]["cells"]
    figures = dict(
        tab.js(
            "[...document.querySelectorAll('#headline .figures > div')].map((each) => [each.querySelector('dt').innerText, each.querySelector('dd').firstChild.textContent])"
        )
    )
    legend = {}
    for zoom in tab.js("[...document.querySelectorAll('#levels button')].map((each) => each.dataset.zoom)"):
        tab.js(f"document.querySelector('#levels [data-zoom=\"{zoom}\"]').click()")
        for label, number in tab.js(
            "[...document.querySelectorAll('#legend tr')].slice(1).map((row) => [row.cells[1].innerText, row.cells[2].innerText])"
        ):
            legend[label] = legend.get(label, 0) + int(number.replace(",", ""))
    networks = 2 if kind == "two networks" else 1
    assert int(figures["Embedded"]) == legend["embedded"] * networks
    assert int(figures["Tiles"]) == told["area"]["present"]
    states = ("embedded", "reused", "under way", "failing", "not reached", "without a descriptor")
    assert sum(legend.get(name, 0) for name in states) == sum(cell[3] for cell in cells)
    if told["failure"] and told["failure"]["tiles"]:
        assert legend["failing tile"] == len(told["failure"]["tiles"])
        # Chunks are not tiles: none of theirs failed.
        assert legend.get("failing", 0) == (0 if told["area"]["levels"] else legend["failing tile"])
    if legend.get("skipped") and not told["area"]["levels"]:
        assert legend["without a descriptor"] == legend["skipped"]
    rows = tab.js(
        "[...document.querySelectorAll('#cost tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert rows[-1][0] == "The build"
    assert rows[-1][1].replace("\u00a0", " ") == figures["Took"].replace("\u00a0", " ")
    assert rows[-1][2] == figures["Stored"]
