"""The page of `c10 plan --map`, and the outline of an area on it and on the report's page."""

import math

import pytest

from tests.tools.commands.test_areas import LINE, polygon, write
from tests.tools.conftest import ACROSS, DOWN, LEFT, TOP, ZOOM, fingerprint
from tests.tools.report.test_look import colour, legend, text
from tests.tools.report.test_report_command import told_by

RECORD_LINES = """
window.drawn = [];
const own = CanvasRenderingContext2D.prototype, paths = new WeakMap();
const wrap = (name, before) => { const kept = own[name]; own[name] = function (...args) { before.call(this, ...args); return kept.apply(this, args); }; };
wrap("beginPath", function () { paths.set(this, []); });
wrap("moveTo", function (x, y) { paths.get(this)?.push({ points: [[x, y]], closed: false }); });
wrap("lineTo", function (x, y) { paths.get(this)?.at(-1)?.points.push([x, y]); });
wrap("closePath", function () { const last = paths.get(this)?.at(-1); if (last) last.closed = true; });
wrap("stroke", function () { if (this.getLineDash().length) window.drawn = paths.get(this); });
wrap("strokeRect", function (...box) { if (this.getLineDash().length) window.drawn = [{ box }]; });
"""
"""Keeps what was last drawn with a broken line: the outline of the area."""

HOLED = {
    "type": "Polygon",
    "coordinates": [
        *polygon((0.2, 0.2), (ACROSS - 0.2, 0.3), (ACROSS - 0.3, DOWN - 0.2), (0.3, DOWN - 0.3))[
            "coordinates"
        ],
        *polygon((0.9, 0.9), (4.1, 0.9), (4.1, 3.1), (0.9, 3.1))["coordinates"],
    ],
}


@pytest.fixture
def recording(tab):
    """The tab, which keeps the outline that a page draws."""
    made = tab.call("Page.addScriptToEvaluateOnNewDocument", source=RECORD_LINES)["identifier"]
    yield tab
    tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=made)


def plan(world, tmp_path, *more, code=0):
    """Plan with a map; what its page holds."""
    page = tmp_path / "map.html"
    told = world.json("plan", world.request, "--map", str(page), "--no-measure", *more, code=code)
    if code == 0:
        assert told["map"] == str(page)
    return told_by(page)


def mercator(longitude, latitude):
    return longitude / 360, -math.asinh(math.tan(math.radians(latitude))) / (2 * math.pi)


def placing(line, drawn):
    """What takes a place to the canvas: scale and offset, from the boxes around a line on the ground and as drawn."""
    xs, ys = zip(*(mercator(*place) for place in line), strict=True)
    across, down = zip(*drawn, strict=True)
    scale = (max(across) - min(across)) / (max(xs) - min(xs))

    def placed(place):
        x, y = mercator(*place)
        return min(across) + (x - min(xs)) * scale, min(down) + (y - min(ys)) * scale

    return placed


def pages(world, tmp_path):
    """The documents of the report's page and of the plan's, for the same request."""
    before = plan(world, tmp_path)
    number = world.json("build", world.request)["build"]
    return {"plan": before, "report": world.json("replay", str(number))}


@pytest.mark.deep
@pytest.mark.parametrize("page", ["plan", "report"])
def test_a_polygon_is_outlined_with_its_hole(recording, draw, world, tmp_path, page):
    write(world, HOLED)
    document = pages(world, tmp_path)[page]
    draw(document)
    drawn = recording.js("drawn")
    assert [each["closed"] for each in drawn] == [True, True]
    outer, hole = (ring[:-1] for ring in HOLED["coordinates"])
    at = placing(outer, drawn[0]["points"])
    for ring, line in ((outer, drawn[0]), (hole, drawn[1])):
        # The canonical area begins with another corner.
        wanted = sorted(tuple(round(each, 1) for each in at(place)) for place in ring)
        found = sorted({tuple(round(each, 1) for each in point) for point in line["points"]})
        assert len(found) == len(wanted)
        assert all(math.dist(*each) < 1.5 for each in zip(wanted, found, strict=True))
    box = recording.js("(({x, y}) => [x, y])(document.getElementById('map').getBoundingClientRect())")
    (left, top), (right, bottom) = at(hole[0]), at(hole[2])
    inside = colour(recording, box[0] + (left + right) / 2, box[1] + (top + bottom) / 2)
    beside = colour(recording, box[0] + (at(outer[0])[0] + left) / 2, box[1] + (top + bottom) / 2)
    assert inside == [0xE9, 0xED, 0xF1, 255]
    assert beside != inside


