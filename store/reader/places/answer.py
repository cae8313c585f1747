"""What a flight cache answers when it is asked for the place of a frame."""

import datetime as dt

from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A chunk of ground that a frame may show.

    Attributes:
        longitude: Of the chunk's middle, degrees, -180 to below 180.
        latitude: Of the chunk's middle, degrees.
        score: Cosine of the chunk's descriptor and the frame's, at most 1.
        footprint: Corners NW, NE, SE, SW of the chunk, (longitude, latitude) in degrees.
        side_m: Side of the chunk in metres, at its own latitude.
        level: Number of its level, from 1 by rising side.
        captured: Oldest and newest day on which the tiles under it were captured; None if that of one is unknown.
        too_old: Whether a tile is older than the sector allows; None if that is unknown.
        descriptor_id: The chunk's id.
    """

    longitude: float
    latitude: float
    score: float
    footprint: tuple[tuple[float, float], ...]
    side_m: float
    level: int
    captured: tuple[dt.date, dt.date] | None
    too_old: bool | None
    descriptor_id: int


@valueclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long the parts of an answer took, seconds.

    Attributes:
        decode: Decoding the frame; 0 for one that came as an array.
        undistortion: Correcting the lens, and cutting the square, which is done at once; 0 without distortion.
        cut: Cutting the square, and preparing it for the network.
        network: Running the network.
        search: Finding the chunks nearby, comparing them, and the candidates.
    """

    decode: float = 0.0
    undistortion: float
    cut: float
    network: float
    search: float


@valueclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Where a frame may have been taken.

    Attributes:
        candidates: The best chunks, best first; at most k, none if no chunk was searched.
        margin: The best score minus the best one among all searched chunks whose middle is more than a side
            away from the best candidate's; None if there is none. A large one says that the best candidate
            is right, which a score does not.
        level: Number of the level that was searched.
        searched: Number of chunks that were searched.
        heading_deg: The heading by which the frame was turned, degrees clockwise from true north.
        metres_per_pixel: Of the frame as given.
        timings: How long the parts took.
        warnings: What makes the answer doubtful, one line each.
    """

    candidates: tuple[Candidate, ...]
    margin: float | None
    level: int
    searched: int
    heading_deg: float
    metres_per_pixel: float
    timings: Timings
    warnings: tuple[str, ...] = ()
