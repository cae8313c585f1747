"""Damaged images that decoders accept are refused; sound ones of any encoder are not."""

import base64
import io
import re
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.images import decode as decode_module
from pipeline.tiles.images.decode import decode
from tests.examples_tried import mostly_deep

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


@pytest.mark.parametrize(
    ("encoding", "variants"),
    [
        *(("jpeg", JPEG[::3]), ("png", PNG[::3]), ("webp", WEBP[::5])),
        *(
            pytest.param(*each, marks=pytest.mark.deep)
            for each in (("jpeg", JPEG), ("png", PNG), ("webp", WEBP))
        ),
    ],
)
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


NEAR_LOSSLESS = base64.b64decode(
    "UklGRr4AAABXRUJQVlA4TLEAAAAvDAADAM1VIKL/sYuI/ocDQiNJjqTq0ZF6/rT2ex2JWM+wbdtIsux2/4HvYeS2bRg66Gn//+1aJybg737j"
    "f22KzRK3bLbVHb7aVl6Z+X+NoB1e+7n5N0eLA28z5pirTzo5JgWmmXb45iZhBhr4FBodu/2Pmym0uSDiZqBImNm0tCMcrh9i+p+G0AMvBg1j"
    "RqM1DXkuEjM9vhumHRkFkVNoSwYqPeZNTOxgr7LvbMKfmrsA"
)
"""A near lossless WebP of libwebp that is decoded without its last 8 bytes too, to other pixels."""


def test_a_webp_that_is_decoded_to_other_pixels_without_its_end_is_sound():
    assert decode(NEAR_LOSSLESS).shape == (13, 13, 3)


def test_long_runs_of_zeros_in_a_lossless_webp_may_be_plain_ground():
    rows, columns = np.mgrid[:256, :256]
    noise = np.random.default_rng(1).integers(0, 256, (16, 256, 3))
    patterns = [
        rows,
        columns,
        rows + columns,
        rows & columns,
        np.repeat(np.repeat(noise[:, :16, 0], 16, 0), 16, 1),
    ]
    pictures = [Image.fromarray(np.stack([pattern % 256] * 3, -1).astype(np.uint8)) for pattern in patterns]
    pictures += [Image.fromarray(np.repeat(noise[:1], 256, 0).astype(np.uint8)), half_plain(2), half_clear(4)]
    for picture, quality in product(pictures, (0, 50, 100)):
        decode(encoded(picture, "webp", lossless=True, method=0, quality=quality))


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


@pytest.mark.parametrize("length", mostly_deep((512, 4096), 512))
def test_zeros_inside_a_lossless_webp_are_found(length):
    for seed in range(8):
        data = encoded(ground(seed), "webp", lossless=True)
        at = len(data) // 3
        with pytest.raises(TileError):
            decode(data[:at] + bytes(length) + data[at + length :])


def test_a_hole_of_sixteen_bytes_in_a_jpeg_is_found():
    pytest.importorskip("simplejpeg")
    for seed in range(8):
        data = encoded(ground(seed), "jpeg", quality=85)
        at = len(data) // 2
        with pytest.raises(TileError):
            decode(data[:at] + bytes(20) + data[at + 20 :])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_zeros_in_a_quantisation_table_is_refused(progressive):
    data = encoded(ground(1), "jpeg", progressive=progressive)
    at = data.find(b"\xff\xdb") + 10
    with pytest.raises(TileError, match="quantisation table"):
        decode(data[:at] + bytes(8) + data[at + 8 :])


def test_a_progressive_jpeg_that_ends_after_some_of_its_scans_is_refused():
    data = encoded(ground(1), "jpeg", progressive=True)
    last = data.rfind(b"\xff\xc4")
    assert data.rfind(b"\xff\xda") > last > data.find(b"\xff\xda")
    with pytest.raises(TileError, match="scans that are missing"):
        decode(data[:last] + b"\xff\xd9")


def test_a_jpeg_of_very_many_scans_is_refused():
    """Each is decoded over all pixels, and 33 bytes are enough for one: a file of 3 MB took four minutes."""
    data = encoded(ground(1), "jpeg", progressive=True)
    *_, start, end = (found.start() for found in re.finditer(b"\xff\xda|\xff\xd9", data))
    scan = data[start:end]
    decode(data[:end] + data[end:])
    for more, damage in ((480, "Inconsistent"), (500, "more than 500 scans")):
        with pytest.raises(TileError, match=damage):
            decode(data[:end] + scan * more + data[end:])


def test_a_png_with_too_few_rows_is_refused():
    for interlaced in (0, 1):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, interlaced))
        rows = zlib.compress(bytes(64 * 193 // 2))
        with pytest.raises(TileError, match="bytes of pixels"):
            decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + END)


def test_a_png_with_colours_beyond_its_palette_is_refused():
    data = encoded(ground(1).quantize(32), "png")
    at = data.index(b"PLTE")
    colours = int.from_bytes(data[at - 4 : at], "big") // 3
    for kept in (colours, colours - 1):
        chunk = b"PLTE" + data[at + 4 : at + 4 + 3 * kept]
        cut = struct.pack(">I", 3 * kept) + chunk + struct.pack(">I", zlib.crc32(chunk))
        changed = data[: at - 4] + cut + data[at + 8 + 3 * colours :]
        if kept == colours:
            assert changed == data
            continue
        with pytest.raises(TileError, match="colours beyond the 31 of its palette"):
            decode(changed)


@pytest.mark.parametrize("marker", [0xC9, 0xCA, 0xCB])
def test_a_jpeg_with_arithmetic_coding_is_refused(marker):
    data = bytearray(encoded(ground(1), "jpeg"))
    data[data.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(TileError, match="expected a JPEG with Huffman coding, found arithmetic coding"):
        decode(bytes(data))


def test_a_png_without_its_palette_is_refused():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    with pytest.raises(TileError, match="a palette that is missing"):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", ROWS) + END)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_interlaced_images_of_any_depth_and_side_are_accepted(depth):
    for side in range(1, 20):
        passes = [
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ]
        rows = b""
        for x, y, step_x, step_y in passes:
            width, height = len(range(x, side, step_x)), len(range(y, side, step_y))
            rows += bytes(height * (1 + (width * depth + 7) // 8)) if width else b""
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 1))
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + END)


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
