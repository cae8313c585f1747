"""What people see and can do: headline, slider, keyboard, map, tooltips, themes, phone, paper."""

import base64
import json
import re
from importlib import resources

import pytest

from tests.tools.conftest import LEFT, TOP, ZOOM

pytestmark = pytest.mark.deep

CELL = f"{ZOOM}/{LEFT >> 4}/{TOP >> 4}"


def text(tab, selector):
    return tab.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")


def legend(tab):
    """What the legend counts, by label."""
    rows = tab.js(
        "[...document.querySelectorAll('#legend tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return {row[1]: int(row[2].replace(",", "")) for row in rows if len(row) == 3}


def middle_of(tab, selector, across=0.5, down=0.5):
    x, y, width, height = tab.js(
        f"(({{x, y, width, height}}) => [x, y, width, height])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )
    return x + width * across, y + height * down


def place(tab):
    return tab.js("Number(document.getElementById('slider').value)")


def colour(tab, x, y):
    """The colour of the map at a place of the window."""
    return tab.js(
        "((x, y) => { const map = document.getElementById('map'), box = map.getBoundingClientRect(), unit = map.width / box.width;"
        f" return [...map.getContext('2d').getImageData((x - box.x) * unit, (y - box.y) * unit, 1, 1).data]; }})({x}, {y})"
    )


def test_the_headline_says_what_failed_why_and_what_mends_it(draw, failed):
    tab, told = draw(failed), json.loads(failed)
    shown = text(tab, "#headline")
    assert "Failed" in shown
    assert told["failure"]["cause"][1:] in shown
    assert told["failure"]["message"] in shown
    assert told["failure"]["hint"] in shown
    assert tab.js("document.title").startswith("Build 2: Failed")


def test_every_part_of_the_document_has_its_panel(draw, failed):
    tab, told = draw(failed), json.loads(failed)
    ids = tab.js("[...document.querySelectorAll('section')].map((part) => part.id)")
    assert {"headline", "replay", "inputs", "records", "compare", "keys", "cost", "host", "cache"} <= set(ids)
    assert told["host"]["kernel"] in text(tab, "#host")
    assert told["identity"][:12] in text(tab, "#keys")
    assert "Against build 1" in text(tab, "#compare")
    assert "tiles.digest" in text(tab, "#compare")
    assert "the very bytes" in text(tab, "#cache")
    assert text(tab, "#records .row:last-child .said") == told["timeline"][-1]["text"]


def test_the_corrupt_tile_is_shown_as_a_picture_or_by_its_first_bytes(draw, failed):
    tab = draw(failed)
    assert tab.js("document.querySelectorAll('.gallery figure').length") == 1
    assert f"tile {ZOOM}/{LEFT}/{TOP}" in text(tab, ".gallery figcaption")
    shown = json.loads(failed)
    shown["failure"]["pictures"][0] |= {"data": "bm8gcGljdHVyZSBhdCBhbGw=", "media": "image/png"}
    tab = draw(shown, quiet=False)
    tab.js("new Promise((done) => setTimeout(done, 100))")
    assert "6e 6f 20 70" in text(tab, ".gallery pre")


def test_the_slider_moves_map_steps_and_words_together(draw, failed):
    tab, told = draw(failed), json.loads(failed)
    last = len(told["timeline"]) - 1
    assert place(tab) == last
    tiles = sum(cell[3] for cell in told["area"]["cells"])
    assert (legend(tab)["failing"], legend(tab)["under way"]) == (1, tiles - 1)
    tab.js("document.getElementById('slider').focus()")
    tab.key("Home")
    assert place(tab) == 0
    assert f"Record {told['timeline'][0]['seq']}" in text(tab, "#now")
    assert legend(tab)["failing"] == 0
    assert legend(tab)["not reached"] == tiles
    assert tab.js("[...document.querySelectorAll('.step.todo')].length") == len(told["steps"]) - 1
    dispatched = next(row for row in told["timeline"] if row["tag"] == "step.started")
    for _ in range(told["timeline"].index(dispatched)):
        tab.key("ArrowRight")
    assert place(tab) == told["timeline"].index(dispatched)
    assert legend(tab)["under way"] == tiles
    assert tab.js("document.getElementById('slider').getAttribute('aria-valuetext')").startswith(
        f"record {dispatched['seq']}"
    )
    tab.key("End")
    assert place(tab) == last
    assert tab.js("[...document.querySelectorAll('.step.todo')].length") == 0


def test_the_map_is_painted_by_what_happened(draw, failed):
    tab = draw(failed)
    x, y = middle_of(tab, "#map", 0.45, 0.45)
    after = {tuple(colour(tab, x + dx, y + dy)) for dx in range(0, 12, 3) for dy in range(0, 12, 3)}
    tab.js(
        "(() => { const at = document.getElementById('slider'); at.value = 0; at.dispatchEvent(new Event('input')); })()"
    )
    before = {tuple(colour(tab, x + dx, y + dy)) for dx in range(0, 12, 3) for dy in range(0, 12, 3)}
    # A worker had the tiles of this cell when one of them failed.
    assert after != before


def test_one_bad_tile_paints_one_tile(draw, failed):
    red = """(() => {
        const map = document.getElementById('map'), { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);
        let red = 0;
        for (let at = 0; at < data.length; at += 4) red += data[at] > 180 && data[at + 1] < 120 && data[at + 2] < 120;
        return red / (data.length / 4);
    })()"""
    told = json.loads(failed)
    one = draw(told).js(red)
    told["area"]["tiles"]["failing"] = []
    told["failure"]["tiles"] = []
    whole = draw(told).js(red)
    assert 0 < one < whole / 5


def test_space_plays_the_build_to_its_end_and_pauses(draw, failed):
    tab = draw(failed)
    tab.js("document.activeElement.blur()")
    tab.key("Space")
    assert text(tab, "#play") == "❚❚"
    assert place(tab) == 0
    tab.key("Space")
    assert text(tab, "#play") == "▶"
    tab.js(
        "(() => { const at = document.getElementById('slider'); at.value = at.max - 1; at.dispatchEvent(new Event('input')); })()"
    )
    tab.js("document.getElementById('play').click()")
    tab.js(
        "new Promise((done) => { const ask = () => (document.getElementById('play').textContent === '▶' ? done() : setTimeout(ask, 50)); ask(); })"
    )
    assert place(tab) == len(json.loads(failed)["timeline"]) - 1


def test_a_tooltip_names_the_cell_and_the_tile_under_the_pointer(draw, failed):
    tab = draw(failed)
    tab.js("document.getElementById('map').scrollIntoView({block: 'center'})")
    tab.hover(*middle_of(tab, "#map"))
    tip = text(tab, "#tip")
    assert f"Cell {CELL}: failing" in tip
    assert re.search(rf"tile {ZOOM}/\d+/\d+", tip)
    assert "° " in tip
    tab.hover(*middle_of(tab, "#map", 0.01, 0.5))
    assert tab.js("document.getElementById('tip').hidden")


def test_a_tooltip_follows_the_slider(draw, failed):
    tab = draw(failed)
    tab.js("document.getElementById('map').scrollIntoView({block: 'center'})")
    tab.hover(*middle_of(tab, "#map"))
    assert "failing" in text(tab, "#tip")
    tab.js("document.getElementById('slider').focus({preventScroll: true})")
    tab.key("Home")
    assert f"Cell {CELL}: not reached" in text(tab, "#tip")


def test_tiles_that_differ_from_the_last_good_build_are_outlined_on_request(draw, failed):
    tab = draw(failed)
    assert "1 changed" in text(tab, "#legend label")
    before = tab.js("document.getElementById('map').toDataURL()")
    for expected in (False, True):
        tab.js("document.querySelector('#legend input').click()")
        assert (tab.js("document.getElementById('map').toDataURL()") == before) is expected


def test_the_map_is_zoomed_dragged_and_shown_whole_again(draw, failed):
    tab = draw(failed)
    tab.js("document.getElementById('map').scrollIntoView({block: 'center'})")
    x, y = middle_of(tab, "#map")

    def tile():
        tab.hover(x, y)
        tab.hover(x + 1, y)
        return re.search(r"tile (\S+)", text(tab, "#tip") or "")

    whole = tile()[1]
    for _ in range(4):
        tab.js("document.getElementById('nearer').click()")
    tab.drag(x, y, x - 300, y)
    assert tile()[1] != whole
    tab.js("document.getElementById('whole').click()")
    assert tile()[1] == whole


def test_the_map_is_walked_with_arrow_keys_and_speaks(draw, failed):
    tab = draw(failed)
    tab.js("document.getElementById('map').focus()")
    tab.key("ArrowRight")
    assert f"Cell {CELL}: failing" in text(tab, "#tip")
    assert CELL in text(tab, "#spoken")
    tab.key("+")
    tab.key("0")
    tab.key("Escape")
    assert tab.js("document.getElementById('tip').hidden")
    assert "1 cell failing" in tab.js("document.getElementById('map').getAttribute('aria-label')")


def test_tab_reaches_everything_in_order_and_all_of_it_has_a_name(draw, failed):
    tab = draw(failed)
    tab.js("(() => { document.activeElement.blur(); scrollTo(0, 0); })()")
    seen = []
    for _ in range(60):
        tab.key("Tab")
        seen.append(
            tab.js(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        assert tab.js("getComputedStyle(document.activeElement).outlineStyle") != "none" or seen[-1] == "BODY"
    order = [
        seen.index(name)
        for name in ("skip", "theme", "print", "map", "nearer", "back", "play", "forth", "slider")
    ]
    assert order == sorted(order)
    nameless = tab.js(
        "[...document.querySelectorAll('button, input, a, canvas[tabindex], [role=listbox]')].filter((each) => "
        "!(each.innerText || each.getAttribute('aria-label') || each.labels?.length)).map((each) => each.outerHTML)"
    )
    assert nameless == []


def test_records_are_found_and_lead_to_their_moment(draw, failed):
    tab, told = draw(failed), json.loads(failed)
    tab.js(
        "(() => { const field = document.querySelector('.find input'); field.value = 'tiles.selected'; field.dispatchEvent(new Event('input')); })()"
    )
    assert tab.js("document.querySelectorAll('.row').length") == 1
    tab.js("document.querySelector('.row').click()")
    assert told["timeline"][place(tab)]["tag"] == "tiles.selected"


def test_another_zoom_level_has_its_own_cells(draw, failed):
    told = json.loads(failed)
    told["area"]["cells"].insert(
        0, [ZOOM - 1, LEFT >> 5, TOP >> 5, 7, "reused", None, told["timeline"][2]["seq"]]
    )
    tab = draw(told)
    assert tab.js("document.querySelector('#levels [aria-checked=true]').innerText") == str(ZOOM)
    tab.js(f"document.querySelector('#levels [data-zoom=\"{ZOOM - 1}\"]').click()")
    assert legend(tab)["reused"] == 7
    tab.js("document.querySelector('#levels [aria-checked=true]').focus()")
    tab.key("ArrowRight")
    assert tab.js("document.querySelector('#levels [aria-checked=true]').innerText") == str(ZOOM)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(draw, tab, failed, scheme):
    tab.media(prefers_color_scheme=scheme)
    draw(failed)
    assert tab.js("document.documentElement.dataset.theme") == scheme
    ground = tab.js("getComputedStyle(document.body).backgroundColor")
    for expected in ("light", "dark", scheme):
        tab.js("document.getElementById('theme').click()")
        assert tab.js("document.documentElement.dataset.theme") == expected
    assert tab.js("getComputedStyle(document.body).backgroundColor") == ground


@pytest.mark.parametrize("width", [360, 390, 800])
def test_nothing_is_wider_than_a_phone(draw, tab, failed, width):
    tab.size(width, 844, mobile=True, scale=2)
    draw(failed)
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("document.getElementById('map').getBoundingClientRect().height") >= 200


def test_paper_has_no_controls_and_the_last_records(draw, failed):
    tab, told = draw(failed), json.loads(failed)
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.js("dispatchEvent(new Event('beforeprint')), 0")
    hidden = ("#print", ".transport", ".timezoom", ".zoomers", ".records", ".find")
    assert [
        tab.js(
            f"getComputedStyle(document.querySelector('{name}').closest('.tools') ?? document.querySelector('{name}')).display"
        )
        for name in hidden
    ] == ["none"] * 6
    rows = tab.js("[...document.querySelectorAll('#records .onpaper tbody tr')].map((row) => row.innerText)")
    assert len(rows) == min(9, len(told["timeline"]))
    assert told["timeline"][-1]["text"][:40] in rows[-1]
    tab.js("dispatchEvent(new Event('afterprint')), 0")
    tab.call("Emulation.setEmulatedMedia", media="")
    assert tab.js("document.querySelectorAll('#records .onpaper tr, .overpaper').length") == 0
    assert tab.js("document.querySelector('#records').nextSibling.id") == "compare"


def long(told):
    """A document with more of everything than two pages have room for."""
    told["steps"] = told["steps"] * 12
    told["checks"] = told["checks"] * 40
    told["findings"] = [
        {"kind": "x", "severity": "warning", "seq": None, "text": "many words " * 30, "mend": "mend it"}
    ] * 30
    told["keys"] = told["keys"] * 10
    told["host"] = {f"fact {number}": "of the machine " * 9 for number in range(60)}
    told["readiness"] = {"warnings": [{"message": "long " * 40, "hint": "hint " * 20}] * 12}
    return told


@pytest.mark.parametrize("paper", [(8.27, 11.69), (8.5, 11)], ids=["A4", "Letter"])
@pytest.mark.parametrize("kind", ["failed", "committed", "long"])
def test_paper_has_two_pages(draw, failed, committed, paper, kind):
    told = json.loads(failed if kind == "failed" else committed)
    tab = draw(long(told) if kind == "long" else told)
    width, height = paper
    data = tab.call("Page.printToPDF", printBackground=True, paperWidth=width, paperHeight=height)["data"]
    assert len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(data))) == 2


@pytest.mark.parametrize("width", [360, 412])
@pytest.mark.parametrize("kind", ["failed", "committed"])
def test_no_column_is_hidden_on_a_phone(draw, tab, failed, committed, kind, width):
    tab.size(width, 780, mobile=True, scale=2)
    draw(failed if kind == "failed" else committed)
    tab.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    beyond = tab.js(
        "[...document.querySelectorAll('td, .took, .row > *, #contents a')].filter((each) => { const box = each.getBoundingClientRect(), held = each.closest('section, header').getBoundingClientRect();"
        " return !box.width || box.right > held.right + 1 || box.left < held.left - 1; }).map((each) => each.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    # What a table says of its columns stands beside each value.
    labels = tab.js("[...document.querySelectorAll('#cache .stacked td')].map((each) => each.dataset.label)")
    assert labels[:3] == ["Generation", "Record", "Body"]


def with_windows(told):
    """Six windows, of which three are under way at once; the last did not end, and one was tried twice."""
    step = next(step for step in told["steps"] if step["kind"] == "cells")
    spans = [(0, 300), (10, 200), (20, 70), (100, 110), (220, 70), (310, None)]
    step["parts"] = [
        {
            "from": step["from"],
            "to": step["to"],
            "begin_ms": step["begin_ms"] + begin,
            "ms": ms,
            "cells": 1,
            "first": CELL,
            "last": CELL,
            "attempts": 1 + (begin == 10),
            "outcome": "done" if ms else "cut",
        }
        for begin, ms in spans
    ]
    step["ms"] = 400
    told["timeline"][-1]["ms"] = max(told["timeline"][-1]["ms"], step["begin_ms"] + 400)
    return told


def test_windows_have_lanes_and_the_page_says_what_lanes_are(draw, failed):
    tab = draw(with_windows(json.loads(failed)))
    assert tab.js("document.querySelectorAll('.laned').length") == 1
    assert "at most 3 at once" in text(tab, "#bars")
    assert "do not say which worker" in text(tab, "#bars")
    rows = """(() => { const map = document.querySelector('.laned .parts'), pen = map.getContext('2d'), unit = map.width / map.clientWidth;
        const { data } = pen.getImageData(0, 0, map.width, map.height); const found = [];
        for (let lane = 0; lane < 3; lane += 1) { let painted = 0; for (let x = 0; x < map.width; x += 1) painted += data[4 * (Math.round((lane * 7 + 2) * unit) * map.width + x) + 3] > 0; found.push(painted / map.width); }
        return found; })()"""
    assert all(share > 0.05 for share in tab.js(rows))
    tab.js("document.getElementById('slider').focus()")
    tab.key("Home")
    assert "100%" in tab.js("document.querySelector('.laned .parts').style.clipPath")
    assert draw(failed).js("document.querySelectorAll('.laned').length") == 0


def stretched(found, by):
    """A document whose build took so many times as long."""
    if isinstance(found, dict):
        return {
            name: each * by if name in {"ms", "begin_ms"} and each is not None else stretched(each, by)
            for name, each in found.items()
        }
    return [stretched(each, by) for each in found] if isinstance(found, list) else found


def test_the_time_axis_is_zoomed_by_buttons_keys_wheel_and_drag(draw, failed):
    # Less than 5 ms are never shown: a build of 17 ms can be zoomed once.
    tab = draw(stretched(json.loads(failed), 100))

    def span():
        return tab.js(
            "(({ hidden, innerText }) => hidden ? '' : innerText)(document.querySelector('.timezoom output'))"
        )

    assert span() == ""
    tab.js("document.getElementById('later').focus()")
    tab.key("Enter")
    half = span()
    assert " to " in half
    tab.key("+")
    assert span() != half
    tab.key("-")
    assert span() == half
    assert tab.js("document.activeElement.id") == "later"
    tab.js(
        "(() => { const at = document.getElementById('when'); at.value = 0; at.dispatchEvent(new Event('input')); })()"
    )
    assert span().startswith("0:00.000 to ")
    tab.js("document.getElementById('steps').scrollIntoView({block: 'center'})")
    x, y = middle_of(tab, "#bars .track")
    tab.drag(x, y, x - 200, y)
    assert not span().startswith("0:00.000 to ")
    tab.js("document.getElementById('alltime').click()")
    assert span() == ""
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-120, modifiers=2)
    tab.js("new Promise((done) => setTimeout(done, 100))")
    assert " to " in span()
    wide = tab.js(
        "[...document.querySelectorAll('.track i')].every((bar) => { const box = bar.getBoundingClientRect(), track = bar.parentNode.getBoundingClientRect(); return bar.hidden || (box.left >= track.left - 4 && box.right <= track.right + 4); })"
    )
    assert wide


def test_the_time_axis_is_pinched(draw, tab, failed):
    tab.size(390, 844, mobile=True)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    draw(failed)
    tab.js("document.getElementById('steps').scrollIntoView({block: 'center'})")
    x, _ = middle_of(tab, "#bars .track")
    pinch = """(() => { const send = (name, id, x) => document.querySelector('#bars .track').dispatchEvent(new PointerEvent(name, { pointerId: id, clientX: x, bubbles: true, pointerType: 'touch' }));
        send('pointerdown', 1, %(x)d - 30); send('pointerdown', 2, %(x)d + 30); send('pointermove', 2, %(x)d + 120); send('pointerup', 1, 0); send('pointerup', 2, 0); })()"""
    tab.js(pinch % {"x": x})
    assert " to " in tab.js("document.querySelector('.timezoom output').innerText")
    tab.call("Emulation.setTouchEmulationEnabled", enabled=False)


PAIRS = [
    *(("ink", each) for each in ("ground", "card", "sunk", "map", "good-soft", "accent-soft")),
    *(("soft", each) for each in ("ground", "card", "sunk")),
    *((each, f"{each}-soft") for each in ("bad", "warn", "good")),
    *((each, "card") for each in ("bad", "warn", "good", "accent")),
    ("card", "accent"),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_their_ground(theme):
    colours = palette(theme)
    weak = {
        (word, ground): ratio
        for word, ground in PAIRS
        if (ratio := contrast(colours[word], colours[ground])) < 4.5
    }
    assert weak == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_became_of_cells_differs_in_brightness_or_pattern_too(theme):
    """Without hues, areas without a pattern still differ: embedded, reused and the ground."""
    colours = palette(theme)
    assert contrast(colours["embedded"], colours["reused"]) > 2.5
    assert contrast(colours["embedded"], colours["map"]) > 3
    assert contrast(colours["failing"], colours["map"]) > 3


def palette(theme):
    style = resources.files("tools.report").joinpath("parts", "page.css").read_text()
    blocks = re.findall(r":root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", style, re.DOTALL)
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})\b", blocks[0]))
    return (
        found if theme == "light" else found | dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})\b", blocks[1]))
    )


