"""Decode the encoded bytes of a tile to pixels, and refuse images without one certain appearance.

The installed decoder must not change a descriptor. Pillow is the reference. simplejpeg, twice as fast, is
used for JPEG where it is installed, always with the accurate transform and smooth
upsampling, with which both give the same pixels. Where it is not installed, JPEG damage that still decodes is
found only if pixels are missing or were overwritten with zeros.

A damaged image is refused, even if it can be decoded (`pipeline.tiles.images.image_damage`).

Dimensions come from the header and are checked before any decoder runs, so that a few kilobytes cannot fill
gigabytes of memory. Images that are not three channels of eight bits:

- grey is repeated, palettes are expanded, transparency is composited over the mean colour
  (`store.base.preprocessing`);
- CMYK JPEG, more than 8 bits per channel and animations are refused: programs do not agree on how they look;
- JPEG with arithmetic coding is refused: decoders say nothing of damage in it, and few programs read it;
- colour profiles and orientation tags are ignored.
"""

import io
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.file_kinds import what_it_is
from pipeline.tiles.images.image_damage import (
    jpeg_damage,
    jpeg_tables_damage,
    png_damage,
    webp_damage,
    webp_shortened,
    webp_zeros,
    without_jpeg_padding,
)
from pipeline.tiles.images.image_header import ImageHeader, read_header, sniff
from store.base.preprocessing import Pixels, flatten_alpha

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MAX_PIXELS = 4096 * 4096
"""Largest tile by default."""
PIXEL_CEILING = 8192 * 8192
"""Highest limit that a caller may set, below Pillow's own limit, which is one for the whole process."""

_FAST_JPEG: ModuleType | None = simplejpeg
_JPEG_COMPLAINTS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
"""How libjpeg begins what it says of damage that it decodes nevertheless."""
_NEEDLESS = "bytes that do not belong to the picture"


class Picture(NamedTuple):
    """A decoded image: uint8 [height, width, 3], RGB, C-contiguous; and how much of it is transparent, 0 to 1."""

    pixels: Pixels
    transparent: float


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, subject: str | None = None) -> Pixels:
    """Return the pixels of a JPEG, PNG or WebP image; see `decode_picture`."""
    return decode_picture(data, max_pixels=max_pixels, subject=subject).pixels


def decode_picture(data: bytes, *, max_pixels: int = MAX_PIXELS, subject: str | None = None) -> Picture:
    """Decode a JPEG, PNG or WebP image.

    Args:
        data: The whole encoded image.
        max_pixels: Greatest width times height, at most `PIXEL_CEILING`.
        subject: The tile's name in messages, such as "z/x/y".

    Raises:
        TileError: when it is another format, damaged, cut off, too large, or of a kind that is refused.
        ValueError: when `max_pixels` is above the ceiling.
    """
    if not 0 < max_pixels <= PIXEL_CEILING:
        raise ValueError(f"expected max_pixels from 1 to {PIXEL_CEILING}, found {max_pixels}")
    header = checked_header(data, max_pixels, subject)
    _require_whole(png_damage(data, header) if header.format == "png" else None, header, subject)
    _require_whole(webp_damage(data) if header.format == "webp" else None, header, subject)
    _require_whole(jpeg_tables_damage(data) if header.format == "jpeg" else None, header, subject)
    fast = _decode_fast(data, header, subject) if header.format == "jpeg" else None
    picture = _decode_with_pillow(data, header, subject) if fast is None else Picture(fast, 0.0)
    pixels = picture.pixels
    if pixels.shape != (header.height, header.width, 3):
        raise _bad_tile(subject, f"{header.height} x {header.width} pixels", f"{list(pixels.shape)}")
    _require_whole(jpeg_damage(data, pixels) if header.format == "jpeg" else None, header, subject)
    if header.format == "webp":
        _require_whole(webp_zeros(data, pixels), header, subject)
        if any(_shows(each, header, pixels) for each in webp_shortened(data)):
            _require_whole(_NEEDLESS, header, subject)
    return picture


