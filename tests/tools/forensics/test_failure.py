"""What is told of the end of a build: its step, its inputs, its cause, and the pictures that were kept."""

import base64

import pytest

from store.base.identity import descriptor_id
from store.domain import events as e
from store.domain.state import State
from store.formats import tile_pack
from tests.played_builds import make, ref_of
from tests.tools.stories import Shelf, Story
from tools.forensics.failure import MAX_PICTURE_BYTES, failure_document, media_of

ENGINE, TABLE, INDEX, BLOCKS, CAMERA, REPORT = b"engine", b"table", b"index", b"blocks", b"camera", b"report"
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 "
PNG = b"\x89PNG\r\n\x1a\n and so on"


def begun():
    """A build that came as far as its index."""
    story = Story().genesis()
    story.add(make(e.BuildStarted, calibration=ref_of(CAMERA), host={"source": "tiles/{z}/{x}/{y}.png"}))
    story.add(make(e.TilesSelected, count=9, table=ref_of(TABLE)))
    story.add(make(e.EngineCompiled, model="net", key="k", artifact=ref_of(ENGINE)))
    story.add(make(e.EngineCompiled, model="other", key="l", artifact=ref_of(b"other")))
    return story.add(make(e.IndexBuilt, kind="flat", rows=9, artifact=ref_of(INDEX), blocks=ref_of(BLOCKS)))


def told(story, *artifacts, dead=False):
    return failure_document(story.timeline(), story.builds().state, Shelf(*artifacts), dead=dead)


def failed(step, kind="unexpected", subject="", **inputs):
    return begun().add(make(e.BuildFailed, step=step, kind=kind, subject=subject, inputs=inputs))


def attached(**artifacts):
    refs = {name: ref_of(data) for name, data in artifacts.items()}
    return {name: {"sha256": ref.sha256, "size": ref.size} for name, ref in refs.items()}


@pytest.mark.parametrize(
    ("step", "subject", "roles"),
    [
        ("start", "", ["calibration camera"]),
        ("inputs", "", ["source tiles/{z}/{x}/{y}.png"]),
        ("tiles", "", ["tile table 9 tiles", "source tiles/{z}/{x}/{y}.png"]),
        ("check", "net", ["engine net"]),
        ("check", "index", ["index flat", "block table 9 rows"]),
        ("index", "", ["index flat", "block table 9 rows"]),
        ("commit", "", ["index flat", "block table 9 rows"]),
        ("coverage", "area", ["tile table 9 tiles", "index flat", "block table 9 rows"]),
        (
            "cells",
            "window 0",
            ["engine net", "engine other", "tile table 9 tiles", "source tiles/{z}/{x}/{y}.png"],
        ),
        ("tea", "", []),
    ],
)
def test_a_step_was_given_what_earlier_ones_made(step, subject, roles):
    inputs = told(failed(step, subject=subject), ENGINE, INDEX)["inputs"]
    assert [f"{row['role']} {row['name']}" for row in inputs] == roles
    here = {row["role"] for row in inputs if row["present"]}
    assert here == {"engine", "index"} & {row["role"] for row in inputs if row["name"] != "other"}


REQUEST = """
calibration = "camera.json"
[[models]]
name = "net"
onnx = "net.onnx"
[[models]]
name = "other"
onnx = "other.onnx"
"""


@pytest.mark.parametrize(
    ("subject", "text", "names"),
    [
        ("net", REQUEST, ["net (net.onnx)"]),
        ("6/0/0", REQUEST, ["net (net.onnx)", "other (other.onnx)", "camera.json"]),
        ("", 'area = {file = "field.kml"}', ["field.kml"]),
        ("", "models = [1]", []),
        ("", "no toml", []),
        ("", "a = " + "[" * 60_000, []),
    ],
)
def test_inputs_that_could_not_be_read_are_named_by_the_request(subject, text, names):
    story = Story().genesis()
    story.add(make(e.BuildStarted, identity=None, host={"source": "a.pmtiles", "request": {"text": text}}))
    story.add(make(e.BuildFailed, step="inputs", kind="bad-model", subject=subject))
    assert [row["name"] for row in told(story)["inputs"]] == [*names, "a.pmtiles"]


