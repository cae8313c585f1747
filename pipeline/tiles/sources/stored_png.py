"""Write pixels as a PNG without compression: the same bytes on every machine. Pure.

What zlib makes of the same pixels depends on its version, so a compressed PNG is no identity of a picture.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ZLIB_HEADER = b"\x78\x01"
_MAX_STORED = 0xFFFF
"""Most bytes of a stored block (RFC 1951, 3.2.4)."""
_RGB, _RGBA = 2, 6


def stored_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG of pixels, uint8 [height, width, 3] (RGB) or [height, width, 4] (RGBA)."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    colour = _RGBA if channels == 4 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", _stored(rows.tobytes())), _chunk(b"IEND", b""))
    )


def _stored(data: bytes) -> bytes:
    parts = [_ZLIB_HEADER]
    for start in range(0, len(data), _MAX_STORED):
        block = data[start : start + _MAX_STORED]
        is_last = start + _MAX_STORED >= len(data)
        parts += (struct.pack("<BHH", is_last, len(block), len(block) ^ _MAX_STORED), block)
    parts.append(struct.pack(">I", zlib.adler32(data)))
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join(
        (struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
    )
