"""Find the place of camera frames in a flight cache, and tell an autopilot by MAVLink.

    python flight_node.py cache --trusted-keys fleet.keys --floors floors.txt --frames frames.csv

The page beside this file (README.md) says what it does, and what is yours to change: `photographs` stands in for a
camera and an autopilot, `Autopilot` in autopilot.py for the wire.
"""

import argparse
import csv
import json
import math
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from autopilot import Autopilot, Fix, Place, metres_between
from numpy.typing import NDArray
from PIL import Image

from store.errors import StoreError
from store.manifest.proof_figures import ProvenMargin
from store.reader import ALLOW_UNSIGNED, Answer, FlightCache
from store.trust.rollback_protection import RollbackProtection
from store.trust.signatures import parse_keys

PART_RIGHT = 0.95  # of the answers that are sent, by the proof of the cache
PHOTOGRAPHS_NEEDED = 20  # if all of 20 are right, 0.86 of all such answers are, at a confidence of 0.95
GUESS_REACH = 0.7  # a proof near a guess has guesses off by at most this part of its radius
GAP_S = 2.0  # after so long without a fix, two answers have to agree
START_OFF_M = 50.0  # how far from the take-off of the request the first frame may be


class Frame(NamedTuple):
    """What the camera saw, and what the autopilot knew then."""

    pixels: NDArray[np.uint8]  # [height, width, 3], RGB
    taken: float  # time.monotonic() of the exposure
    altitude_m: float  # above ground
    heading_deg: float | None  # of the upper edge, clockwise from true north