def test_a_coverage_failure_names_its_report_and_the_problems():
    problems = ["ab/cd: missing", "stray", *("more" for _ in range(20))]
    document = told(
        failed("coverage", "coverage", attached=attached(geography=REPORT), problems=problems), REPORT
    )
    rows = [(row["role"], row["name"], row["found"], row["present"]) for row in document["inputs"]]
    assert rows[3:6] == [
        ("geographic report", "area", None, True),
        ("artifact", "ab/cd", "missing", None),
        ("artifact", "stray", "", None),
    ]
    assert len(rows) == 4 + 8
    assert document["cause"].endswith("; 22 problems, first: ab/cd: missing")


def test_what_was_recorded_of_inputs_is_told():
    inputs = {
        "tile": {"place": "6/1/2", "sha256": "a" * 64, "found_sha256": "b" * 64, "size": 5},
        "network": {"model": "net", "file": "net.onnx", "onnx": "c" * 64, "size": "big"},
        "window": {"number": 3, "tiles": [["6/1/2", "a" * 64, 5]]},
        "attached": attached(window=b"tiles of a window"),
    }
    rows = told(failed("engine", **inputs))["inputs"]
    assert [(row["role"], row["name"], row["sha256"], row["size"], row["found"]) for row in rows] == [
        ("tile", "6/1/2", "a" * 64, 5, "b" * 64),
        ("network", "net (net.onnx)", "c" * 64, None, None),
        ("cells", "window 3: 1 tiles", ref_of(b"tiles of a window").sha256, 17, None),
    ]
    (row,) = told(failed("engine", window={"tiles": 7}))["inputs"]
    assert (row["name"], row["sha256"], row["size"]) == ("window None: 0 tiles", None, None)


def test_the_tile_that_was_kept_is_shown():
    inputs = {"tile": {"place": "6/1/2"}, "attached": attached(tile=PNG)}
    (shown,) = told(failed("cells", **inputs), PNG)["pictures"]
    assert (shown["tile"], shown["media"], shown["size"]) == ("6/1/2", "image/png", len(PNG))
    assert base64.b64decode(shown["data"]) == PNG
    (lost,) = told(failed("cells", subject="6/1/2", attached=attached(tile=PNG)))["pictures"]
    assert (lost["tile"], lost["media"], lost["data"]) == ("6/1/2", "application/octet-stream", None)


