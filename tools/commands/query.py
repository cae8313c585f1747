"""`query`: find the tiles that look most like a picture, with the reader that flies."""

import math
from pathlib import Path
from typing import Any

import click
import mercantile
import numpy as np

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.stages.stand_in import open_stand_in
from pipeline.tiles.decode import PIXEL_CEILING, decode
from store.base.preprocessing import Pixels
from store.cache.view import require_cache
from store.disk.layout import Layout
from store.errors import IncompatibleDeviceError
from store.files.regular_file import read_start
from store.reader.flight_cache import FlightCache
from store.runtime.load import Engine
from store.trust.go_no_go import ALLOW_UNSIGNED, UNCHECKED, TrustedKeys
from tools.command import PATH, Answer, Call, print_message, shared_options, trust_options
from tools.output import render

_MAX_IMAGE = 256 << 20
_EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the Earth, IUGG."""


@click.command()
@click.argument("image", type=PATH)
@click.option(
    "--top", type=click.IntRange(1, 10_000), default=5, metavar="N", help="Number of places; default: 5."
)
@trust_options
@shared_options()
def query(call: Call, *, image: Path, top: int, trusted_key: tuple[str, ...], unsigned: bool) -> Answer:
    """Search the index for the places that look most like IMAGE (JPEG, PNG or WebP)."""
    layout = call.layout()
    require_cache(layout)
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    if trusted_keys is ALLOW_UNSIGNED:
        print_message(f"c10: note: {UNCHECKED}")
    found = search(call.root, read_image(image), top=top, trusted_keys=trusted_keys)
    return Answer(document={"hits": found}, lines=render.hits(found))


def read_image(path: Path) -> Pixels:
    """Return the pixels of a picture.

    Raises:
        RequestError: It cannot be read, or is no picture.
    """
    try:
        data = read_start(path, _MAX_IMAGE + 1, follow_symlinks=True)
    except OSError as error:
        raise RequestError(
            f"expected a picture, found {path}: {error.strerror or error}",
            hint="name a JPEG, PNG or WebP file",
            kind=ErrorKind.REQUEST_UNREADABLE,
        ) from error
    if len(data) > _MAX_IMAGE:
        raise RequestError(
            f"expected a picture of at most {_MAX_IMAGE} bytes, found more in {path}", hint="shrink it"
        )
    try:
        return decode(data, max_pixels=PIXEL_CEILING, subject=None)
    except TileError as error:
        raise RequestError(f"{path}: {error.message}", hint="name a JPEG, PNG or WebP file") from error


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
    with _open_cache(root, trusted_keys) as cache:
        sample = cache.preprocessing.apply(picture)
        vector = _query_engine(root, cache).run(sample[None])
        length = np.linalg.norm(vector)
        if not (np.isfinite(length) and length > 0):
            raise RequestError(
                "expected a picture with something in it, found one that has no descriptor",
                hint="take another picture",
            )
        scores, ids = cache.descriptor_index().search(np.asarray(vector / length, np.float32), top)
        found = []
        for score, identifier in zip(scores[0].tolist(), ids[0].tolist(), strict=True):
            if identifier >= 0:
                tile = cache.tile(identifier)
                lon, lat = centre_of(tile.z, tile.x, tile.y)
                place = {"z": tile.z, "x": tile.x, "y": tile.y, "lon": round(lon, 7), "lat": round(lat, 7)}
                found.append({**place, "score": round(score, 6), "sha256": tile.sha256})
    return found


def _open_cache(root: Path, trusted_keys: TrustedKeys) -> FlightCache:
    """Open a cache to fly it; if it was built for another device, open it to read it only."""
    try:
        return FlightCache.open(root, trusted_keys=trusted_keys)
    except IncompatibleDeviceError:
        cache = FlightCache.open(root, trusted_keys=trusted_keys, flown=False)
        if cache.manifest.stand_in is None:
            cache.close()
            raise
        return cache


def _query_engine(root: Path, cache: FlightCache) -> Engine:
    """Return the engine that embeds queries on this device."""
    name, stand_in = cache.manifest.descriptor_engine.model, cache.manifest.stand_in
    if name not in cache.elsewhere or stand_in is None:
        return cache.engine(name)
    print_message(f"c10: note: engine {name} is for another device; its stand-in answers here")
    return open_stand_in(Layout(root), stand_in)


def centre_of(z: int, x: int, y: int) -> tuple[float, float]:
    """Return longitude and latitude of a tile's centre, degrees: the corner that its four children share."""
    corner = mercantile.ul(2 * x + 1, 2 * y + 1, z + 1)
    return float(corner.lng), float(corner.lat)


def distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the great-circle distance of two places (longitude, latitude, degrees), metres; haversine."""
    (lon1, lat1), (lon2, lat2) = ((math.radians(lon), math.radians(lat)) for lon, lat in (one, other))
    across = math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(math.sin((lat2 - lat1) / 2) ** 2 + across)))
