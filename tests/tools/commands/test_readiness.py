"""What a GO means: `verify`, `status` and `build` say what speaks against a flight, and `--strict` refuses it."""

import json
import re
from datetime import date, timedelta

import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.request.proof_options import ProofOptions
from store.base.geometry.level import tile_side_m
from store.manifest.manifest import parse
from tests.fixed_day import TODAY, fixed_day
from tests.ground import ALTITUDE_M, EDGE, GROUND, PLACES, ZOOM, GroundSite, chunk_middle, frame_at, place_at
from tools.cli import cli
from tools.command import Answer, write
from tools.commands import status, verify
from tools.output.colour import Coloured, wants_colour

PROOF = ProofOptions(pictures="truth.csv", min=1, within_m=tile_side_m(ZOOM, 0) / 2)
FIT = {"proof": PROOF, "tiles": {"captured": TODAY - timedelta(days=30)}}


class FlightSite(GroundSite):
    """Ground with photographs of it, and a key."""

    def __init__(self, root):
        super().__init__(root)
        rows = ["file,lon,lat,altitude_m,heading_deg"]
        for name, place in PLACES.items():
            x, y = chunk_middle(*place)
            Image.fromarray(frame_at(x, y)).save(self.root / name)
            lon, lat = place_at(x, y)
            rows.append(f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0")
        self.write("truth.csv", "\n".join(rows).encode())
        self.c10("keygen", "-o", self.root / "key", cache=False)

    def c10(self, *words, code=0, cache=True, env=None):
        place = ["--cache", str(self.cache)] if cache else []
        result = CliRunner().invoke(cli, [*map(str, words), *place], env={"C10_WORKERS": "1", **(env or {})})
        assert result.exit_code == code, result.output
        return result.stdout

    def json(self, *words, code=0):
        return json.loads(self.c10(*words, "--json", code=code))

    def build_it(self, *words, code=0, **fields):
        path = self.write_request(**fields)
        return json.loads(self.c10("build", path, "--json", *words, code=code, env=self.signing))

    @property
    def signing(self):
        return {"C10_SIGNING_KEY": str(self.root / "key")}

    @property
    def trusting(self):
        return "--full", "--trusted-key", self.root / "key.pub"


def kinds(document):
    return [each["kind"] for each in document["warnings"]]


@pytest.fixture(scope="module", autouse=True)
def _clock():
    with fixed_day():
        yield


@pytest.fixture
def site(tmp_path):
    return FlightSite(tmp_path)


def test_a_plain_go_is_possible_and_says_nothing_more(site):
    built = site.build_it("--strict", **FIT)
    assert (built["outcome"], built["warnings"]) == ("built", [])
    assert site.build_it("--strict", **FIT)["outcome"] == "reused"
    found = site.json("verify", *site.trusting, "--strict")
    assert (found["go"], found["warnings"], found["problems"]) == (True, [], [])
    readiness = found["readiness"]
    assert (readiness["read"], readiness["loaded"], readiness["signed_by"]) == (
        "full",
        True,
        found["signed_by"],
    )
    assert (readiness["coverage"], readiness["holes"], readiness["age_days"]) == (1.0, 0, 30)
    text = site.c10("verify", *site.trusting)
    assert text.startswith("GO  generation 1 (build 1)\n")
    assert "warning" not in text
    # Status reads nothing and judges no reading; the rest is the same.
    looked = site.json("status")
    assert looked["warnings"] == []
    assert looked["readiness"] == readiness | {"read": None, "loaded": None}


def test_a_go_says_how_much_was_not_looked_at(site):
    site.build_it(**FIT)
    found = site.json("verify")
    assert (found["go"], kinds(found)) == (True, ["content-not-read", "signature-unchecked"])
    lines = site.c10("verify").splitlines()
    assert lines[0] == "GO, 2 warnings  generation 1 (build 1)"
    assert "  -> c10 verify --full, on board FlightCache.verify()" in lines


def test_strict_makes_every_warning_a_problem(site):
    site.build_it(**FIT)
    found = site.json("verify", "--strict", code=5)
    assert (found["go"], found["head_sound"]) == (False, True)
    assert [each["kind"] for each in found["problems"]] == ["content-not-read", "signature-unchecked"]
    assert [each["mend"] for each in found["problems"]] == [each["hint"] for each in found["warnings"]]
    lines = site.c10("verify", "--strict", code=5).splitlines()
    assert lines[0] == "NO-GO  generation 1 (build 1)"
    assert sum("the content of no file was read" in line for line in lines) == 1
    assert not any("itself is intact" in line for line in lines)


def test_strict_tells_problems_that_do_not_affect_the_generation_from_warnings(site):
    site.build_it(**FIT)
    site.build_it(**FIT, flight_id="f2")
    (site.cache / "segments" / "00000001.events").unlink()
    told = " ".join(site.c10("verify", code=5).split())
    assert "Generation 2 itself is intact: none of these problems affects it." in told
    told = " ".join(site.c10("verify", "--strict", code=5).split())
    assert "itself is intact" not in told
    assert (
        "The files of generation 2 are intact: problem 1 does not affect it. The others are warnings, for which"
        " --strict refuses it."
    ) in told


def test_status_says_that_it_checked_no_signature(site):
    site.build_it(**FIT)
    assert "(not checked here: c10 verify)" in site.c10("status")


def test_a_strict_build_fails_before_the_work_if_that_is_known_by_then(site):
    first = site.build_it(**FIT)
    old = {**FIT, "tiles": {"captured": date(2020, 1, 1)}, "flight_id": "f2"}
    failed = site.build_it("--strict", code=3, **old)
    assert (failed["outcome"], failed["error"]["kind"], failed["error"]["step"]) == (
        "failed",
        "warnings",
        "readiness",
    )
    assert kinds(failed) == ["imagery-old"]
    assert failed["error"]["hint"] == failed["warnings"][0]["hint"]
    assert failed["files_checked"] == failed["chunks_embedded"] == 0
    assert site.json("status")["manifest_sha256"] == first["manifest_sha256"]
    assert site.json("show", failed["build"])["failure"]["step"] == "readiness"
    # Strictness is the operator's: the identity is the same, and so without it the build goes through.
    again = site.build_it(**old)
    assert (again["outcome"], again["identity"]) == ("built", failed["identity"])


def test_a_strict_build_fails_before_the_commit_for_what_the_work_shows(site):
    ground = GROUND.copy()
    ground[8 * EDGE :, EDGE : 5 * EDGE] = 128
    site.write_ground(ground)
    failed = site.build_it("--strict", code=3, **FIT)
    assert kinds(failed) == ["featureless"]
    assert failed["chunks_embedded"] > 0
    assert site.json("status")["generation"] is None


def test_a_strict_build_refuses_what_is_there_already_and_records_nothing(site):
    old = {**FIT, "tiles": {"captured": date(2020, 1, 1)}}
    assert kinds(site.build_it(**old)) == ["imagery-old"]
    seq = site.json("status")["seq"]
    failed = site.build_it("--strict", code=3, **old)
    assert (failed["outcome"], failed["build"], failed["error"]["kind"]) == ("failed", None, "warnings")
    assert (failed["writes"], site.json("status")["seq"]) == (0, seq)


def test_capture_dates_that_changed_since_the_build_are_not_passed_over(site):
    """Dates are no part of the identity: the build has nothing to do, and must not say that all is well."""
    site.build_it(**FIT)
    path = site.write_request(**{**FIT, "tiles": {"captured": date(2020, 1, 1)}})
    for words in (("plan", path), ("build", path), ("build", path, "--dry-run")):
        assert kinds(site.json(*words)) == ["imagery-old", "capture-dates"], words
    failed = site.json("build", path, "--strict", code=3)
    assert (failed["outcome"], kinds(failed)) == ("failed", ["imagery-old", "capture-dates"])
    assert kinds(site.json("status")) == [], "until they are recorded"
    old = {**FIT, "tiles": {"captured": date(2020, 1, 1)}}
    assert kinds(site.build_it("--again", **old)) == kinds(site.json("status")) == ["imagery-old"]


def test_dates_of_a_damaged_table_are_compared_with_nothing(site):
    site.build_it(**FIT)
    table = site.artifact(parse(site.head_bytes()).tiles)
    data = table.read_bytes()
    table.unlink()
    table.write_bytes(data[:-4] + b"\x00\x00\x00\x7f")  # a year that no calendar has
    assert kinds(site.build_it(**FIT)) == []


def test_a_dry_run_says_what_strict_would_refuse(site):
    path = site.write_request(**{**FIT, "tiles": {"captured": date(2020, 1, 1)}})
    refused = site.json("build", path, "--dry-run", "--strict", code=2)
    assert refused["error"]["kind"] == "warnings"
    assert kinds(site.json("plan", path, "--no-measure")) == ["imagery-old"]


def test_ages_are_those_of_the_day_of_the_question(site, monkeypatch):
    site.build_it(**FIT)
    for days, kind in ((365, None), (366, "imagery-old"), (29, "clock")):
        day = FIT["tiles"]["captured"] + timedelta(days=days)
        for module in (status, verify):
            monkeypatch.setattr(module, "utc_day", lambda _clock, day=day: day)
        for words in (("status",), ("verify", *site.trusting)):
            found = site.json(*words)
            assert kinds(found) == ([kind] if kind else []), words
            assert found["readiness"]["age_days"] == max(days, 30)


def test_old_imagery_and_a_take_off_elsewhere_are_no_plain_go(site):
    """What made a plain GO once: nearly nothing was there, and nobody was told."""
    site.build_it(tiles={"captured": date(2020, 1, 1)}, origin=(30.03, 44.99, 10.0))
    expected = ["imagery-old", "origin-outside", "no-proof"]
    assert kinds(site.json("status")) == expected
    found = site.json("verify", *site.trusting)
    assert (kinds(found), found["go"], found["readiness"]["origin_inside"]) == (expected, True, False)
    assert re.match("GO, 3 warnings  ", site.c10("verify", *site.trusting))
    assert "warning: the take-off" in site.c10("status")


@pytest.mark.parametrize(
    ("environ", "terminal", "colour"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_where_there_are_colours(environ, terminal, colour):
    assert wants_colour(environ, terminal=terminal) is colour


def test_a_colour_is_around_text_that_is_safe_to_print(capsys):
    lines = [Coloured("GO  \x1b[2J", "green"), "plain"]
    write(Answer(lines=lines), as_json=False, colour=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("\x1b[1;32mGO  ")
    assert first.endswith("\x1b[0m")
    assert "\x1b[2J" not in first
    assert second == "plain"
    write(Answer(lines=lines), as_json=False)
    assert "\x1b" not in capsys.readouterr().out
