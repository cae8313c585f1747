"""`query`: find the place of a picture, with the reader that flies: among chunks of ground, or among tiles."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import mercantile

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.geometry import box_text
from pipeline.stages.engines.stand_in import open_stand_in
from pipeline.tiles.images.photograph import decode_photograph, read_photograph
from store.base.cache_warning import CacheWarning
from store.base.preprocessing import Pixels
from store.cache.view import require_cache
from store.disk.layout import Layout
from store.errors import IncompatibleDeviceError, NoGoError
from store.files.regular_file import read_start
from store.reader.flight_cache import FlightCache
from store.reader.places.answer import Answer as FoundPlaces
from store.reader.places.descriptor_networks import NoDescriptorError
from store.reader.places.question import Question, parse_question
from store.runtime.load import Engine
from store.trust.go_no_go import ALLOW_UNSIGNED, UNCHECKED, TrustedKeys
from tools.command import (
    PATH,
    Answer,
    Call,
    Number,
    parse_measure,
    print_message,
    shared_options,
    trust_options,
)
from tools.output import places, render

_FULL_TURN = 360
_MAX_CALIBRATION = 1 << 20


@click.command()
@click.argument("image", type=PATH)
@click.option("--top", type=Number(1, 10_000), default=5, metavar="N", help="Number of places; default: 5.")
@click.option(
    "--altitude",
    type=parse_measure,
    metavar="M",
    help="Altitude above ground in metres; needs a camera's calibration.",
)
@click.option(
    "--gsd", type=parse_measure, metavar="M_PER_PIXEL", help="Metres of ground that a pixel of IMAGE shows."
)
@click.option(
    "--heading",
    type=parse_measure,
    metavar="DEG",
    help="Heading of the upper edge, degrees clockwise from true north.",
)
@click.option("--near", metavar="LON,LAT,RADIUS_M", help="Look only within RADIUS_M metres of a place.")
@click.option("--camera", type=PATH, metavar="FILE", help="Calibration of the camera, if not the cache's.")
@trust_options
@shared_options()
def query(
    call: Call,
    *,
    image: Path,
    top: int,
    altitude: float | None,
    gsd: float | None,
    heading: float | None,
    near: str | None,
    camera: Path | None,
    trusted_key: tuple[str, ...],
    unsigned: bool,
) -> Answer:
    """Search the index for the places that look most like IMAGE (JPEG, PNG or WebP).

    A cache of chunks of ground needs --altitude or --gsd: without, nothing tells how much ground IMAGE shows.
    """
    began = time.perf_counter()
    layout = call.layout()
    if not layout.is_mirror():
        require_cache(layout)
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    if trusted_keys is ALLOW_UNSIGNED:
        print_message(f"c10: note: {UNCHECKED}")
    asked = {"--altitude": altitude, "--gsd": gsd, "--heading": heading, "--near": near, "--camera": camera}
    with open_cache(call.root, trusted_keys) as cache:
        if not cache.manifest.levels:
            _refuse_options([name for name, value in asked.items() if value is not None])
            found = _search_tiles(call.root, cache, read_image(image), top)
            document = {**_EMPTY, "hits": found, "seconds": _seconds_since(began)}
            return Answer(document=document, lines=render.hits(found))
        question = _question(altitude=altitude, gsd=gsd, heading=heading, near=near, top=top)
        calibration = None if camera is None else _read_calibration(camera)
        locator = cache.locator(engines=query_engines(call.root, cache), calibration=calibration)
        answer = locator.locate(read_image(image), question)
    for warning in answer.warnings:
        print_message(f"c10: warning: {warning}")
    document = {
        **_EMPTY,
        **_answer_document(answer),
        "seconds": _seconds_since(began),
        "warnings": [
            CacheWarning(kind="doubtful-answer", message=text).to_document() for text in answer.warnings
        ],
    }
    return Answer(
        document=document, lines=places.candidates(answer, box_text(cache.manifest.inputs["bbox_e7"]))
    )


_EMPTY: Mapping[str, Any] = {
    "hits": [],
    "candidates": [],
    "margin": None,
    "metres_per_pixel": None,
    "warnings": [],
}


def _seconds_since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def _refuse_options(given: Sequence[str]) -> None:
    """Refuse options that only chunks can serve."""
    if given:
        raise RequestError(
            f"expected a cache of chunks of ground for {' and '.join(given)}, found one of tiles",
            hint="build it with altitude_m or [chunks] in the request, or ask without these options",
        )


def _question(
    *, altitude: float | None, gsd: float | None, heading: float | None, near: str | None, top: int
) -> Question:
    if (altitude is None) == (gsd is None):
        raise RequestError(
            "expected exactly one of --altitude and --gsd for a cache of chunks of ground, "
            f"found {'neither' if gsd is None else 'both'}",
            hint="pass --altitude with the metres above ground, or --gsd with the metres of ground per pixel",
        )
    for name, value in (("--altitude", altitude), ("--gsd", gsd)):
        if value is not None and value <= 0:
            raise RequestError(
                f"expected {name} above 0, found {value:g}",
                hint=f"pass the metres to {name} as a number above 0",
            )
    if heading is not None and not abs(heading) <= _FULL_TURN:
        raise RequestError(
            f"expected --heading from -360 to 360, found {heading:g}",
            hint="pass degrees clockwise from true north",
        )
    return parse_question(
        altitude_m=altitude,
        metres_per_pixel=gsd,
        heading_deg=heading,
        near=None if near is None else _parse_near(near),
        headings=1,
        pitch_deg=None,
        roll_deg=None,
        k=top,
    )


def _parse_near(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(
            f"expected --near as LON,LAT,RADIUS_M, found {text!r:.60}",
            hint="pass degrees and metres, such as --near 120.72,24.26,300",
        ) from None


def _read_calibration(path: Path) -> dict[str, Any]:
    hint = "name a JSON file with width, height, fx, fy, cx and cy in pixels"
    try:
        found = json.loads(read_start(path, _MAX_CALIBRATION, follow_symlinks=True))
    except OSError as error:
        raise RequestError(
            f"expected a calibration, found {path}: {error.strerror or error}",
            hint=hint,
            kind=ErrorKind.REQUEST_UNREADABLE,
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"expected a calibration, found {path}: {error}", hint=hint) from error
    if not isinstance(found, dict):
        raise RequestError(f"expected a JSON object in {path}, found {type(found).__name__}", hint=hint)
    return found


def _answer_document(answer: FoundPlaces) -> dict[str, Any]:
    return {
        "candidates": [
            {
                "lon": round(each.longitude, 7),
                "lat": round(each.latitude, 7),
                "score": round(each.score, 6),
                "level": each.level,
                "side_m": round(each.side_m, 2),
                "footprint": [[round(degrees, 7) for degrees in corner] for corner in each.footprint],
                "captured": None if each.captured is None else [day.isoformat() for day in each.captured],
                "descriptor_id": each.descriptor_id,
            }
            for each in answer.candidates
        ],
        "margin": None if answer.margin is None else round(answer.margin, 6),
        "metres_per_pixel": round(answer.metres_per_pixel, 6),
    }


def read_image(path: Path) -> Pixels:
    """Return the pixels of a picture.

    Raises:
        RequestError: It cannot be read, or is no picture.
    """
    return decode_photograph(read_photograph(path), path)


def search(
    root: Path, picture: Pixels, *, top: int, trusted_keys: TrustedKeys = ALLOW_UNSIGNED
) -> list[dict[str, Any]]:
    """Return the best places for a picture, uint8 [h, w, 3], best first: tile, its centre, score, digest.

    If the engine is for another device, its stand-in computes the descriptor: it computed those of the tiles
    too.

    Raises:
        NoGoError: The cache must not be used.
        store.runtime.ExecutionError: Engine or index cannot run here.
    """
    with open_cache(root, trusted_keys) as cache:
        return _search_tiles(root, cache, picture, top)


def _search_tiles(root: Path, cache: FlightCache, picture: Pixels, top: int) -> list[dict[str, Any]]:
    try:
        vector = cache.describe(picture, engines=query_engines(root, cache))
    except NoDescriptorError as error:
        raise RequestError(
            "expected a picture with something in it, found one that has no descriptor",
            hint="take another picture",
        ) from error
    scores, ids = cache.descriptor_index().search(vector, top)
    found = []
    for score, identifier in zip(scores[0].tolist(), ids[0].tolist(), strict=True):
        if identifier >= 0:
            tile = cache.tile(identifier)
            lon, lat = centre_of(tile.z, tile.x, tile.y)
            place = {"z": tile.z, "x": tile.x, "y": tile.y, "lon": round(lon, 7), "lat": round(lat, 7)}
            found.append({**place, "score": round(score, 6), "sha256": tile.sha256})
    return found


def open_cache(root: Path, trusted_keys: TrustedKeys) -> FlightCache:
    """Open a cache to fly it; if it was built for another device, open it to read it only."""
    try:
        return FlightCache.open(root, trusted_keys=trusted_keys)
    except IncompatibleDeviceError:
        if Layout(root).is_mirror():  # which holds no stand-in
            raise
        cache = FlightCache.open(root, trusted_keys=trusted_keys, flown=False)
        if not cache.manifest.stand_ins:
            cache.close()
            raise
        return cache
    except NoGoError:
        if not root.exists():  # it was removed a moment ago
            require_cache(Layout(root))
        raise


def query_engines(root: Path, cache: FlightCache) -> dict[str, Engine]:
    """Return the stand-ins that describe on this device, by the network whose engine is for another one."""
    found = {}
    for name, stand_in in cache.manifest.stand_ins.items():
        if name in cache.elsewhere:
            print_message(f"c10: note: engine {name} is for another device; its stand-in answers here")
            found[name] = open_stand_in(Layout(root), stand_in)
    return found


def centre_of(z: int, x: int, y: int) -> tuple[float, float]:
    """Return longitude and latitude of a tile's centre, degrees: the corner that its four children share."""
    corner = mercantile.ul(2 * x + 1, 2 * y + 1, z + 1)
    return float(corner.lng), float(corner.lat)
