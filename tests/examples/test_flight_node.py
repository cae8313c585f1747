"""The example node: what it sends and when, what it tells, and a flight with a cache that is destroyed meanwhile."""

import json
import math
import os
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from store.errors import ArgumentError, NoGoError
from store.manifest.proof_figures import ProvenMargin
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.flown import NODE, Flight, Listener, errors_m, replace_and_destroy, run_node
from tests.small_builds import Site, picture, spread

sys.path.insert(0, str(NODE.parent))
import autopilot
import flight_node

sys.path.pop(0)

ORIGIN = (-30.0, 45.0, 60.0)
EVERYWHERE = ProvenMargin(margin=0.1, photographs=20, right=19, within_m=50.0, near_m=None)
NEAR = ProvenMargin(margin=0.1, photographs=20, right=19, within_m=50.0, near_m=200.0)
METRE = 1 / (math.radians(1) * autopilot.EARTH_RADIUS_M)
"""Of latitude, degrees."""


class PlayedCache:
    """Answers as told, so many metres north of the origin."""

    origin = ORIGIN

    def __init__(self, proven=EVERYWHERE):
        self.asked, self.proven = [], proven

    def margin_for(self, part):
        assert part == 0.95
        return self.proven

    def locate(self, pixels, **question):
        self.asked.append(question)
        answer = pixels(question) if callable(pixels) else pixels
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(north_m=0.0, margin=0.5, warnings=(), *, found=True):
    place = SimpleNamespace(longitude=ORIGIN[0], latitude=ORIGIN[1] + north_m * METRE)
    return SimpleNamespace(candidates=(place,) if found else (), margin=margin, warnings=warnings)


class Played:
    """A node, what it sent and what it told."""

    def __init__(self, proven=EVERYWHERE, fastest_m_s=25.0):
        self.cache, self.sent, self.told, self.why_not = PlayedCache(proven), [], [], ""
        self.began = time.monotonic()
        self.node = flight_node.Node(
            self.cache, send=self.send, tell=self.told.append, deadline_s=60.0, fastest_m_s=fastest_m_s
        )

    def send(self, fix):
        if not self.why_not:
            self.sent.append(fix)
        return self.why_not

    def see(self, seen, after_s=0.0):
        """Handle a frame that was taken so many seconds after the first; return the kind of the outcome."""
        before = self.node.counts.copy()
        self.node.handle(flight_node.Frame(seen, self.began + after_s, 120.0, 30.0))
        (kind,) = self.node.counts - before
        return kind


def test_an_answer_that_may_be_trusted_is_sent():
    played = Played()
    assert played.see(answer(40.0)) == "fix"
    (fix,) = played.sent
    assert fix.place == pytest.approx((ORIGIN[0], ORIGIN[1] + 40 * METRE), abs=1e-9)
    assert (fix.taken, fix.altitude_m, fix.heading_deg) == (played.began, 120.0, 30.0)
    # 0.95 of a normal distribution in the plane within 50 m
    assert 1 - math.exp(-((50 / fix.deviation_m) ** 2) / 2) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("proven", "seen", "kind"),
    [
        (None, answer(), "no proof"),
        (EVERYWHERE, answer(found=False, margin=None), "nothing near"),
        (EVERYWHERE, answer(warnings=("the frame has hardly any texture",)), "doubtful"),
        (EVERYWHERE, answer(margin=0.0999), "weak"),
        (EVERYWHERE, answer(margin=None), "weak"),
        (EVERYWHERE, answer(140.0), "too far"),
        (EVERYWHERE, ArgumentError("expected altitude_m as a number above 0, found 0"), "error"),
    ],
)
def test_other_answers_are_not_sent_and_the_reason_is_told(proven, seen, kind):
    played = Played(proven)
    assert played.see(seen) == kind
    assert played.sent == []
    assert played.told[0].startswith(f"{kind}: ")


@pytest.mark.parametrize("near_m", [None, 200.0])
def test_a_threshold_of_few_photographs_proves_nothing(near_m):
    played = Played(ProvenMargin(margin=0.1, photographs=19, right=19, within_m=50.0, near_m=near_m))
    assert [played.see(answer(), after_s) for after_s in (0.0, 20.0)] == ["no proof"] * 2
    assert (played.sent, played.cache.asked) == ([], [])
    assert played.told == ["no proof: the threshold rests on 19 photographs, 20 are needed"]


def test_places_are_followed_while_none_may_be_sent():
    played = Played()
    played.why_not = "no origin: none was told"
    assert [played.see(answer(50.0 * each), each) for each in range(5)] == ["no origin"] * 5
    played.why_not = ""
    assert played.see(answer(250.0), 5.0) == "fix"
    assert (len(played.sent), played.told) == (1, ["no origin: none was told"])


