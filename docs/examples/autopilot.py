"""Tell an autopilot by MAVLink where it is: the wire of `flight_node.py`."""

import math
import os
import time
from typing import Any, NamedTuple

os.environ.setdefault("MAVLINK20", "1")  # pymavlink reads both when it is imported
os.environ.setdefault("MAVLINK_DIALECT", "common")

from pymavlink import mavutil

EARTH_RADIUS_M = 6_371_008.8
ORIGIN_WITHIN_M = 2.0  # an autopilot that rounds its origin still counts from the take-off
GPS_INPUT_UNKNOWN = sum(
    getattr(mavutil.mavlink, f"GPS_INPUT_IGNORE_FLAG_{name}")
    for name in ("ALT", "HDOP", "VDOP", "VEL_HORIZ", "VEL_VERT", "SPEED_ACCURACY", "VERTICAL_ACCURACY")
)

Place = tuple[float, float]  # longitude, latitude in degrees


class Fix(NamedTuple):
    """A place to tell the autopilot."""

    place: Place
    taken: float  # time.monotonic() of the exposure
    altitude_m: float  # above ground
    heading_deg: float | None  # of the upper edge, clockwise from true north
    deviation_m: float  # along each axis, one standard deviation


class Autopilot:
    """A MAVLink connection to an autopilot: it is sent fixes, text and heartbeats."""

    def __init__(
        self, address: str, *, message: str, origin: tuple[float, float, float], system: int = 1
    ) -> None:
        """Connect to the autopilot of a system, such as by `udpout:127.0.0.1:14550` or `/dev/ttyTHS1`.

        The origin, in degrees and metres, is the take-off: metres of `vision_position_estimate` count from it.
        """
        self._send = {"gps_input": self._gps_input, "vision_position_estimate": self._vision_position}[
            message
        ]
        self._origin, self._system = origin, system
        self._needs_origin, self._origin_off_m = message == "vision_position_estimate", math.nan
        self._link: Any = mavutil.mavlink_connection(
            address,
            source_system=system,  # a part of the same vehicle
            source_component=mavutil.mavlink.MAV_COMP_ID_VISUAL_INERTIAL_ODOMETRY,
        )

    def send(self, fix: Fix) -> str:
        """Send a fix; return why it was not sent, a kind and after a colon more about it, or nothing."""
        why = self._no_origin()
        if not why:
            self._send(fix)
        return why

    def heartbeat(self) -> None:
        """Say that this component lives, and what its metres count from if need be; once a second."""
        link = mavutil.mavlink
        self._link.mav.heartbeat_send(
            link.MAV_TYPE_ONBOARD_CONTROLLER, link.MAV_AUTOPILOT_INVALID, 0, 0, link.MAV_STATE_ACTIVE
        )
        if self._no_origin():
            self._set_origin()

    def tell(self, text: str) -> None:
        """Show a line to whoever watches the flight, 50 bytes of it."""
        severity = (
            mavutil.mavlink.MAV_SEVERITY_INFO if text == "fix" else mavutil.mavlink.MAV_SEVERITY_WARNING
        )
        self._link.mav.statustext_send(severity, f"c10 {text}".encode("ascii", "replace")[:50])

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _no_origin(self) -> str:
        """Read what arrived, without waiting; return why metres would count from no or another place."""
        while (found := self._link.recv_match(type="GPS_GLOBAL_ORIGIN")) is not None:
            if found.get_srcSystem() == self._system:
                place = found.longitude / 1e7, found.latitude / 1e7
                # Its altitude does not count: estimates hold the height above ground.
                self._origin_off_m = math.hypot(*metres_between(self._origin[:2], place))
        if not self._needs_origin:
            return ""
        if math.isnan(self._origin_off_m):
            return "no origin: the autopilot has not told where it counts from"
        if self._origin_off_m > ORIGIN_WITHIN_M:
            return f"other origin: {self._origin_off_m:.0f} m from the take-off"
        return ""

    def _set_origin(self) -> None:
        """Set the origin and ask for it: an autopilot that has one already, such as ArduPilot, ignores the former."""
        longitude, latitude, altitude = self._origin
        self._link.mav.set_gps_global_origin_send(
            self._system,
            round(latitude * 1e7),
            round(longitude * 1e7),
            round(altitude * 1e3),
            time.time_ns() // 1000,
        )
        link = mavutil.mavlink
        self._link.mav.command_long_send(
            self._system,
            link.MAV_COMP_ID_AUTOPILOT1,
            link.MAV_CMD_REQUEST_MESSAGE,
            0,  # the first time that this is sent
            link.MAVLINK_MSG_ID_GPS_GLOBAL_ORIGIN,
            *(0,) * 6,
        )

    def _gps_input(self, fix: Fix) -> None:
        (longitude, latitude), link = fix.place, mavutil.mavlink
        self._link.mav.gps_input_send(
            wall_us(fix.taken),
            0,  # which GPS it stands for
            GPS_INPUT_UNKNOWN,
            0,
            0,  # no GPS week
            link.GPS_FIX_TYPE_3D_FIX,  # what an autopilot takes a place from; the altitude is ignored
            round(latitude * 1e7),
            round(longitude * 1e7),
            *(0.0,) * 7,  # altitude, dilutions, velocity and its accuracy
            fix.deviation_m,
            0.0,
            0,  # no satellites
        )

    def _vision_position(self, fix: Fix) -> None:
        north, east = metres_between(self._origin[:2], fix.place)
        covariance = [0.0] * 21  # upper triangle of x, y, z, roll, pitch, yaw, row by row
        # All are finite: where one is not, PX4 ignores these of the place too, and takes its parameter, 0.1 m.
        covariance[0] = covariance[6] = covariance[11] = fix.deviation_m**2
        covariance[15] = covariance[18] = covariance[20] = math.pi**2  # nothing is known of them
        heading = math.nan if fix.heading_deg is None else math.radians(fix.heading_deg)
        self._link.mav.vision_position_estimate_send(
            wall_us(fix.taken), north, east, -fix.altitude_m, math.nan, math.nan, heading, covariance
        )


def metres_between(one: Place, other: Place) -> tuple[float, float]:
    """Return how far north and east another place is, in metres, some kilometres away at most."""
    north = math.radians(other[1] - one[1]) * EARTH_RADIUS_M
    east = math.radians((other[0] - one[0] + 180) % 360 - 180) * EARTH_RADIUS_M
    return north, east * math.cos(math.radians((one[1] + other[1]) / 2))


def wall_us(taken: float) -> int:
    """Return when a frame was taken, microseconds since 1970 by the clock of this computer."""
    return time.time_ns() // 1000 - round(1e6 * (time.monotonic() - taken))
