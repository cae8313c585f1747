"""The page as bytes: what is in it, what hostile records can do to it, and how fast it draws."""

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import pytest

from tests.tools.report import browser
from tools.report import static
from tools.report.page import MARK, embedded, page
from tools.report.static import MAX_BARS, MAX_LANES, MAX_STEPS, pack_lanes, static_steps

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><!-- ]]> @DATA@ ${window.pwned=1} &lt;b&gt; \u2028"
TILES_WIDE = 320
"""Tiles in a row and in a column of the large area: 102,400 of them."""


def test_every_step_of_a_build_and_of_a_plan_has_a_name():
    words = (Path(static.__file__).parent / "parts" / "words.js").read_text(encoding="utf-8")
    named = re.search(r"STEP_NAMES = {(.*?)};", words, re.DOTALL)[1]
    kinds = ("engine", "stand-in", "check", "cells", "index", "proof", "packs", "coverage", "commit")
    assert set(kinds) | {"compile", "embed", "carry"} <= set(re.findall(r'"?([\w-]+)"?: "', named))


def strings(value, change):
    """A document with every text in it changed."""
    match value:
        case str():
            return change(value)
        case list():
            return [strings(each, change) for each in value]
        case dict():
            return {name: strings(each, change) for name, each in value.items()}
        case _:
            return value


def spoiled(value, kinds=("status", "outcome", "severity", "kind", "tag")):
    """A document with something hostile at the end of every text, also of those with few possible values."""
    return strings(value, lambda text: text + HOSTILE)


def large(failed, side=TILES_WIDE):
    """The failed build with an area of `side` x `side` tiles, full of holes, and 20,000 records."""
    told, zoom, first = json.loads(failed), 16, 1 << 12
    begin, end = told["timeline"][0]["seq"], told["timeline"][0]["seq"] + 20_000
    cells = [(x, y) for x in range(side // 16) for y in range(side // 16)]
    told["area"]["cells"] = [
        [
            zoom,
            (first >> 4) + x,
            (first >> 4) + y,
            256,
            ("embedded", "reused", "waiting", "dispatched")[(x + y) % 4],
            begin + 9,
            begin + 10 + 40 * place,
        ]
        for place, (x, y) in enumerate(cells)
    ]
    told["area"]["tiles"] |= {
        # Every third tile lies alone, so that there are as many runs as there can be.
        "present": [
            [zoom, first + y, first + x, first + x + 1] for y in range(side) for x in range(0, side, 3)
        ],
        "holes": [
            [zoom, first + y, first + x + 2, first + x + 2] for y in range(side) for x in range(0, side, 3)
        ],
        "failing": [],
    }
    told["area"]["bbox_e7"] = None
    row = told["timeline"][1]
    told["timeline"] = [row | {"seq": seq, "ms": seq - begin} for seq in range(begin, end)]
    return told


def test_no_record_can_end_the_script_it_stands_in():
    text = embedded({"text": HOSTILE, HOSTILE: [HOSTILE]})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text) == {"text": HOSTILE, HOSTILE: [HOSTILE]}


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        embedded({"value": float("nan")})


def test_the_policy_allows_the_very_style_and_script_of_the_page_and_nothing_else(failed):
    text = page(json.loads(failed))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    style, script = (
        re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1],
        re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1],
    )
    for name, part in (("style-src", style), ("script-src", script)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy


def test_the_page_names_no_address_and_is_its_own_only_file(failed):
    text = page(json.loads(failed))
    shell = text.replace(embedded(json.loads(failed)), "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", shell)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', shell)) <= {"data:,", "#replay"}
    assert MARK in text.encode()[:512]
    assert "@" not in re.sub(r"@media|@page|@font-face", "", shell)


def test_scripts_never_make_markup_of_text():
    text = page({})
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
        "XMLHttpRequest",
        "import(",
    ):
        assert word not in script


def test_without_scripts_the_summary_is_there_as_text():
    assert "&lt;b&gt;" in page({"summary": "<b>"})