def contrast(one, other):
    """The contrast of two colours as WCAG 2.2 defines it, 1 to 21."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize(
    ("ppm", "shown"),
    [(0, "0 %"), (1, "< 0.1 %"), (11_905, "1.2 %"), (950_000, "95 %"), (997_024, "99.7 %"), (10**6, "100 %")],
)
def test_reuse_reads_all_or_nothing_only_if_it_was(draw, committed, ppm, shown):
    told = json.loads(committed)
    told["cost"]["reuse_ppm"] = ppm
    tab = draw(told)
    assert f"Reused\n{shown}" in text(tab, ".figures")


def test_what_a_build_reused_is_all_of_it_where_its_number_is_not_known(draw, committed):
    told = json.loads(committed)
    told["cost"] |= {"reuse_ppm": 10**6, "reused_tiles": None, "unit": "chunk"}
    assert "Reused\n100 %\nall chunks" in text(draw(told), ".figures")


@pytest.mark.parametrize("width", [360, 520, 1300])
def test_names_are_not_broken_within_a_word(draw, tab, failed, width):
    tab.size(width, 780)
    names = ("bbox_e7", "calibration", "models.place.preprocessing.resampler")
    told = json.loads(failed)
    told["compare"]["inputs"] = [{"path": name, "old": "a" * 64, "new": "b " * 40} for name in names]
    draw(told)
    # A text node for each part of a name: one box is one line.
    boxes = tab.js(
        "[...document.querySelectorAll('#compare code.name')].flatMap((each) => [...each.childNodes]).filter((each) => each.length)"
        ".map((each) => { const range = document.createRange(); range.selectNode(each); return [each.data, range.getClientRects().length]; })"
    )
    assert {"bbox_e7", "calibration", "preprocessing."} <= {name for name, _ in boxes}
    assert {count for _, count in boxes} == {1}


def test_a_zoom_of_chunks_beyond_the_imagery_is_explained(draw, committed):
    told = json.loads(committed)
    told["area"]["levels"] = [{"zoom": ZOOM - 1, "k": 1, "m": 4, "tile_edge": 256}]
    tab = draw(told)
    shown = text(tab, "#legend")
    assert f"made of tiles of zoom {ZOOM - 1} and lie half of such a tile apart" in shown
    assert f"as large as a tile of zoom {ZOOM}" in shown


def test_a_committed_build_has_no_failure_and_all_its_steps(draw, committed):
    tab, told = draw(committed), json.loads(committed)
    assert "Committed" in text(tab, ".badge")
    assert tab.js("document.getElementById('inputs')") is None
    assert tab.js("document.querySelectorAll('.step').length") == len(told["steps"])
    assert legend(tab)["embedded"] == 20
    assert tab.js("document.querySelectorAll('#checks tbody tr').length") == len(told["checks"])
