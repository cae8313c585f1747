"""Find damage in an encoded image that a decoder would pass over in silence. Pure.

PNG has checksums. JPEG and WebP have none, but a sound file ends where its last pixel does: after lost, changed
or zeroed bytes a decoder falls out of step, and needs more bytes than there are, or fewer. For JPEG the decoder
says so. For WebP it only says that bytes are missing, so C10 takes a few away: if they were not missed, the
decoder was done before the end.

Runs of zeros alone prove nothing: in every format a plain area may be encoded as zeros.

Sources: PNG (third edition, 5.3 chunk layout), JPEG (ITU T.81, B.2), WebP (RFC 9649, section 2).
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.tiles.image_header import ImageHeader

_PNG_START = 8
_PNG_FRAME = 12
"""Length, kind and checksum of a chunk, in bytes."""
_INFLATE_STEP = 1 << 20
"""Bytes at a time; each step copies what is left of the packed bytes."""
_MAX_PIXEL_BYTES = 8

_RIFF_HEADER = 12
_RIFF_CHUNK = 8
_WEBP_CODED = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_WEBP_SPARE = 16
"""Bytes taken away. A decoder that reads ahead by 64 bits does not miss 8 of them."""

_JPEG_ZEROS = re.compile(rb"\0{32,}")
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"


def png_damage(data: bytes, header: ImageHeader) -> str | None:
    """Return what is wrong with the chunks of a PNG; None if their checksums agree and the pixels are whole."""
    at, pixels = _PNG_START, list[bytes]()
    kind = b""
    while kind != b"IEND":
        if at + _PNG_FRAME > len(data):
            return "a file that is cut off"
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + _PNG_FRAME + length
        if end > len(data):
            return "a file that is cut off"
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"a wrong checksum of the chunk at byte {at}"
        if kind == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        at = end
    return _deflate_damage(b"".join(pixels), _MAX_PIXEL_BYTES * (header.width + 8) * (header.height + 8))


def _deflate_damage(packed: bytes, limit: int) -> str | None:
    inflater, size = zlib.decompressobj(), 0
    try:
        while not inflater.eof and size <= limit:
            part = inflater.decompress(packed, _INFLATE_STEP)
            packed, size = inflater.unconsumed_tail, size + len(part)
            if not part and not packed:
                break
    except zlib.error as error:
        return f"damaged pixels ({error})"
    return None if inflater.eof and size <= limit else "pixels that do not end"


def webp_damage(data: bytes) -> str | None:
    """Return what is wrong with the chunks of a WebP file; None if they fit into it."""
    end = _RIFF_CHUNK + int.from_bytes(data[4:8], "little")
    if end > len(data):
        return "a file that is cut off"
    at = _RIFF_HEADER
    while at + _RIFF_CHUNK <= end:
        at += _RIFF_CHUNK + _even(int.from_bytes(data[at + 4 : at + 8], "little"))
    # A writer may leave the padding of the last chunk out.
    return None if at <= end + 1 else "a chunk that reaches beyond the end"


def webp_shortened(data: bytes) -> Iterator[bytes]:
    """Yield a sound-looking WebP file once for each coded chunk, which lacks its last bytes.

    A decoder must refuse them all: one that is decoded had bytes which the picture did not need.
    """
    at = _RIFF_HEADER
    while at + _RIFF_CHUNK <= len(data):
        start, size = at + _RIFF_CHUNK, int.from_bytes(data[at + 4 : at + 8], "little")
        after = start + _even(size)
        if data[at : at + 4] in _WEBP_CODED:
            kept = data[start : start + size - min(_WEBP_SPARE, (size + 1) // 2)]
            chunk = data[at : at + 4] + struct.pack("<I", len(kept)) + kept + bytes(len(kept) % 2)
            body = data[8:at] + chunk + data[after:]
            yield b"RIFF" + struct.pack("<I", len(body)) + body
        at = after


def _even(size: int) -> int:
    return size + size % 2


def without_jpeg_padding(data: bytes) -> bytes:
    """Return a JPEG without the zeros before its end marker, which some encoders write."""
    pixels, end, rest = data.rpartition(_JPEG_END)
    return pixels.rstrip(b"\0") + end + rest


def jpeg_damage(data: bytes, pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return what is wrong with a JPEG that was decoded: zeros in place of pixels; None if there are none.

    Zeros may stand for plain blocks, one byte for two of them or more. With several scans, zeros may stand for
    colours alone, and nothing is said.
    """
    data = without_jpeg_padding(data)
    start, end = data.find(_JPEG_SCAN), data.rfind(_JPEG_END)
    longest = max((len(run) for run in _JPEG_ZEROS.findall(data, start, end)), default=0)
    if longest == 0 or data.count(_JPEG_SCAN, start) != 1:
        return None
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // 8, 8, width // 8, 8, 3)
    plain = int((blocks.max(axis=(1, 3)) == blocks.min(axis=(1, 3))).all(axis=-1).sum())
    return f"{longest} zero bytes in the place of pixels" if 2 * plain < longest else None
