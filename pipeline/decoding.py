"""The decoder of tiles under the import path that scripts use; it is `pipeline.tiles.images.decode`."""

from pipeline.tiles.images.decode import MAX_PIXELS, PIXEL_CEILING, decode, fast_jpeg_version

__all__ = ["MAX_PIXELS", "PIXEL_CEILING", "decode", "fast_jpeg_version"]