def test_a_state_is_told_when_it_changes_and_once_a_second_at_most(monkeypatch):
    played, now = Played(), time.monotonic()
    monkeypatch.setattr(flight_node.time, "monotonic", lambda: now)
    for seen, seconds in ((answer(), 0), (answer(), 0.4), (answer(margin=0), 0.4), (answer(margin=0), 0.4)):
        now += seconds
        played.see(seen)
    assert [text.partition(":")[0] for text in played.told] == ["fix", "weak"]


def test_the_gate_grows_with_the_time_since_the_last_fix():
    for after_s, kind in ((1.0, "too far"), (1.9, "fix")):
        played = Played()
        assert played.see(answer()) == "fix"
        # 50 m of the fix, 50 m of the answer, and 25 m a second
        assert played.see(answer(145.0), after_s) == kind


def test_after_a_gap_two_answers_have_to_agree():
    played = Played()
    assert played.see(answer()) == "fix"
    assert played.see(answer(200.0), 10.0) == "unconfirmed"
    assert played.see(answer(-200.0), 10.3) == "unconfirmed"  # it does not agree with the one before
    assert played.see(answer(-190.0), 14.0) == "unconfirmed"  # too long after it
    assert played.see(answer(margin=0.0), 14.3) == "weak"
    assert played.see(answer(-180.0), 14.6) == "fix"
    assert played.see(answer(-170.0), 15.0) == "fix"
    assert len(played.sent) == 3


def test_time_before_the_first_answer_does_not_count():
    played = Played()
    assert played.see(ArgumentError("expected altitude_m as a number above 0, found 0")) == "error"
    assert played.see(answer(140.0), 600.0) == "too far"


def test_a_proof_near_a_guess_is_asked_alike():
    played = Played(NEAR)
    assert played.see(answer(30.0)) == "fix"
    assert played.see(answer(30.0), 1.0) == "fix"
    (first, second) = played.cache.asked
    assert first["near"] == (*ORIGIN[:2], 200.0)
    assert second["near"] == pytest.approx((ORIGIN[0], ORIGIN[1] + 30 * METRE, 200.0), abs=1e-9)
    # 50 m and 25 m a second are more than 0.7 of the radius: nothing is proven any more
    assert played.see(answer(30.0), 5.0) == "no prior"
    assert len(played.cache.asked) == 2
    assert len(played.sent) == 2


def test_a_proof_everywhere_is_asked_alike():
    played = Played(EVERYWHERE)
    played.see(answer())
    assert played.cache.asked == [{"altitude_m": 120.0, "heading_deg": 30.0, "near": None, "k": 1}]


def test_what_comes_after_its_deadline_is_not_sent():
    played = Played()
    assert played.see(answer(), -61.0) == "late"
    assert played.cache.asked == []

    def slowly(question):
        played.node._deadline_s = -1.0
        return answer()

    assert played.see(slowly) == "late"
    assert (len(played.cache.asked), played.sent) == (1, [])


def test_only_the_newest_frame_waits():
    went = threading.Event()

    def camera():
        yield from range(5)
        went.set()

    newest = flight_node.NewestFrame(camera())
    assert went.wait(30)
    assert [*newest.take()] == [4]
    assert newest.dropped == 4


def test_frames_that_are_taken_in_time_are_not_dropped():
    turn = threading.Semaphore(1)

    def camera():
        for number in range(20):
            turn.acquire()
            yield number

    newest, seen = flight_node.NewestFrame(camera()), []
    for frame in newest.take():
        seen.append(frame)
        turn.release()
    assert (seen, newest.dropped, newest.error) == ([*range(20)], 0, None)


def test_the_failure_of_a_camera_ends_the_flight():
    def camera():
        yield 1
        raise OSError("the camera is gone")

    newest = flight_node.NewestFrame(camera())
    assert [each for each in newest.take() if each] == [1]
    assert str(newest.error) == "the camera is gone"


@pytest.fixture
def listener():
    with Listener() as listener:
        yield listener


def received(listener, kind):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for message in listener.read():
            if message.get_type() == kind:
                return message
        time.sleep(0.01)
    raise AssertionError(f"no {kind}")


@contextmanager
def linked(listener, message, **more):
    link = autopilot.Autopilot(listener.address, message=message, origin=ORIGIN, **more)
    try:
        yield link
    finally:
        link.close()


def kinds(messages):
    return [each.get_type() for each in messages]


TAKEN = time.monotonic() - 0.25
FIX = autopilot.Fix((-30.0012345, 45.0023456), TAKEN, 120.0, 270.0, 20.4)


