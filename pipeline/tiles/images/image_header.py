"""Read the format and dimensions of an encoded image from its first bytes, without decoding it. Pure.

Sources: PNG (third edition, 11.2.1 IHDR), JPEG (ITU T.81, B.2.2 frame header), WebP (RFC 9649, section 2).
"""

import struct
from typing import Literal

from store.base.valueclass import valueclass

ImageFormat = Literal["jpeg", "png", "webp"]
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Frame headers of all JPEG processes; C4, C8 and CC are other segments.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FIRST_ARITHMETIC = 0xC9
_BARE_MARKERS = frozenset(range(0xD0, 0xD8)) | {0x01}
_ANIMATION_FLAG = 0x02


@valueclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """The header of an encoded image.

    Attributes:
        format: Encoding.
        width: Pixels.
        height: Pixels.
        depth: Bits per channel.
        channels: Stored channels of a JPEG; 0 for the other formats, where the decoder checks.
        animated: Whether it holds several frames.
        arithmetic: Whether a JPEG is coded arithmetically, not by Huffman codes.
    """

    format: ImageFormat
    width: int
    height: int
    depth: int = 8
    channels: int = 0
    animated: bool = False
    arithmetic: bool = False


def sniff(data: bytes) -> ImageFormat | None:
    """Return the format that the first bytes announce; None if it is none of the three."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_MAGIC):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return None


def read_header(data: bytes) -> ImageHeader | None:
    """Return the header of an encoded image; None if it is of another format, cut off or damaged."""
    try:
        match sniff(data):
            case "png":
                return _png(data)
            case "jpeg":
                return _jpeg(data)
            case "webp":
                return _webp(data)
            case None:
                return None
    except (struct.error, IndexError):
        return None


def _png(data: bytes) -> ImageHeader | None:
    length, kind, width, height, depth = struct.unpack_from(">I4sIIB", data, 8)
    if (length, kind) != (13, b"IHDR"):
        return None
    return ImageHeader(
        format="png", width=width, height=height, depth=depth, animated=b"acTL" in data[: data.find(b"IDAT")]
    )


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1  # fill byte
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _FRAME_MARKERS:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return ImageHeader(
                format="jpeg",
                width=width,
                height=height,
                depth=depth,
                channels=channels,
                arithmetic=marker >= _FIRST_ARITHMETIC,
            )
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if length < 2:
                return None
            at += 2 + length
    return None


def _webp(data: bytes) -> ImageHeader | None:
    match data[12:16]:
        case b"VP8 ":
            if data[23:26] != b"\x9d\x01\x2a":
                return None
            width, height = struct.unpack_from("<HH", data, 26)
            return ImageHeader(format="webp", width=width & 0x3FFF, height=height & 0x3FFF)
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return ImageHeader(format="webp", width=(bits & 0x3FFF) + 1, height=(bits >> 14 & 0x3FFF) + 1)
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
            if len(data) < 30:
                return None
            return ImageHeader(
                format="webp", width=width, height=height, animated=bool(data[20] & _ANIMATION_FLAG)
            )
        case _:
            return None
