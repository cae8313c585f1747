import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.images import decode as decode_module
from pipeline.tiles.images.decode import MAX_PIXELS, PIXEL_CEILING, decode, decode_picture
from pipeline.tiles.images.image_header import read_header

ENCODINGS = ("png", "jpeg", "webp")


def encoded(picture, encoding, **options):
    buffer = io.BytesIO()
    picture.save(buffer, encoding, **options)
    return buffer.getvalue()


def refused(data, said, **options):
    with pytest.raises(TileError) as caught:
        decode(data, subject="3/1/2", **options)
    error = caught.value
    assert error.kind is ErrorKind.BAD_TILE
    assert error.message.startswith("tile 3/1/2: expected ")
    assert said in error.message, error.message
    assert error.subject == "3/1/2"


@pytest.fixture
def only_pillow(monkeypatch):
    monkeypatch.setattr(decode_module, "_FAST_JPEG", None)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pixels_are_those_of_the_picture(encoding, archives):
    pixels = decode(archives.image(1, height=40, width=56, encoding=encoding))
    assert pixels.shape == (40, 56, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    original = np.asarray(archives.picture(1, height=40, width=56))
    difference = np.abs(pixels.astype(int) - original)
    assert difference.max() == 0 if encoding != "jpeg" else difference.mean() < 16


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]
)
def test_both_jpeg_decoders_give_the_same_pixels(mode, options, archives, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encoded(archives.picture(3, height=241, width=259, mode=mode), "jpeg", **options)
    fast = decode(data)
    monkeypatch.setattr(decode_module, "_FAST_JPEG", None)
    assert (decode(data) == fast).all()


def test_pillow_decides_when_the_fast_decoder_cannot(archives, monkeypatch):
    class Unable:
        @staticmethod
        def decode_jpeg(*_, **__):
            raise ValueError("Could not determine subsampling type for JPEG image")

    monkeypatch.setattr(decode_module, "_FAST_JPEG", Unable)
    assert decode(archives.image(1, encoding="jpeg", height=64, width=64)).shape == (64, 64, 3)


class TestRules:
    def test_grey_is_repeated(self, archives):
        for encoding in ("png", "jpeg"):
            pixels = decode(archives.image(2, encoding=encoding, mode="L"))
            assert (pixels[..., 0] == pixels[..., 1]).all()
            assert (pixels[..., 1] == pixels[..., 2]).all()

    def test_bits_become_black_and_white(self, archives):
        assert set(np.unique(decode(archives.image(2, mode="1")))) == {0, 255}

    def test_a_palette_is_expanded(self, archives):
        picture = archives.picture(4).quantize(16)
        assert (decode(encoded(picture, "png")) == np.asarray(picture.convert("RGB"))).all()

    @pytest.mark.parametrize("encoding", ["png", "webp"])
    def test_alpha_goes_over_the_mean_colour(self, encoding):
        rgba = np.zeros((2, 2, 4), dtype=np.uint8)
        rgba[..., :3] = [[[100], [200]], [[100], [0]]]
        rgba[..., 3] = [[0, 255], [255, 51]]
        options = {"lossless": True, "exact": True} if encoding == "webp" else {}
        found = decode_picture(encoded(Image.fromarray(rgba), encoding, **options))
        mean = (200 + 100) * 5 // 11
        assert found.pixels[..., 0].tolist() == [[mean, 200], [100, (mean * 204 + 127) // 255]]
        assert found.transparent == pytest.approx((1 + 0.8) / 4)

    def test_a_transparent_palette_entry_is_filled(self, archives):
        picture = archives.picture(4).quantize(4)
        found = decode_picture(encoded(picture, "png", transparency=0))
        hidden = np.asarray(picture) == 0
        whole = np.asarray(picture.convert("RGB"))
        assert found.transparent == pytest.approx(hidden.mean())
        assert (found.pixels[hidden] == whole[~hidden].mean(axis=0).astype(np.uint8)).all()
        assert (found.pixels[~hidden] == whole[~hidden]).all()

    def test_a_transparent_colour_is_filled(self):
        picture = Image.new("RGB", (4, 4), (9, 8, 7))
        picture.putpixel((0, 0), (1, 2, 3))
        pixels = decode(encoded(picture, "png", transparency=(9, 8, 7)))
        assert (pixels == (1, 2, 3)).all()

    def test_orientation_and_profiles_are_ignored(self, archives):
        picture = archives.picture(5, height=32, width=48)
        exif = Image.Exif()
        exif[0x0112] = 6
        for encoding in ENCODINGS:
            options = {"lossless": True} if encoding == "webp" else {}
            assert (
                decode(encoded(picture, encoding, exif=exif, **options))
                == decode(encoded(picture, encoding, **options))
            ).all()

    def test_cmyk_is_refused(self, archives):
        refused(encoded(archives.picture(1).convert("CMYK"), "jpeg"), "4 channels (CMYK)")

    def test_sixteen_bits_are_refused(self):
        refused(
            encoded(Image.fromarray(np.zeros((4, 4), dtype=np.uint16)), "png"),
            "at most 8 bits per channel, found 16",
        )

    @pytest.mark.parametrize("encoding", ["png", "webp"])
    def test_animations_are_refused(self, encoding, archives):
        frames = [archives.picture(seed) for seed in (1, 2)]
        refused(encoded(frames[0], encoding, save_all=True, append_images=frames[1:]), "an animation")


@pytest.mark.usefixtures("only_pillow")
class TestDamage:
    def test_no_picture(self):
        for data in (
            b"",
            b"\xff\xd8",
            b"GIF89a",
            b"RIFF....WEBP",
            b"<html>",
            b"\x89PNG\r\n\x1a\n",
            b"\x1f\x8b",
            b"II*\x00",
        ):
            refused(data, "expected")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_every_truncation(self, encoding, archives):
        data = archives.image(1, encoding=encoding, height=24, width=24)
        for length in range(0, len(data) - 24, max(1, len(data) // 60)):
            refused(data[:length], "expected")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_flipped_bytes_give_a_picture_or_our_error(self, encoding, archives):
        data = archives.image(1, encoding=encoding, height=24, width=24)
        random = np.random.default_rng(1)
        for _ in range(150):
            damaged = bytearray(data)
            damaged[random.integers(len(data))] ^= int(random.integers(1, 256))
            # Any other exception fails the test; a lucky flip gives a picture.
            with suppress(TileError):
                assert decode(bytes(damaged)).dtype == np.uint8


def test_a_truncated_jpeg_is_refused_by_the_fast_path_too(archives):
    data = archives.image(1, encoding="jpeg", height=64, width=64)
    for length in range(0, len(data) - 8, 29):
        refused(data[:length], "expected")


class TestSize:
    def test_the_header_is_checked_before_anything_is_decoded(self):
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
            _chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IEND", b""))
        )
        refused(bomb, "1 to 16777216 pixels, found 60000 x 60000")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_the_limit_itself_is_allowed(self, encoding, archives):
        data = archives.image(1, encoding=encoding, height=30, width=20)
        assert decode(data, max_pixels=600).shape == (30, 20, 3)
        refused(data, "1 to 599 pixels, found 20 x 30", max_pixels=599)

    def test_no_pixels(self):
        header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
        refused(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header), "found 0 x 5")

    def test_limits_stay_below_the_process_wide_one(self):
        assert MAX_PIXELS < PIXEL_CEILING < Image.MAX_IMAGE_PIXELS
        for limit in (0, PIXEL_CEILING + 1):
            with pytest.raises(ValueError, match="max_pixels"):
                decode(b"", max_pixels=limit)

    def test_a_text_bomb_is_refused(self, archives):
        data = archives.image(1)
        bomb = _chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(80 << 20)))
        refused(data[:33] + bomb + data[33:], "a whole png image")

    def test_a_profile_bomb_is_refused(self, archives):
        data = archives.image(1)
        bomb = _chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(80 << 20)))
        refused(data[:33] + bomb + data[33:], "a whole png image")


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("size", [(1, 1), (3, 257), (300, 7)])
def test_headers_have_the_size(size, archives):
    height, width = size
    cases = [(encoding, {}) for encoding in ENCODINGS]
    cases += [
        ("webp", {"lossless": True}),
        ("webp", {"exif": b"Exif\x00\x00x"}),
        ("jpeg", {"comment": b"x" * 500}),
    ]
    for encoding, options in cases:
        header = read_header(encoded(archives.picture(1, height=height, width=width), encoding, **options))
        assert header is not None
        assert (header.format, header.height, header.width) == (encoding, height, width)
    header = read_header(encoded(archives.picture(1, height=height, width=width, mode="RGBA"), "webp"))
    assert header is not None
    assert (header.height, header.width) == size


def test_jpeg_segments(archives):
    data = archives.image(1, encoding="jpeg")
    filled = data[:2] + b"\xff\xff\xff" + data[2:]
    assert read_header(filled) == read_header(data)
    assert read_header(data[:2] + b"\xff\x01" + data[2:]) == read_header(data)
    assert read_header(data[:2] + b"\xff\xe0\x00\x01" + data[2:]) is None


@given(
    st.sampled_from(
        [
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x00\x00\x00\x00WEBPVP8X",
            b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        ]
    ),
    st.binary(max_size=80),
)
def test_headers_of_any_bytes(magic, rest):
    header = read_header(magic + rest)
    if header is not None:
        assert header.width >= 0
        assert header.height >= 0


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"<!doctype html>", "a web page"),
        (b'<?xml version="1.0"?>', "an XML text, such as an error of a server"),
        (b'{"message": "quota"}', "a JSON text, such as an error of a server"),
        (b"\0\0\0\x1cftypavif", "an AVIF image"),
        (b"GIF89a", "a GIF image"),
        (bytes(99), "zeros"),
    ],
)
def test_other_files_are_named(data, what):
    with pytest.raises(TileError, match=rf"bytes that begin with b.* \({what}\)"):
        decode(data)