@pytest.mark.deep
@pytest.mark.parametrize("page", ["plan", "report"])
def test_a_corridor_has_the_line_of_its_route(recording, draw, world, tmp_path, page):
    write(world, LINE, "width_m = 400")
    draw(pages(world, tmp_path)[page])
    (drawn,) = recording.js("drawn")
    assert drawn["closed"] is False
    at = placing(LINE["coordinates"], drawn["points"])
    end = LINE["coordinates"][-1]
    assert math.dist(at(end), drawn["points"][-1]) < 1.5
    assert abs(drawn["points"][0][1] - drawn["points"][-1][1]) < 1.5
    counts = legend(recording)
    # The world has these tiles: its build copies their descriptors.
    assert counts["to be embedded" if page == "plan" else "reused"] == 3


@pytest.mark.deep
def test_a_box_has_a_frame(recording, draw, world, tmp_path):
    draw(plan(world, tmp_path))
    (drawn,) = recording.js("drawn")
    assert drawn["box"][2] > 100


@pytest.mark.deep
def test_the_ages_of_the_imagery_are_shown_on_request(draw, world, tmp_path):
    dates = ["z,x,y,captured"]
    days = {LEFT: "2026-01-20", LEFT + 1: "2025-11-20", LEFT + 2: "2025-03-01", LEFT + 3: "2020-01-01"}
    dates += [f"{ZOOM},{x},{y},{day}" for x, day in days.items() for y in range(TOP, TOP + DOWN)]
    (world.folder / "dates.csv").write_text("\n".join(dates))
    request = world.folder / "request.toml"
    request.write_text(request.read_text().replace("captured = 2026-01-15", 'captured = "dates.csv"'))
    document = plan(world, tmp_path)
    ages = document["area"]["ages"]
    assert sum(each["tiles"] for each in ages["classes"]) == ACROSS * DOWN
    tab = draw(document)
    assert "to be embedded" in legend(tab)
    before = tab.js("document.getElementById('map').toDataURL()")
    tab.js(
        "[...document.querySelectorAll('#legend label')].find((each) => each.innerText.includes('how old')).click()"
    )
    found = legend(tab)
    assert found["no capture date"] == DOWN
    assert sum(found.values()) == ACROSS * DOWN
    assert "to be embedded" not in found
    assert tab.js("document.getElementById('map').toDataURL()") != before


@pytest.mark.deep
def test_the_page_says_what_the_plan_says(draw, world, tmp_path):
    world.tile().unlink()
    document = plan(world, tmp_path)
    tab = draw(document)
    assert "1 of 20 wanted tiles" in text(tab, "#headline")
    assert legend(tab)["hole in the coverage"] == 1
    assert "its tiles changed" in text(tab, "#plan")
    assert text(tab, "#records") is None
    assert tab.js("document.title").startswith("Plan: tiny ")


def test_a_plan_that_is_refused_still_has_a_map(world, tmp_path):
    for x in range(LEFT, LEFT + 2):
        world.tile(x).unlink()
    request = world.folder / "request.toml"
    request.write_text(request.read_text() + "[coverage]\nmin_fraction = 0.99\n")
    document = plan(world, tmp_path, code=2)
    assert document["status"] == "refused"
    assert "0.990" in document["plan"]["error"]["message"]
    assert sum(last - first + 1 for _, _, first, last in document["area"]["tiles"]["holes"]) == 2


def test_reused_cells_are_told_from_those_to_embed(world, tmp_path):
    world.json("build", world.request)
    assert {each[4] for each in plan(world, tmp_path)["area"]["cells"]} == {"reused"}
    world.tile().write_bytes(world.tile(y=TOP + 1).read_bytes())
    found = plan(world, tmp_path)
    assert {each[4] for each in found["area"]["cells"]} == {"waiting"}
    assert found["summary"].startswith("a build would embed 0 tiles")


def test_only_a_page_is_written_over_and_nothing_in_the_cache(world, tmp_path):
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    error = world.json("plan", world.request, "--map", str(notes), code=2)["error"]
    assert "an earlier page" in error["message"]
    assert error["hint"] == "choose another --map FILE"
    assert notes.read_text() == "mine"
    world.json("build", world.request)
    before = fingerprint(world.cache)
    inside = world.cache / "map.html"
    assert (
        "inside of the cache"
        in world.json("plan", world.request, "--map", str(inside), code=2)["error"]["message"]
    )
    assert fingerprint(world.cache) == before


def test_a_map_on_standard_output_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert world.run("plan", world.request, "--map", "-").exit_code == 2
    assert not (tmp_path / "-").exists()


def test_an_earlier_page_stays_if_the_new_one_cannot_be_written(world, tmp_path, monkeypatch):
    plan(world, tmp_path)
    before = (tmp_path / "map.html").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tools.report.write_page.os.fsync", full)
    world.json("plan", world.request, "--map", str(tmp_path / "map.html"), "--no-measure", code=8)
    assert (tmp_path / "map.html").read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"copy", "map.html"}