def test_tiles_of_a_window_that_were_kept_are_shown():
    large = PNG + bytes(MAX_PICTURE_BYTES)
    kept = tile_pack.encode(
        [(descriptor_id(6, x, 2), data) for x, data in enumerate([PNG, large, *(WEBP for _ in range(9))])]
    )
    shown = told(failed("cells", attached=attached(window=kept)), kept)["pictures"]
    assert [each["tile"] for each in shown] == [f"6/{x}/2" for x in range(8)]
    assert [each["size"] for each in shown[:2]] == [len(PNG), len(large)]
    assert [each["data"] is not None for each in shown] == [True, False, *(True for _ in range(6))]
    assert told(failed("cells", attached=attached(window=b"no tiles")), b"no tiles")["pictures"] == []


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (WEBP, "image/webp"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_what_kind_of_picture_bytes_begin_as(data, media):
    assert media_of(data) == media


@pytest.mark.parametrize(
    ("kind", "inputs", "cause"),
    [
        (
            "worker-died",
            {"window": {"number": 0}},
            "a worker process died again and again on the same tiles",
        ),
        (
            "worker-died",
            {},
            "worker processes died again and again, at their start or on tiles that were not recorded",
        ),
        ("disk-full", {"disk": {"free": 2048}}, "the disk was full; 2.0 KiB were free afterwards"),
        ("disk-full", {"disk": {"free": "none"}}, "the disk was full"),
        (
            "compile-crashed",
            {"memory": {"available": 3 << 30}},
            "the compiler crashed on the network; 3.0 GiB of memory were available afterwards",
        ),
        ("coverage", {"problems": []}, "what the manifest would name is not what lies in the cache"),
        (
            "bad-tile",
            {"tile": {"sha256": "a" * 64, "found_sha256": "a" * 64}},
            "a tile of the source cannot be decoded: its bytes are damaged, and were when they were selected",
        ),
        (
            "embed-failed",
            {"tile": {"sha256": "a" * 64, "found_sha256": "a" * 64}},
            "the engine could not run on these tiles; its bytes are still the ones that were selected",
        ),
        (
            "source-changed",
            {"tile": {"sha256": "a" * 64, "found_sha256": "b" * 64}},
            (
                "the tile source changed while the build read it: a tile has other bytes than were selected;"
                " selected with SHA-256 aaaaaaaaaaaa, found bbbbbbbbbbbb afterwards"
            ),
        ),
        ("gone-fishing", {"tile": {"sha256": 7}}, "it failed with gone-fishing"),
        (
            "bad-archive",
            {"tile": {"unreadable": "no such file"}},
            "the tile archive is damaged; afterwards it could not be read at all: no such file",
        ),
    ],
)
def test_causes(kind, inputs, cause):
    assert told(failed("cells", kind, **inputs))["cause"] == cause


def test_a_worker_that_was_killed_is_told_with_its_attempts():
    story = begun()
    for attempt in (1, 2):
        story.add(make(e.StepRetried, kind="cells", attempt=attempt, why="died by SIGKILL"))
    story.add(make(e.BuildFailed, step="cells", kind="worker-died", inputs={"window": {"number": 0}}))
    assert told(story)["cause"] == (
        "a worker process died again and again on the same tiles; 2 earlier attempts, the last one: died by SIGKILL"
        ": SIGKILL is what the kernel sends when memory runs out"
    )


@pytest.mark.parametrize(
    ("check", "measured", "cause"),
    [
        ("engine", {"cosine_ppm": 7}, "the engine does not agree with its network: off (cosine_ppm 7)"),
        ("index", {}, "the index does not find its own tiles: off"),
        (
            "proof",
            {"right": 3, "margins": [[1, 4, 3]]},
            "too few photographs of known places are found: off",
        ),
        ("taste", {}, "taste: off"),
    ],
)
def test_a_check_that_said_no_is_the_cause(check, measured, cause):
    story = begun().add(make(e.CheckFailed, check=check, subject="net", why="off", measured=measured))
    story.add(make(e.BuildFailed, step="check", kind="check-failed", subject="net"))
    assert told(story)["cause"] == f"a check said no; {cause}"
    assert told(failed("check", "check-failed"))["cause"] == "a check said no"


def test_a_refused_build_says_how_it_is_meant_to_be_asked_for():
    story = Story().genesis().add(make(e.BuildRefused, identity="ab" * 32, reason="rolled back from"))
    document = told(story)
    assert (document["step"], document["kind"], document["message"]) == (
        "start",
        "rolled-back",
        "rolled back from",
    )
    assert document["hint"] == "c10 build --again builds it anew"
    assert document["recorded"] == {"identity": "ab" * 32}


def test_a_committed_build_and_one_at_work_have_no_failure():
    assert told(Story().genesis().build(1)) is None
    assert told(begun()) is None


def test_a_death_names_the_cells_that_were_not_done():
    story = begun().add(make(e.StepStarted, kind="cells", subjects=("6/0/1", "6/0/0")))
    document = told(story, dead=True)
    assert (document["step"], document["kind"], document["subject"]) == ("cells", "died", "6/0/0, 6/0/1")
    assert document["recorded"]["windows"] == [{"seq": 7, "cells": ["6/0/0", "6/0/1"], "attempts": 1}]
    assert "nobody held the build lock any more: it was killed" in document["cause"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("b", "b", "with the machine still up 5.0 s later"),
        ("b", "c", "the machine was restarted before anybody noticed"),
        ("", "c", "it was killed, it crashed, or the machine went down"),
        ("b", "", "it was killed, it crashed, or the machine went down"),
    ],
)
def test_a_death_that_was_found_later_is_told_by_the_boots(before, after, words):
    story = Story().genesis().add(make(e.BuildStarted, host={"boot": before}))
    story.add(make(e.BuildAbandoned, reason="gone", host={"boot": after}), after=5)
    document = told(story)
    assert document["message"] == "gone"
    assert words in document["cause"]


def test_an_end_without_a_beginning_is_told_as_well():
    story = Story().genesis().add(make(e.BuildAbandoned, reason="gone", step="cells 6/0/0"))
    document = failure_document(story.timeline(), State(), Shelf(), dead=False)
    assert (document["step"], document["inputs"]) == ("plan", [])
    assert "after record 2" in document["cause"]
