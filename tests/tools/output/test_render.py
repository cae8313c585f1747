import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.output import page, render
from tools.output.plan import plan_report


def test_times_are_utc():
    assert render.when(1_700_000_000_000_000_000) == "2023-11-14 22:13:20"
    assert render.iso(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123Z"


def test_lengths_of_time():
    told = [
        render.seconds(value) for value in (0.0, 0.0123, 0.9994, 1.0, 59.96, 119.9, 120.0, 3599.6, 7260.0)
    ]
    assert told == [
        "0 ms",
        "12 ms",
        "999 ms",
        "1.0 s",
        "60.0 s",
        "119.9 s",
        "2 min 00 s",
        "1 h 00 min",
        "2 h 01 min",
    ]


def test_sizes():
    assert [render.size(value) for value in (0, 1023, 1024, 1536, 5 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]


def test_counts():
    assert render.number(None) == "-"
    assert render.number(1234567) == "1,234,567"
    assert render.plural(1, "tile") == "1 tile"
    assert render.plural(0, "tile") == "0 tiles"
    assert render.plural(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("ppm", "shown"),
    [
        (0, "0 %"),
        (1, "< 0.1 %"),
        (2_000, "0.2 %"),
        (11_905, "1.2 %"),
        (950_000, "95 %"),
        (990_000, "99 %"),
        (997_024, "99.7 %"),
        (999_999, "99.9 %"),
        (1_000_000, "100 %"),
    ],
)
def test_a_share_is_never_all_or_nothing_unless_it_is(ppm, shown):
    assert render.share(ppm) == shown


def test_facts_leave_out_what_is_not_known_and_keep_digests_whole():
    digest = "a" * 64
    lines = render.fields(("one", None), ("two", ""), ("three", 0), ("identity", digest))
    assert lines == ["three        0", f"identity     {digest}"]
    assert max(map(len, lines)) <= page.WIDTH


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=9), st.integers(0, 10**9)), max_size=8))
def test_columns_are_aligned(rows):
    header, *lines = render.table(("name", "count"), rows, right=" r")
    assert len(lines) == len(rows)
    assert {len(line) for line in lines} <= {len(header)}


@given(st.text("ab ", max_size=400))
def test_wrapped_text_keeps_its_words(text):
    lines = render.wrap(text, 30)
    assert " ".join(lines).split() == text.split()


def test_a_section_without_content_is_not_shown():
    assert render.section("Steps", []) == []
    assert render.section("Steps", ["x", ""]) == ["", "Steps", "  x", ""]