def test_a_fix_as_gps_input(listener):
    with linked(listener, "gps_input") as link:
        assert link.send(FIX) == ""
    found = received(listener, "GPS_INPUT")
    assert (found.lat, found.lon, found.fix_type) == (450023456, -300012345, 3)
    assert found.horiz_accuracy == pytest.approx(20.4)
    assert found.ignore_flags == 0b10111111  # all but the horizontal accuracy
    assert found.time_usec / 1e6 == pytest.approx(time.time() - (time.monotonic() - TAKEN), abs=1.0)
    assert (found.get_srcSystem(), found.get_srcComponent()) == (1, 197)


def test_a_fix_as_vision_position_estimate(listener):
    with linked(listener, "vision_position_estimate") as link:
        link.heartbeat()
        origin = received(listener, "SET_GPS_GLOBAL_ORIGIN")
        assert link.send(FIX) == ""
    assert (origin.latitude, origin.longitude, origin.altitude) == (450000000, -300000000, 60_000)
    found = received(listener, "VISION_POSITION_ESTIMATE")
    assert found.x == pytest.approx(0.0023456 / METRE, abs=0.01)
    assert found.y == pytest.approx(-0.0012345 / METRE * math.cos(math.radians(45.00117)), abs=0.01)
    assert (found.z, found.yaw) == (-120.0, pytest.approx(1.5 * math.pi))
    assert [found.covariance[each] for each in (0, 6, 11)] == pytest.approx([20.4**2] * 3)
    assert all(map(math.isfinite, found.covariance))  # else an autopilot ignores all of them
    assert math.isnan(found.roll)


def test_text_and_heartbeat(listener):
    with linked(listener, "gps_input") as link:
        link.heartbeat()
        assert received(listener, "HEARTBEAT").type == autopilot.mavutil.mavlink.MAV_TYPE_ONBOARD_CONTROLLER
        link.tell("weak: é" + 60 * "x")
        assert received(listener, "STATUSTEXT").text == "c10 weak: ?" + 39 * "x"


ASKS = ["HEARTBEAT", "SET_GPS_GLOBAL_ORIGIN", "COMMAND_LONG"]


def test_no_vision_position_before_a_late_autopilot_has_the_origin(listener):
    listener.deaf = 2
    with linked(listener, "vision_position_estimate") as link:
        assert link.send(FIX).startswith("no origin: ")
        for _ in range(2):
            link.heartbeat()
            assert kinds(listener.read()) == ASKS
            assert link.send(FIX).startswith("no origin: ")
        link.heartbeat()
        assert kinds(listener.read()) == ASKS
        assert link.send(FIX) == ""
        link.heartbeat()  # it asks no more
        assert kinds(listener.read()) == ["VISION_POSITION_ESTIMATE", "HEARTBEAT"]


@pytest.mark.parametrize(("off_m", "why"), [(1.5, ""), (2.8, "other origin: 3 m from the take-off")])
def test_an_autopilot_that_counts_from_another_place(listener, off_m, why):
    listener.origin = round((ORIGIN[1] + off_m * METRE) * 1e7), round(ORIGIN[0] * 1e7), 0
    with linked(listener, "vision_position_estimate") as link:
        link.heartbeat()
        assert kinds(listener.read()) == ASKS
        assert link.send(FIX) == why
        link.heartbeat()
        again = kinds(listener.read())
        assert again == (ASKS if why else ["VISION_POSITION_ESTIMATE", "HEARTBEAT"])


def test_an_origin_that_changes_is_noticed(listener):
    with linked(listener, "vision_position_estimate") as link:
        link.heartbeat()
        listener.read()
        assert link.send(FIX) == ""
        listener.origin = (460000000, *listener.origin[1:])
        listener.tell_origin()
        assert link.send(FIX) == "other origin: 111195 m from the take-off"


@pytest.mark.parametrize("system", [1, 7])
def test_only_the_origin_of_its_own_system_counts(listener, system):
    listener.system = 7
    with linked(listener, "vision_position_estimate", system=system) as link:
        link.heartbeat()
        beat, origin, command = listener.read()
        assert (beat.get_srcSystem(), origin.target_system, command.target_system) == (system,) * 3
        assert link.send(FIX).partition(":")[0] == ("" if system == 7 else "no origin")


class PlayedFlight(PlayedCache):
    """Also says what `fly` asks for."""

    manifest = SimpleNamespace(envelope=SimpleNamespace(generation=3))

    def readiness(self):
        return SimpleNamespace(warnings=())

    def memory(self):
        return SimpleNamespace(total=1)