def fast_jpeg_version() -> str:
    """Return the version of the fast decoder, "none" where it is absent."""
    return "none" if _FAST_JPEG is None else str(_FAST_JPEG.__version__)


def checked_header(data: bytes, max_pixels: int, subject: str | None) -> ImageHeader:
    """Return the header of an image that can be decoded if it is whole. Arguments as of `decode_picture`.

    Raises:
        TileError: It is another format, its header is damaged, it is too large, or of a kind that is refused.
    """
    header = read_header(data)
    if header is None:
        kind = sniff(data)
        found = what_it_is(data[:64], "bytes that begin") if data else "no bytes at all"
        found = f"a damaged {kind} header" if kind else found
        raise _bad_tile(subject, "a JPEG, PNG or WebP image", found)
    if header.width * header.height == 0 or header.width * header.height > max_pixels:
        raise _bad_tile(subject, f"1 to {max_pixels} pixels", f"{header.width} x {header.height}")
    if header.depth > 8:
        raise _bad_tile(subject, "at most 8 bits per channel", f"{header.depth}")
    if header.channels not in {0, 1, 3}:
        raise _bad_tile(subject, "a grey or RGB picture", f"{header.channels} channels (CMYK)")
    if header.arithmetic:
        raise _bad_tile(subject, "a JPEG with Huffman coding", "arithmetic coding")
    if header.animated:
        raise _bad_tile(subject, "a single picture", "an animation")
    return header


def _require_whole(damage: str | None, header: ImageHeader, subject: str | None) -> None:
    if damage is not None:
        raise _bad_tile(subject, f"a whole {header.format} image", damage)


def _decode_fast(data: bytes, header: ImageHeader, subject: str | None) -> Pixels | None:
    """Return the pixels of a JPEG; None if the fast decoder is absent or fails, and Pillow must decide.

    Raises:
        TileError: The decoder made up pixels for damaged ones. Pillow would not say so.
    """
    if _FAST_JPEG is None:
        return None
    try:
        pixels: Pixels = _FAST_JPEG.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    except (ValueError, RuntimeError) as error:
        if not str(error).startswith(_JPEG_COMPLAINTS):
            return None
        unpadded = without_jpeg_padding(data)
        if unpadded != data:
            return _decode_fast(unpadded, header, subject)
        raise _bad_tile(subject, f"a whole {header.format} image", str(error)) from error
    return pixels


def _shows(data: bytes, header: ImageHeader, pixels: Pixels) -> bool:
    """Whether an image can be decoded to some pixels."""
    try:
        return bool((_decode_with_pillow(data, header, None).pixels == pixels).all())
    except TileError:
        return False


def _decode_with_pillow(data: bytes, header: ImageHeader, subject: str | None) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as picture:
            _load(picture)
            if picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
                rgba = np.asarray(picture.convert("RGBA"))
                return Picture(flatten_alpha(rgba), 1 - float(rgba[:, :, 3].mean()) / 255)
            return Picture(np.array(picture.convert("RGB")), 0.0)
    except MemoryError:
        raise
    except Exception as error:
        # On hostile bytes decoders raise many errors: OSError, SyntaxError, ValueError, zlib.error, …
        raise _bad_tile(
            subject, f"a whole {header.format} image", str(error) or type(error).__name__
        ) from error


def _load(picture: Image.Image) -> None:
    """Decode a picture; raise `ValueError` if it uses colours that its palette lacks. Others show them as black."""
    colours = len(picture.palette.palette) // 3 if picture.mode == "P" and picture.palette else 256
    picture.load()
    if picture.mode == "P" and np.asarray(picture).max() >= colours:
        raise ValueError(f"colours beyond the {colours} of its palette")


def _bad_tile(subject: str | None, expected: str, found: str) -> TileError:
    where = f"tile {subject}: " if subject else ""
    return TileError(
        f"{where}expected {expected}, found {found}",
        hint='fetch the tile again, or set tiles.on_bad = "skip"',
        kind=ErrorKind.BAD_TILE,
        subject=subject,
    )