@given(st.text() | st.text(alphabet="\x1b[2J\x9b\r\n\x00\u202e\u2028\x07a"))
def test_a_plain_line_does_nothing_to_a_terminal(text):
    shown = render.plain(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_long_texts_are_cut_and_say_so():
    for shown in (render.plain("x" * 5000), "".join(render.wrap("x" * 5000))):
        assert shown.startswith("x" * render.MAX_LINE)
        assert "1,000" in shown
        assert len(shown) < render.MAX_LINE + 100
    assert render.plain("x" * render.MAX_LINE) == "x" * render.MAX_LINE


BUILT = {
    "outcome": "built",
    "generation": 3,
    "build": 4,
    "seconds": 61.5,
    "identity": "aa",
    "manifest_sha256": "bb",
    "tiles": 5,
    "wanted": 8,
    "featureless": 2,
    "skipped": 0,
    "chunks": 0,
    "tiles_embedded": 2,
    "engines_compiled": 1,
    "steps_reused": 0,
    "files_checked": 7,
    "writes": 9,
    "warnings": [],
}
OLD = {"kind": "imagery-old", "message": "some tiles are old", "hint": "fetch newer ones"}


def test_a_build_is_told_with_its_warnings():
    told = render.build_report(BUILT | {"warnings": [OLD, OLD | {"hint": ""}]})
    assert told[0] == "built generation 3 (build 4) in 61.5 s; 2 warnings"
    assert told[-3:] == [
        "warning: some tiles are old",
        "  -> fetch newer ones",
        "warning: some tiles are old",
    ]
    assert told[-1].colour == "yellow"
    assert not any("reused" in line for line in told)
    assert "area         5 of 8 wanted tiles, 2 featureless" in told
    reused = render.build_report(BUILT | {"outcome": "reused", "steps_reused": 4})
    assert reused[0].startswith("nothing to do: generation 3")
    assert any("4 steps" in line for line in reused)
    assert not any("embedded" in line for line in reused)
    failed = render.build_report(BUILT | {"outcome": "failed", "identity": None, "wanted": 0})
    assert failed[0] == "failed after 61.5 s; the cache still shows what it showed"
    assert "stored       2 new descriptors" in failed


def test_a_failed_build_says_what_it_leaves_and_not_what_was_lost():
    counts = {
        "outcome": "failed",
        "generation": None,
        "chunks": 728,
        "chunks_embedded": 0,
        "chunks_copied": 472,
    }
    told = render.build_report(BUILT | counts | {"localisable": None}, first=True)
    assert told[0] == "failed after 61.5 s; the cache shows nothing yet"
    assert "stored       0 new descriptors, beside 472 of equal chunks or earlier builds" in told
    assert not any("embedded" in line for line in told)
    early = render.build_report(BUILT | counts | {"chunks": 0, "tiles_embedded": 0})
    assert not any("stored" in line for line in early)
    unrecorded = render.build_report(BUILT | counts | {"build": None, "localisable": None})
    assert not any("stored" in line for line in unrecorded)


def test_a_plan_tells_what_is_missing_and_warns():
    step = {"kind": "cells", "subject": "", "count": 3, "decision": "run", "why": "new cell"}
    plan = {
        "decision": "run",
        "to_embed": 3,
        "wanted": 5,
        "tiles": 3,
        "identity": "aa",
        "steps": [step],
        "chunks": 0,
        "levels": [],
        "bytes": 1_234_567,
        "reserve_bytes": 0,
        "seconds": None,
        "time": [],
        "cache": None,
        "map": None,
        "warnings": [OLD],
    }
    told = plan_report(plan)
    assert told[0] == "a build would embed 3 tiles and write at most 1.2 MB"
    reserved = plan_report(plan | {"reserve_bytes": 8 << 20})[0]
    assert reserved == f"{told[0]}, 8.4 MB of it the reserve of a new cache"
    assert any("2 are not in the source" in line for line in told)
    assert any(line.split() == ["cells", "-", "3", "run", "new", "cell"] for line in told), told
    assert told[-2:] == ["warning: some tiles are old", "  -> fetch newer ones"]
    assert any("1 is not in the source" in line for line in plan_report(plan | {"wanted": 4}))
    whole = plan_report(plan | {"decision": "reused", "wanted": 3, "warnings": []})
    assert whole[0].startswith("nothing to do")
    assert not any("not in the source" in line or "warning" in line for line in whole)


def test_chunks_are_told_in_their_own_numbers():
    level = {"level": 1, "zoom": 20, "k": 1, "m": 7, "side_m": 121.9, "overlap": 0.857, "chunks": 840}
    level |= {"metres_per_pixel": {"asked": 0.476, "available": 0.136}}
    plan = {"decision": "build", "to_embed": 840, "wanted": 3, "tiles": 3, "identity": "aa", "steps": []}
    plan |= {"cache": "c", "map": None, "time": []}
    told = plan_report(
        plan
        | {"chunks": 840, "levels": [level], "bytes": 0, "reserve_bytes": 0, "seconds": 75.0, "warnings": []},
    )
    assert told[0] == "a build would embed 840 chunks and write at most 0.0 MB"
    assert any(line.split() == ["1", "122", "m", "86%", "20", "840", "0.48", "0.14"] for line in told), told
    built = render.build_report(
        BUILT
        | {"chunks": 840, "chunks_embedded": 3, "chunks_copied": 773, "localisable": 0.945, "skipped": 1}
    )
    assert "area         a place can be found in 94.5 % of it, 1 tile skipped" in built
    assert "embedded     3 of 776 chunks" in built
    assert render.levels([level]) == "of 122 m (zoom 20, overlap 86%)"
    assert render.levels([]) is None
