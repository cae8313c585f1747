"""A flight over the painted region of the demonstration: a cache with its proof, and frames of a later day."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pymavlink.dialects.v20 import common

from pipeline import BuildOutcome, BuildRequest, C10ProvisionerConfig, build_cache_provisioner
from store.base.geometry.distances import distance_m, moved
from tests.child_python import ROOT
from tests.networks import resnet50
from tools.demo.photographs import take_photographs, write_truth
from tools.demo.region import ALTITUDE_M, CAMERA, jpeg, land_elsewhere, make_region
from tools.demo.terrain import view

NODE = ROOT / "docs" / "examples" / "flight_node.py"
PROVEN = 48
"""Photographs of the proof."""
CIRCLE_PX = 330
"""Radius of the flight, about 150 m, from the take-off and back; it takes a minute at 15 m/s."""
CLOUD, ELSEWHERE = (0.28, 0.33), (0.55, 0.66)
"""Parts of the way on which frames show cloud, and ground of which the cache knows nothing."""
_RESNET = '\n[[models]]\nname = "resnet"\nrole = "descriptor"\nonnx = "resnet.onnx"\nweight = 0.1\n'


class Flight:
    """A folder with the region, its cache, and `flight/frames.csv`: what a camera saw on the way."""

    def __init__(self, folder, *, frames=180, resnet=False, near_m=None, proof=True):
        """Draw everything. With `resnet` such a network describes beside the built-in one, and counts little."""
        folder.mkdir(exist_ok=True)
        self.region = make_region(folder)
        self.folder, self.cache, self.frames = folder, folder / "cache", folder / "flight" / "frames.csv"
        ground = self.region.on_a_later_day()
        shots = list(take_photographs(ground, self.region.metres_per_pixel, PROVEN, seed=5))
        write_truth(folder / "photos", shots, [self.region.at_pixel(*each.at_px) for each in shots])
        text = self.region.request.read_text()
        if resnet:
            (folder / "resnet.onnx").write_bytes(resnet50().SerializeToString())
            text += _RESNET
        if proof:
            text += '\n[proof]\npictures = "photos/truth.csv"\nmin = 0.5\n'
            text += "" if near_m is None else f"near_m = {near_m}\n"
        self.region.request.write_text(text)
        self.truth = list(self._fly(ground, frames))

    def build(self):
        config = C10ProvisionerConfig(cache_root=self.cache, reserve_mb=0, allow_unknown_filesystem=True)
        report = build_cache_provisioner(config, host={}).build_cache_artifacts(
            BuildRequest.load(self.region.request)
        )
        assert report.outcome is BuildOutcome.BUILT, report.error
        return self

    def _fly(self, ground, frames):
        """Write the frames; yield the true place of each, None where there is none in the cache."""
        rng, lost = np.random.default_rng(11), land_elsewhere()
        self.frames.parent.mkdir()
        lines = ["file,altitude_m,heading_deg"]
        for number in range(frames):
            cloud, foreign = (first <= number / frames < last for first, last in (CLOUD, ELSEWHERE))
            turn = 2 * math.pi * number / frames
            middle = ground.shape[0] / 2
            at_px = (middle + CIRCLE_PX * math.sin(turn), middle + CIRCLE_PX * (1 - math.cos(turn)))
            altitude, heading = ALTITUDE_M + number / 100, (math.degrees(turn) + 90) % 360
            pixels = view(
                lost if foreign else ground,
                (lost.shape[1] / 2, lost.shape[0] / 2) if foreign else at_px,
                heading_deg=heading,
                scale=self.region.metres_per_pixel * CAMERA["fx"] / altitude,
                blur_px=1.0,
                contrast=0.8,
                brightness=-20,
                vignette=0.2,
                noise=5,
                size=(int(CAMERA["width"]), int(CAMERA["height"])),
                rng=rng,
            )
            if cloud:
                pixels = np.full_like(pixels, 190)
            (self.frames.parent / f"{number:03}.jpg").write_bytes(jpeg(pixels, quality=80))
            lines.append(f"{number:03}.jpg,{altitude:.2f},{heading:.1f}")
            yield None if foreign or cloud else self.region.at_pixel(*at_px)
        self.frames.write_text("\n".join(lines) + "\n")

    def frame_of(self, z):
        """Return which frame an estimate is of: each was taken from a height of its own."""
        return round((-z - ALTITUDE_M) * 100)


@dataclass
class Seen:
    """What came out of a node, and what it took.

    Attributes:
        messages: All MAVLink messages that it sent.
        resident: Bytes of resident memory, each quarter of a second from its first heartbeat on.
        files: How many files it had open, likewise.
        done: How it ended, and what it printed.
    """

    messages: list = field(default_factory=list)
    resident: list = field(default_factory=list)
    files: list = field(default_factory=list)
    done: subprocess.CompletedProcess | None = None

    def of(self, kind):
        return [each for each in self.messages if each.get_type() == kind]

    def texts(self):
        return [each.text for each in self.of("STATUSTEXT")]


class Listener:
    """A UDP socket of the loopback address that decodes MAVLink, and has an origin as an autopilot does.

    Attributes:
        origin: Latitude and longitude in 1e-7 degree and altitude in mm: the first that it was told, or None.
        deaf: How many messages that set the origin it still loses.
        system: Its MAVLink system.
    """

    def __init__(self):
        self.origin, self.deaf, self.system = None, 0, 1
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0)
        self.address = f"udpout:127.0.0.1:{self.socket.getsockname()[1]}"
        self._decoder = common.MAVLink(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def read(self):
        """Return the messages that arrived."""
        found = []
        while True:
            try:
                data, self._node = self.socket.recvfrom(65_536)
            except BlockingIOError:
                return found
            for message in self._decoder.parse_buffer(data) or []:
                found.append(message)
                if self._is_asked_for_its_origin(message):
                    self.tell_origin()

    def tell_origin(self):
        """Tell whoever sent the last message."""
        told = common.MAVLink_gps_global_origin_message(*self.origin)
        self.socket.sendto(told.pack(common.MAVLink(None, self.system, 1)), self._node)

    def _is_asked_for_its_origin(self, message):
        """Take an origin if there is none, as ArduPilot does; return whether to tell that there is one."""
        kind = message.get_type()
        if kind == "SET_GPS_GLOBAL_ORIGIN":
            if self.deaf > 0 or self.origin is not None:
                self.deaf -= 1
                return False
            self.origin = message.latitude, message.longitude, message.altitude
            return True
        return (
            kind == "COMMAND_LONG"
            and (message.command, message.param1) == (512, 49)
            and self.origin is not None
        )


def run_node(flight, *options, meanwhile=None, frames=0, prefix=()):
    """Run the example node as a process, and watch it; return what was seen.

    Args:
        flight: The flight.
        options: Further options of the node.
        meanwhile: What to do in the time, in a thread, from its first heartbeat on.
        frames: If given, it is interrupted after that is done and estimates of so many different frames have come.
        prefix: A command that runs it.
    """
    seen, beside = Seen(), ThreadPoolExecutor(1)
    with Listener() as listener, beside:
        command = [sys.executable, NODE, flight.cache, "--frames", flight.frames, "--to", listener.address]
        child = subprocess.Popen(
            [*prefix, *map(str, command), *map(str, options)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        task = None
        try:
            while child.poll() is None:
                seen.messages += listener.read()
                if seen.of("HEARTBEAT"):
                    task = task or beside.submit(meanwhile or int)
                    _watch(child.pid, seen)
                estimated = {each.z for each in seen.of("VISION_POSITION_ESTIMATE")}
                if frames and task and task.done() and len(estimated) >= frames:
                    child.send_signal(signal.SIGINT)
                    frames = 0
                time.sleep(0.25)
        finally:
            child.kill()
            out, error = child.communicate()
        seen.messages += listener.read()
    seen.done = subprocess.CompletedProcess(command, child.returncode, out, error)
    assert task is not None, error
    task.result()
    return seen


def _watch(pid, seen):
    folder = Path("/proc") / str(pid)
    try:
        status = (folder / "status").read_text()
        files = len(list((folder / "fd").iterdir()))
    except OSError:
        return  # it has ended
    if "VmRSS:" in status:
        seen.resident.append(1024 * int(status.partition("VmRSS:")[2].split()[0]))
        seen.files.append(files)


def errors_m(flight, seen):
    """Return how far off each estimate was, metres, by its frame; infinite where the cache has no such ground."""
    origin = seen.of("SET_GPS_GLOBAL_ORIGIN")[0]
    found = {}
    for each in seen.of("VISION_POSITION_ESTIMATE"):
        number = flight.frame_of(each.z)
        way, bearing = math.hypot(each.x, each.y), math.atan2(each.y, each.x)
        place = moved((origin.longitude / 1e7, origin.latitude / 1e7), way, bearing)
        truth = flight.truth[number]
        found[number] = math.inf if truth is None else distance_m(place, truth)
    return found


def c10(*arguments):
    command = [sys.executable, "-m", "tools.cli", *map(str, arguments)]
    subprocess.run(
        command, check=True, capture_output=True, cwd=ROOT, env=os.environ | {"C10_RESERVE_MB": "0"}
    )


def replace_and_destroy(flight):
    """Commit new generations, collect the one that flies, then write over every file and remove it."""
    before, request = set(flight.cache.glob("artifacts/??/*")), flight.region.request
    for kind in ("hnsw", "ivf-pq"):  # the last but one stays for a rollback
        request.write_text(re.sub(r'kind = ".*"', f'kind = "{kind}"', request.read_text()))
        c10("build", request, "--cache", flight.cache)
    c10("gc", "--keep", "1", "--yes", "--cache", flight.cache)
    assert before - set(flight.cache.glob("artifacts/??/*"))
    for path in [each for each in flight.cache.rglob("*") if each.is_file()]:
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(np.random.default_rng(1).bytes(path.stat().st_size))
            file.flush()
        path.unlink()