def test_without_scripts_the_steps_stand_in_time(tab, failed, tmp_path):
    told = json.loads(failed)
    (tmp_path / "page.html").write_text(page(told))
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.call("Page.navigate", url=(tmp_path / "page.html").as_uri())
        until, names = time.monotonic() + browser.TIMEOUT_S, ""
        while "Steps in time" not in names and time.monotonic() < until:
            shown = tab.call("Accessibility.getFullAXTree")["nodes"]
            names = " ".join(str(node.get("name", {}).get("value", "")) for node in shown)
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert told["summary"] in names
    assert all(step["kind"] in names for step in told["steps"])
    assert "Record of the build" not in names


def test_the_static_page_draws_windows_in_lanes():
    spans = [(0, 300), (10, 200), (20, 90), (200, 210), (95, 120)]
    assert sorted(pack_lanes(spans)) == [(0, 300, 0), (10, 200, 1), (20, 90, 2), (95, 120, 2), (200, 210, 1)]
    parts = [{"begin_ms": begin, "ms": end - begin} for begin, end in spans]
    step = {"kind": "cells", "subject": "<b>", "outcome": "done", "begin_ms": 0, "ms": 300, "parts": parts}
    text = static_steps({"steps": [step], "ms": 400})
    assert text.count("<rect") == 5
    assert {re.search(r'y="(\d+)"', each)[1] for each in text.split("<rect")[1:]} == {"0", "7", "14"}
    assert "&lt;b&gt;" in text


def test_the_static_page_of_a_large_build_stays_small_and_shows_all_of_its_time():
    parts = [{"begin_ms": begin, "ms": 50_000} for begin in range(2000)]
    large = {"kind": "cells", "subject": "", "outcome": "done", "begin_ms": 0, "ms": 52_000, "parts": parts}
    small = {**large, "parts": parts[:7]}
    for steps in ([large] * MAX_STEPS, [large, *[small] * 9], [large]):
        text = static_steps({"steps": steps, "ms": 52_000})
        assert MAX_BARS / 2 < text.count("<rect") <= MAX_BARS
        assert len(text) < 200_000
        assert text.count("<tr") == len(steps)
        drawn = [float(each) for each in re.findall(r'x="([\d.]+)"', text.partition("</tr>")[0])]
        assert drawn[0] == 0
        assert drawn[-1] > 35
    rows = static_steps({"steps": [large, *[small] * 9], "ms": 52_000}).split("</tr>")
    assert [row.count("<rect") for row in rows[1:10]] == [7] * 9


def test_lanes_beyond_the_last_are_drawn_over_it():
    spans = [(begin, 1000 + begin) for begin in range(50)] + [(1000, 1100), (1001, 1002), (1051, 1052)]
    lanes = list(pack_lanes(spans))
    assert [lane for _, _, lane in lanes[:50]] == [*range(MAX_LANES), *[MAX_LANES - 1] * 34]
    assert lanes[50:] == [(1000, 1100, 0), (1001, 1002, 1), (1051, 1052, 1)]


def test_hostile_texts_stay_texts(draw, failed):
    tab = draw(spoiled(json.loads(failed)), quiet=False)
    assert tab.js("document.documentElement.dataset.ready") == "yes"
    assert tab.js("window.pwned ?? null") is None
    assert tab.js("[...document.querySelectorAll('script')].length") == 2
    assert tab.js("[...document.images].filter((each) => !each.src.startsWith('data:image/')).length") == 0
    assert "<img src=x onerror" in tab.js(
        "document.querySelector('h1').innerText + document.querySelector('#headline').innerText"
    )
    tab.hover(400, 600)
    tab.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert tab.js("window.pwned ?? null") is None


def test_the_page_cannot_reach_a_network_even_if_it_wanted(draw, failed):
    tab = draw(failed)
    assert tab.js("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert (
        tab.js(
            "new Promise((done) => { document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective)); new Image().src = 'http://127.0.0.1:9/x'; })"
        )
        == "img-src"
    )


