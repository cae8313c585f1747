"""Small GeoTIFF files of one picture of the ground, in any projection, for tests that have rasterio."""

import numpy as np

HALF_WORLD_M = 20_037_508.342789244
MIDDLE = (13.405, 52.52)
"""Longitude and latitude that the files lie around, in degrees."""
ZOOM = 15
SPAN_M = 2 * HALF_WORLD_M / (1 << ZOOM)
"""Side of a tile of that zoom in metres of the Web Mercator projection."""
PIXEL_M = SPAN_M / 256


def mercator(longitude, latitude):
    x = np.radians(longitude) * 6378137.0
    return x, np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2)) * 6378137.0


def ground(x, y):
    """Colour of the ground at places in Web Mercator metres, uint8 [..., 3]: smooth, and nowhere the same."""
    bands = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        value = np.zeros(np.shape(x))
        for _ in range(4):
            across, along = rng.uniform(-1, 1, 2) * 2 * np.pi / (24 * PIXEL_M)
            value += np.sin(across * np.asarray(x) + along * np.asarray(y) + rng.uniform(0, 7))
        bands.append(np.clip(128 + 30 * value, 1, 255))
    return np.stack(bands, axis=-1).astype(np.uint8)


def ground_tile(z, x, y):
    """The ground at the pixels of a tile, uint8 [256, 256, 3]."""
    span = 2 * HALF_WORLD_M / (1 << z)
    at = (np.arange(256) + 0.5) / 256
    columns, rows = np.meshgrid(x * span - HALF_WORLD_M + at * span, HALF_WORLD_M - (y + at) * span)
    return ground(columns, rows)


def write_geotiff(
    path,
    *,
    crs="EPSG:3857",
    size=560,
    pixel=None,
    middle=MIDDLE,
    turn=0.0,
    change=lambda rgb: rgb,
    **options,
):
    """Write the ground around a place as a square GeoTIFF; returns its path.

    `pixel` is its side in units of the projection, by default about that of a tile's; `turn` rotates the file, in
    degrees; `change` takes the pixels, uint8 [size, size, 3], and returns those that are written.
    """
    import rasterio
    from rasterio.transform import Affine
    from rasterio.warp import transform

    (x,), (y,) = transform("EPSG:4326", crs, [middle[0]], [middle[1]])
    if pixel is None:
        beside, _ = transform("EPSG:3857", crs, *zip(mercator(*middle), strict=True))
        moved = mercator(*middle)[0] + PIXEL_M, mercator(*middle)[1]
        (east,), (north,) = transform("EPSG:3857", crs, [moved[0]], [moved[1]])
        pixel = float(np.hypot(east - beside[0], north - y))
    place = (
        Affine.translation(x, y)
        @ Affine.rotation(turn)
        @ Affine.scale(pixel, -pixel)
        @ Affine.translation(-size / 2, -size / 2)
    )
    columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    xs = place.a * columns + place.b * rows + place.c
    ys = place.d * columns + place.e * rows + place.f
    found = transform(crs, "EPSG:3857", xs.ravel(), ys.ravel())
    pixels = change(ground(*(np.array(each).reshape(size, size) for each in found)))
    overviews = options.pop("overviews", ())
    settings = {"driver": "GTiff", "crs": crs, "transform": place, "dtype": pixels.dtype, "tiled": True}
    settings |= {"height": size, "width": size, "count": pixels.shape[2]}
    colours, palette = options.pop("colours", None), options.pop("palette", None)
    with rasterio.open(path, "w", **(settings | options)) as file:
        if colours:
            file.colorinterp = colours
        file.write(np.moveaxis(pixels, 2, 0))
        if palette:
            file.write_colormap(1, palette)
    if overviews:
        with rasterio.open(path, "r+") as file:
            file.build_overviews(list(overviews), rasterio.enums.Resampling.average)
    return path