class NewestFrame:
    """A queue of one frame, the newest; those that nobody took in time are dropped and counted."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        """Read frames in a thread of their own, as long as there are any."""
        self.dropped = 0
        self.error: Exception | None = None
        self._frame: Frame | None = None
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._fill, args=(frames,), name="camera", daemon=True).start()

    def take(self) -> Iterator[Frame | None]:
        """Yield the newest frame as soon as there is one, and None after every second without one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout=1.0)
                frame, self._frame = self._frame, None
                if frame is None and self._ended:
                    return
            yield frame

    def _fill(self, frames: Iterator[Frame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


class Node:
    """Asks the cache for the place of each frame, and sends the answers that may be trusted."""

    def __init__(
        self,
        cache: FlightCache,
        *,
        send: Callable[[Fix], str],
        tell: Callable[[str], None],
        deadline_s: float,
        fastest_m_s: float,
    ) -> None:
        """Take off: the first guess is the take-off of the request. `send` returns why it did not, or nothing."""
        self.counts = Counter[str]()
        self.seconds = deque[float](maxlen=10_000)  # from exposure to answer
        self._cache, self._send, self._tell = cache, send, tell
        self._deadline_s, self._fastest_m_s = deadline_s, fastest_m_s
        self._proven = cache.margin_for(PART_RIGHT)
        self._guess: Place = cache.origin[:2]
        self._guessed: float | None = None
        self._off_m = START_OFF_M
        self._within_m = self._proven.within_m if self._proven else math.inf
        self._unconfirmed: tuple[Place, float] | None = None
        self._state, self._told = "", -math.inf

    def handle(self, frame: Frame) -> None:
        """Answer for a frame: send a fix, or tell why not."""
        outcome = self._find(frame)
        self.seconds.append(time.monotonic() - frame.taken)
        kind = outcome.partition(":")[0]
        self.counts[kind] += 1
        if kind != self._state and time.monotonic() >= self._told + 1:
            self._state, self._told = kind, time.monotonic()
            self._tell(outcome)

    def _find(self, frame: Frame) -> str:
        """Return "fix" after one was sent, else why none was: a kind, and after a colon more about it."""
        proven = self._proven
        if proven is None:
            return f"no proof: nothing shows that {PART_RIGHT:.0%} of some answers are right"
        if proven.photographs < PHOTOGRAPHS_NEEDED:
            return (
                f"no proof: the threshold rests on {proven.photographs} photographs, "
                f"{PHOTOGRAPHS_NEEDED} are needed"
            )
        if self._is_late(frame):
            return "late: the frame waited for too long"
        near_m = proven.near_m
        off_m = self._off_m + self._way_m(self._guessed or frame.taken, frame)
        if near_m is not None and off_m > GUESS_REACH * near_m:
            return f"no prior: the last fix may be {off_m:.0f} m off, the proof searched {near_m:.0f} m"
        try:
            answer = self._cache.locate(
                frame.pixels,
                altitude_m=frame.altitude_m,
                heading_deg=frame.heading_deg,
                # As the proof asked, or its margins say nothing of this one.
                near=None if near_m is None else (*self._guess, near_m),
                k=1,
            )
        except StoreError as error:
            return f"error: {error.message}"  # such as an altitude of 0 before take-off
        self._guessed = self._guessed or frame.taken
        if self._is_late(frame):
            return "late: the answer came after its deadline"
        return self._judge(answer, off_m, proven) or self._accept(answer, frame)

    def _judge(self, answer: Answer, off_m: float, proven: ProvenMargin) -> str:
        """Return why an answer is not to be trusted; nothing if it is."""
        if not answer.candidates:
            return "nothing near: the cache has no ground near the last fix"
        if answer.warnings:
            return f"doubtful: {answer.warnings[0]}"
        if answer.margin is None or answer.margin < proven.margin:
            return f"weak: margin {answer.margin or 0:.3f}, proven from {proven.margin:.3f}"
        if math.hypot(*metres_between(self._guess, place_of(answer))) > off_m + proven.within_m:
            return f"too far: more than {off_m:.0f} m from the last fix"
        return ""

    def _accept(self, answer: Answer, frame: Frame) -> str:
        """Send a fix; the next frame was taken near it. After a gap, two answers have to agree."""
        place = place_of(answer)
        if frame.taken - (self._guessed or frame.taken) > GAP_S and not self._confirms(place, frame):
            self._unconfirmed = place, frame.taken
            return "unconfirmed: the first answer after a gap"
        self._guess, self._guessed, self._off_m, self._unconfirmed = place, frame.taken, self._within_m, None
        # So many metres in the plane hold 0.95 of a normal distribution that has this deviation along each axis.
        deviation = self._within_m / math.sqrt(-2 * math.log(1 - PART_RIGHT))
        fix = Fix(self._guess, frame.taken, frame.altitude_m, frame.heading_deg, deviation)
        return self._send(fix) or "fix"

    def _confirms(self, place: Place, frame: Frame) -> bool:
        """Return whether a place agrees with an unconfirmed one of shortly before."""
        if self._unconfirmed is None:
            return False
        before, taken = self._unconfirmed
        off_m = 2 * self._within_m + self._way_m(taken, frame)
        return frame.taken - taken <= GAP_S and math.hypot(*metres_between(before, place)) <= off_m

    def _way_m(self, since: float, frame: Frame) -> float:
        """Return how far the aircraft can have come until a frame was taken, metres."""
        return self._fastest_m_s * (frame.taken - since)

    def _is_late(self, frame: Frame) -> bool:
        return time.monotonic() > frame.taken + self._deadline_s


def place_of(answer: Answer) -> Place:
    """Return the place of the best candidate."""
    return answer.candidates[0].longitude, answer.candidates[0].latitude


def photographs(table: Path, *, hertz: float, seconds: float) -> Iterator[Frame]:
    """Yield the photographs of a table again and again, in its order, as a camera would.

    The table is CSV with the columns file, altitude_m and heading_deg, such as one for `c10 prove`.
    """
    with table.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    began = time.monotonic()
    for number in range(round(hertz * seconds)):
        row = rows[number % len(rows)]
        with Image.open(table.parent / row["file"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        time.sleep(max(0.0, began + number / hertz - time.monotonic()))
        heading = float(row["heading_deg"]) if row["heading_deg"] else None
        yield Frame(pixels, time.monotonic(), float(row["altitude_m"]), heading)


def take_off(folder: Path, keys: Path | None, floors: Path | None, generation: int | None) -> FlightCache:
    """Return a cache that may fly, with everything in memory; as in docs/trust.md."""
    trusted = ALLOW_UNSIGNED if keys is None else parse_keys(keys.read_text(encoding="utf-8"))
    known = None if floors is None else RollbackProtection.load(floors)
    cache = FlightCache.open(folder, trusted_keys=trusted, floor=known, generation=generation)
    try:
        cache.verify()
        cache.load_all(threads=len(os.sched_getaffinity(0)))
        if known is not None:
            known.advance(cache.manifest.envelope.cache_id, cache.manifest.envelope.generation)
    except BaseException:
        cache.close()
        raise
    return cache


def fly(cache: FlightCache, autopilot: Autopilot, frames: Iterator[Frame], **limits: float) -> dict[str, Any]:
    """Answer for frames until there are no more, or Ctrl-C; return what was counted."""

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        autopilot.tell(text)

    for warning in cache.readiness().warnings:
        tell(f"{warning.kind}: {warning.message}")
    node, beat = Node(cache, send=autopilot.send, tell=tell, **limits), 0.0
    newest = NewestFrame(frames)
    with suppress(KeyboardInterrupt):
        for frame in newest.take():
            if time.monotonic() >= beat:
                autopilot.heartbeat()
                beat = time.monotonic() + 1
            if frame is not None:
                node.handle(frame)
    if newest.error is not None:
        raise newest.error
    seconds = sorted(node.seconds)
    return {
        "generation": cache.manifest.envelope.generation,
        "answers": dict(node.counts),
        "dropped": newest.dropped,
        "p50_ms": round(1e3 * seconds[len(seconds) // 2]) if seconds else None,
        "p99_ms": round(1e3 * seconds[int(0.99 * len(seconds))]) if seconds else None,
        "cache_bytes": cache.memory().total,
    }


def main() -> None:
    """Read the command line, take off, fly, print what was counted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument("--trusted-keys", type=Path, metavar="FILE", help="keys of the runtime image")
    trust.add_argument("--unsigned", action="store_true", help="fly a cache that nobody signed")
    parser.add_argument("--floors", type=Path, metavar="FILE", help="rollback protection of this aircraft")
    parser.add_argument("--generation", type=int, metavar="N", help="this one, not the newest")
    parser.add_argument(
        "--frames", type=Path, required=True, metavar="CSV", help="file, altitude_m, heading_deg"
    )
    parser.add_argument("--hz", type=float, default=3.0, help="frames a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--to", default="udpout:127.0.0.1:14550", help="where pymavlink sends to")
    parser.add_argument(
        "--system", type=int, choices=range(1, 256), default=1, metavar="N", help="MAVLink id of the aircraft"
    )
    parser.add_argument(
        "--message",
        choices=["gps_input", "vision_position_estimate"],
        default="gps_input",
        help="what it sends",
    )
    parser.add_argument("--deadline-ms", type=float, default=400.0, help="after the exposure")
    parser.add_argument(
        "--fastest", type=float, default=25.0, metavar="M_S", help="greatest speed over ground"
    )
    asked = parser.parse_args()
    try:
        ready = take_off(asked.cache, asked.trusted_keys, asked.floors, asked.generation)
    except StoreError as error:
        sys.exit(f"{error}\n  -> {error.hint}" if error.hint else str(error))
    with ready as cache:
        autopilot = Autopilot(asked.to, message=asked.message, origin=cache.origin, system=asked.system)
        try:
            counted = fly(
                cache,
                autopilot,
                photographs(asked.frames, hertz=asked.hz, seconds=asked.seconds),
                deadline_s=asked.deadline_ms / 1e3,
                fastest_m_s=asked.fastest,
            )
        finally:
            autopilot.close()
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