@pytest.mark.parametrize(
    "name",
    [
        "failure",
        "area",
        "compare",
        "findings",
        "steps",
        "timeline",
        "checks",
        "keys",
        "cost",
        "state",
        "host",
        "request",
        "verified",
        "generations",
        "inputs",
        "source",
    ],
)
def test_every_field_may_be_empty(draw, failed, name):
    told = json.loads(failed)
    told[name] = (
        []
        if isinstance(told[name], list)
        else {}
        if name in {"cost", "state", "host", "inputs", "source"}
        else None
    )
    tab = draw(told, quiet=False)
    assert tab.js("document.documentElement.dataset.ready") == "yes", tab.complaints()


def test_records_of_later_versions_keep_their_place(draw, failed):
    told = json.loads(failed)
    row = told["timeline"][3]
    told["timeline"][3] = row | {
        "tag": "cell.teleported",
        "unknown": True,
        "step": None,
        "payload": {"a": 1},
        "text": "written by a later version: {'a': 1}",
    }
    tab = draw(told)
    tab.js(
        "(() => { const at = document.getElementById('slider'); at.value = 3; at.dispatchEvent(new Event('input')); })()"
    )
    assert "unknown event" in tab.js("document.getElementById('now').innerText")
    assert "cell.teleported" in tab.js("document.getElementById('now').innerText")


def test_what_speaks_against_a_flight_is_said_at_the_top(draw, committed, failed):
    said = draw(committed).js("document.querySelector('#headline #readiness').innerText")
    assert "the oldest imagery is of 2026-01-15, 410 days old" in said.lower()
    assert "→ fetch newer imagery" in said
    told = json.loads(committed)
    told["readiness"]["warnings"] = []
    said = draw(told).js("document.querySelector('#readiness').innerText")
    assert said == "Nothing in the records speaks against a flight."
    # Of a build that failed nothing is judged.
    assert draw(failed).js("document.querySelector('#readiness')") is None


def test_a_run_that_never_became_a_build_is_drawn(draw, failed):
    told = json.loads(failed) | {
        "build": None,
        "status": "denied",
        "area": None,
        "steps": [],
        "keys": [],
        "checks": [],
        "compare": None,
        "cost": {},
    }
    told["timeline"] = told["timeline"][:1]
    tab = draw(told)
    assert "Never began" in tab.js("document.querySelector('.badge').innerText")
    assert "Nothing is known of an area" in tab.js("document.getElementById('replay').innerText")


def test_a_build_that_was_found_dead_days_later_keeps_its_bars(draw, failed):
    told = json.loads(failed)
    told["timeline"][-1] |= {"tag": "build.abandoned", "ms": 400_000_000}
    told["steps"][-1] |= {"outcome": "cut", "to": told["timeline"][-1]["seq"], "ms": None}
    tab = draw(told)
    widest = tab.js(
        "Math.max(...[...document.querySelectorAll('.did')].map((bar) => bar.getBoundingClientRect().width))"
    )
    # Drawn over days, a step of seconds is narrower than a pixel.
    assert widest > 20


@pytest.mark.deep
def test_a_hundred_thousand_tiles_are_drawn_at_once(draw, failed):
    told = large(failed)
    tab = draw(told)
    first = int(tab.js("document.documentElement.dataset.drawnMs"))
    step = tab.js(
        "(() => { const at = document.getElementById('slider'), began = performance.now(); for (let place = 0; place < 20000; place += 1000) { at.value = place; at.dispatchEvent(new Event('input')); } return (performance.now() - began) / 20; })()"
    )
    runs = sum(map(len, told["area"]["tiles"].values()))
    print(
        f"{TILES_WIDE**2:,} tiles in {runs:,} runs, 20,000 records: drawn after {first} ms, {step:.1f} ms per step of the slider"
    )
    # Alone on a machine it is a tenth of it.
    assert first < 6_000
    assert step < 1_000