@pytest.mark.parametrize(
    ("deaf", "origin", "outcomes"),
    [
        (0, None, {"fix"}),
        (1, None, {"no origin", "fix"}),
        (math.inf, None, {"no origin"}),
        (0, (460000000, -300000000, 60_000), {"other origin"}),
    ],
)
def test_a_flight_sets_the_origin_once_a_second_until_it_is_told(
    listener, monkeypatch, deaf, origin, outcomes
):
    listener.deaf, listener.origin = deaf, origin
    heard, turn, now = [], threading.Semaphore(1), time.monotonic()
    monkeypatch.setattr(flight_node.time, "monotonic", lambda: now)

    def camera():
        nonlocal now
        for _ in range(10):
            turn.acquire()
            now += 0.3
            yield flight_node.Frame(look, now, 120.0, 30.0)

    def look(question):
        heard.extend(listener.read())
        turn.release()
        return answer()

    with linked(listener, "vision_position_estimate") as link:
        counted = flight_node.fly(PlayedFlight(), link, camera(), deadline_s=60.0, fastest_m_s=25.0)
    heard += listener.read()
    assert (counted["answers"].keys(), sum(counted["answers"].values())) == (outcomes, 10)
    assert kinds(heard).count("VISION_POSITION_ESTIMATE") == counted["answers"].get("fix", 0)
    asked = kinds(heard).count("SET_GPS_GLOBAL_ORIGIN")
    assert asked <= kinds(heard).count("HEARTBEAT") <= 4  # in three seconds
    assert asked == deaf + 1 if "fix" in outcomes else asked >= 3
    texts = [each.text.partition(":")[0] for each in heard if each.get_type() == "STATUSTEXT"]
    assert set(texts) == {f"c10 {outcome}" for outcome in outcomes}


def test_metres_across_the_antimeridian():
    north, east = autopilot.metres_between((179.999, 0.0), (-179.999, 0.001))
    assert (north, east) == pytest.approx((0.001 / METRE, 0.002 / METRE))


def require_sound(flight, seen, *, growth, part=0.8):
    """Require that no fix was wrong, that enough were found, and that nothing leaked or was late; return the counts."""
    assert (seen.done.returncode, "Traceback" in seen.done.stderr) == (0, False), seen.done.stderr
    counted, found = json.loads(seen.done.stdout), errors_m(flight, seen)
    assert max(found.values()) <= 50, found
    answers = counted["answers"]
    assert answers.get("late", 0) <= 0.01 * sum(answers.values()), counted
    # The last one may have been sent, but not yet counted, when it was interrupted.
    assert 0 <= len(seen.of("VISION_POSITION_ESTIMATE")) - answers["fix"] <= 1
    assert len(found) >= part * sum(place is not None for place in flight.truth), counted
    settled = len(seen.files) // 4
    assert max(seen.files[settled:]) <= seen.files[settled] + 1  # the photograph that is read
    assert max(seen.resident[settled:]) - seen.resident[settled] <= growth, seen.resident
    return counted


@pytest.mark.deep
def test_nothing_that_happens_to_the_cache_changes_a_minute_of_flight(tmp_path):
    """At 3 Hz, with a network of the class of ResNet-50; a machine that was idle before says how fast it is.

    On a busy one answers take their time and frames are dropped. So its deadline only finds a node that hangs, and
    fewer fixes are enough. It flies until they have come, for five minutes at most.
    """
    idle = os.getloadavg()[0] < 1.5
    flight = Flight(tmp_path / "flight", resnet=True).build()
    seen = run_node(
        flight,
        *("--unsigned", "--message", "vision_position_estimate"),
        *("--deadline-ms", "5000" if idle else "60000", "--seconds", "300"),
        meanwhile=lambda: replace_and_destroy(flight),
        frames=130 if idle else 40,
    )
    counted = require_sound(flight, seen, growth=8 << 20, part=0.8 if idle else 0.2)
    assert counted["generation"] == 1
    # The few frames that a busy machine answers may all show ground of the area.
    assert not idle or (counted["p99_ms"] <= 400 and counted["answers"]["doubtful"] > 0), counted
    with pytest.raises(NoGoError):
        FlightCache.open(flight.cache, trusted_keys=ALLOW_UNSIGNED)


def test_no_take_off_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["flight_node.py", str(tmp_path), "--unsigned", "--frames", "frames.csv"]
    )
    with pytest.raises(SystemExit, match=r"^NO-GO: .*\n  -> "):
        flight_node.main()


def test_a_cache_without_a_proof_sends_no_fix(tmp_path):
    site = Site(tmp_path / "site")
    site.write_tiles(spread())
    assert site.build().error is None
    site.write("frame.png", picture(1))
    frames = site.write("frames.csv", b"file,altitude_m,heading_deg\nframe.png,200,0\n")
    flight = SimpleNamespace(cache=site.cache, frames=frames)
    seen = run_node(flight, "--unsigned", "--seconds", "2", "--deadline-ms", "60000")
    assert (seen.of("GPS_INPUT"), seen.done.returncode) == ([], 0)
    assert json.loads(seen.done.stdout)["answers"].keys() == {"no proof"}
    assert any(text.startswith("c10 no proof: ") for text in seen.texts())
