"""Damaged images that decoders accept are refused; sound ones of any encoder are not."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles import decode as decode_module
from pipeline.tiles.decode import decode

JPEG = [
    {"quality": quality, **more}
    for quality in (5, 85, 100)
    for more in (
        {},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": 0},
        {"restart_marker_blocks": 3},
    )
]
PNG = [{"compress_level": level, "compress_type": kind} for level, kind in product((0, 1, 9), (0, 2, 3))]
WEBP = [
    {"quality": quality, "method": method, **more}
    for quality, method in product((0, 80), (0, 4))
    for more in ({}, {"lossless": True}, {"alpha_quality": 30}, {"lossless": True, "exact": True})
]


def ground(seed, side=192):
    """A picture with detail everywhere, as ground has."""
    random = np.random.default_rng(seed)
    layers = [
        Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side), 3)
        for cells in (5, 20, 60)
    ]
    return Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8))


def half_plain(seed):
    pixels = np.array(ground(seed))
    pixels[64:] = (20, 60, 90)
    return Image.fromarray(pixels)


def half_clear(seed):
    pixels = np.array(ground(seed).convert("RGBA"))
    pixels[:, 96:, 3] = 0
    return Image.fromarray(pixels)


def sliver():
    """A plain picture with ground in its last corner: lossless WebP needs none of its last 8 bytes."""
    pixels = np.zeros((192, 192, 3), np.uint8)
    pixels[-20:, -20:] = np.asarray(ground(7, 20))
    return Image.fromarray(pixels)


def encoded(picture, encoding, **options):
    buffer = io.BytesIO()
    picture.save(buffer, encoding, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("encoding", "variants"), [("jpeg", JPEG), ("png", PNG), ("webp", WEBP)])
def test_sound_images_of_any_encoder_are_accepted(encoding, variants):
    plain = Image.new("RGB", (192, 192), (40, 90, 200))
    pictures = [
        ground(1),
        ground(1).convert("L"),
        half_plain(2),
        sliver(),
        plain,
        ground(3).quantize(4).convert("RGB"),
    ]
    pictures += [half_clear(4), ground(5).quantize(16)] if encoding == "png" else []
    pictures += [half_clear(4)] if encoding == "webp" else []
    for picture, options in product(pictures, variants):
        data = encoded(picture, encoding, **options)
        assert decode(data).shape == (192, 192, 3)
        assert (decode(data + b"\0" * 100) == decode(data)).all(), "bytes after the end do not matter"


def test_sound_images_of_the_fast_encoder_are_accepted():
    simplejpeg = pytest.importorskip("simplejpeg")
    for picture, sampling in product((ground(1), half_plain(2)), ("444", "422", "420", "440", "411")):
        data = simplejpeg.encode_jpeg(np.array(picture), 80, "RGB", sampling)
        assert decode(data).shape == (192, 192, 3)


def test_zeros_before_the_end_of_a_jpeg_are_padding():
    data = encoded(ground(1), "jpeg")
    assert (decode(data[:-2] + bytes(400) + data[-2:]) == decode(data)).all()


def zero_hole(data):
    return data[: len(data) // 3] + bytes(len(data) // 6) + data[len(data) // 2 :]


def zero_tail(data):
    return data[: len(data) * 3 // 4] + bytes(len(data) - len(data) * 3 // 4)


def lost_bytes(data):
    return data[: len(data) // 2] + data[len(data) // 2 + 200 :]


@pytest.mark.parametrize("damage", [zero_hole, zero_tail, lost_bytes])
@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("png", {}),
        ("png", {"palette": True}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"alpha": True}),
    ],
)
def test_damaged_images_are_refused(damage, encoding, options):
    pytest.importorskip("simplejpeg")
    palette, alpha = options.get("palette"), options.get("alpha")
    for seed in range(5):
        picture = ground(seed).convert("P") if palette else half_clear(seed) if alpha else ground(seed)
        with pytest.raises(TileError) as caught:
            decode(damage(encoded(picture, encoding, **options)))
        assert caught.value.kind is ErrorKind.BAD_TILE


def test_a_short_run_of_zeros_in_a_jpeg_is_found_without_the_decoders_help(monkeypatch):
    monkeypatch.setattr(decode_module, "_FAST_JPEG", None)
    data = encoded(ground(1), "jpeg")
    with pytest.raises(TileError, match="zero bytes in the place of pixels"):
        decode(data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) + pixels


ROWS = zlib.compress(bytes(8 * 9))
END = chunk(b"IEND", b"")
WHOLE_WEBP = encoded(ground(1), "webp")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(chunk(b"IDAT", ROWS)), "cut off"),
        (png(chunk(b"IDAT", ROWS) + END[:-1]), "cut off"),
        (
            png(chunk(b"IDAT", ROWS) + chunk(b"tIME", bytes(7))[:-1] + b"x" + END),
            "checksum of the chunk at byte",
        ),
        (png(chunk(b"IDAT", ROWS[:-1] + b"x") + END), "damaged pixels"),
        (png(chunk(b"IDAT", ROWS[:-4]) + END), "pixels that do not end"),
        (png(chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + END), "pixels that do not end"),
        (WHOLE_WEBP[:4] + struct.pack("<I", len(WHOLE_WEBP)) + WHOLE_WEBP[8:], "cut off"),
        (WHOLE_WEBP[:16] + struct.pack("<I", len(WHOLE_WEBP)) + WHOLE_WEBP[20:], "reaches beyond the end"),
    ],
)
def test_the_structure_is_checked(data, said):
    with pytest.raises(TileError, match=said):
        decode(data)


def test_pixels_in_several_chunks_are_one_stream():
    assert not decode(png(chunk(b"IDAT", ROWS[:5]) + chunk(b"IDAT", ROWS[5:]) + END)).any()
