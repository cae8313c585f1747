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

from pipeline.tiles.images.image_header import ImageHeader

_PNG_START = 8
_PNG_FRAME = 12
"""Length, kind and checksum of a chunk, in bytes."""
_INFLATE_STEP = 1 << 20
"""Bytes at a time; each step copies what is left of the packed bytes."""
_MAX_PIXEL_BYTES = 8
_PNG_COLOUR, _PNG_INTERLACE = 25, 28
"""Where the header has them."""
_PNG_PALETTE = 3
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column and row of each pass, and their steps."""

_RIFF_HEADER = 12
_RIFF_CHUNK = 8
_WEBP_CODED = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_WEBP_SPARE = 16
"""Bytes taken away. A decoder that reads ahead by 64 bits does not miss 8 of them."""
_WEBP_ZEROS = re.compile(rb"\0{256,}")
"""Shorter runs occur in tables, and in pictures of fractals (measured: 208)."""

_FEWEST_ZEROS = bytes(16)
_JPEG_ZEROS = re.compile(rb"\0{16,}")
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker that ends the coded data of a scan: no stuffed byte, no restart."""
_MAX_JPEG_COMPONENTS = 4
_JPEG_TABLE = 0xDB
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MOST_JPEG_SCANS = 500
"""Encoders write up to a few dozen. Each goes over all pixels, however few bytes it has: 132 kB with 1,000 took 2.7 s."""
_BARE_JPEG_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}


def png_damage(data: bytes, header: ImageHeader) -> str | None:
    """Return what is wrong with the chunks of a PNG; None if their checksums agree and the pixels are whole."""
    at, pixels, kinds = _PNG_START, list[bytes](), set[bytes]()
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
        kinds.add(kind)
        if kind == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        at = end
    if data[_PNG_COLOUR] == _PNG_PALETTE and b"PLTE" not in kinds:
        return "a palette that is missing"
    return _deflate_damage(
        b"".join(pixels),
        least=_png_size(header, colour=data[_PNG_COLOUR], interlaced=data[_PNG_INTERLACE] == 1),
        limit=_MAX_PIXEL_BYTES * (header.width + 8) * (header.height + 8),
    )


def _png_size(header: ImageHeader, *, colour: int, interlaced: bool) -> int:
    """Return how many bytes the unpacked rows of a PNG have, each with the byte that names its filter."""
    bits = header.depth * _PNG_CHANNELS.get(colour, 1)
    size = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(header.width - x) // step_x), -(-(header.height - y) // step_y)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return size


def _deflate_damage(packed: bytes, *, least: int, limit: int) -> str | None:
    inflater, size = zlib.decompressobj(), 0
    try:
        while not inflater.eof and size <= limit:
            part = inflater.decompress(packed, _INFLATE_STEP)
            packed, size = inflater.unconsumed_tail, size + len(part)
            if not part and not packed:
                break
    except zlib.error as error:
        return f"damaged pixels ({error})"
    if not inflater.eof or size > limit:
        return "pixels that do not end"
    return None if size >= least else f"{size} of {least} bytes of pixels"


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

    One that is decoded to the same picture had bytes which the picture did not need.
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


def webp_zeros(data: bytes, pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return what is wrong with a lossless WebP that was decoded: zeros in place of pixels; None if nothing is.

    An encoder that does not look for repetitions may write zeros for pixels that equal their neighbours, 8 / 3 of
    them to a byte.
    """
    at = data.find(b"VP8L", _RIFF_HEADER)
    if at < 0:
        return None
    end = at + _RIFF_CHUNK + int.from_bytes(data[at + 4 : at + 8], "little")
    longest = max((len(run) for run in _WEBP_ZEROS.findall(data, at, end)), default=0)
    if longest == 0:
        return None
    plain = np.ones(pixels.shape[:2], np.bool_)
    plain[:, 1:] = (pixels[:, 1:] == pixels[:, :-1]).all(axis=-1)
    plain[1:] |= (pixels[1:] == pixels[:-1]).all(axis=-1)
    others = np.flatnonzero(~plain)
    most = int(np.diff(others, prepend=-1, append=plain.size).max()) - 1
    return f"{longest} zero bytes in the place of pixels" if most < longest else None


def _even(size: int) -> int:
    return size + size % 2


def without_jpeg_padding(data: bytes) -> bytes:
    """Return a JPEG without the zeros before its end marker, which some encoders write."""
    pixels, end, rest = data.rpartition(_JPEG_END)
    return pixels.rstrip(b"\0") + end + rest


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the content of each segment of a JPEG; of a scan, with its coded data."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _JPEG_END[1]:
            return
        if marker == 0xFF or marker in _BARE_JPEG_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN[1]:
            found = _JPEG_MARKER.search(data, end)
            end = len(data) if found is None else found.start()
        yield marker, at + 4, end
        at = end


def jpeg_tables_damage(data: bytes) -> str | None:
    """Return what is wrong with the tables and scans of a JPEG; None if nothing is.

    No encoder divides by zero, and one that halves a value sends the rest in a later scan.
    """
    progressive, coarse, scans = False, dict[int, bytearray](), 0
    for marker, start, end in _jpeg_segments(data):
        content = data[start:end]
        scans += marker == _JPEG_SCAN[1]
        if scans > _MOST_JPEG_SCANS:
            return f"more than {_MOST_JPEG_SCANS} scans"
        if marker == _JPEG_TABLE:
            at = 0
            while at < len(content):
                size = 1 + (content[at] >> 4)
                table = content[at + 1 : at + 1 + 64 * size]
                if bytes(size) in {table[each : each + size] for each in range(0, len(table), size)}:
                    return "a quantisation table with zeros"
                at += 1 + 64 * size
        elif marker in _PROGRESSIVE_FRAMES:
            progressive = True
        elif marker == _JPEG_SCAN[1] and progressive and content:
            count = min(content[0], _MAX_JPEG_COMPONENTS)
            first, last, steps = content[1 + 2 * count : 4 + 2 * count].ljust(3, b"\0")
            for component in content[1 : 1 + 2 * count : 2]:
                band = coarse.setdefault(component, bytearray(64))
                band[first : last + 1] = bytes([steps & 15]) * (min(last, 63) + 1 - first)
    return "scans that are missing" if any(map(any, coarse.values())) else None


def jpeg_damage(data: bytes, pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return what is wrong with a JPEG that was decoded: zeros in place of pixels; None if there are none.

    Zeros may stand for plain blocks, one byte for two of them or more. With several scans, zeros may stand for
    colours alone, and nothing is said.
    """
    data = without_jpeg_padding(data)
    # A plain search takes a thirtieth of the pattern's time, which was a quarter of decoding.
    if _FEWEST_ZEROS not in data:
        return None
    start, end = data.find(_JPEG_SCAN), data.rfind(_JPEG_END)
    longest = max((len(run) for run in _JPEG_ZEROS.findall(data, start, end)), default=0)
    if longest == 0 or data.count(_JPEG_SCAN, start) != 1:
        return None
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // 8, 8, width // 8, 8, 3)
    plain = int((blocks.max(axis=(1, 3)) == blocks.min(axis=(1, 3))).all(axis=-1).sum())
    return f"{longest} zero bytes in the place of pixels" if 2 * plain < longest else None
