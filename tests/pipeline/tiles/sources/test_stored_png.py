"""A PNG without compression: any decoder reads it, and its bytes are pinned."""

import hashlib
import zlib

import numpy as np
import pytest

from pipeline.tiles.images.decode import decode_picture
from pipeline.tiles.sources.stored_png import stored_png


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (256, 256), (300, 73)])
def test_the_pixels_come_back(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    found = decode_picture(stored_png(pixels))
    assert (found.pixels == pixels).all()
    assert found.transparent == 0


def test_what_is_not_there_is_transparent():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:2] = 0
    assert decode_picture(stored_png(pixels)).transparent == 0.25


def test_the_bytes_are_pinned_and_no_library_decides_them(monkeypatch):
    monkeypatch.setattr(zlib, "compress", None)
    monkeypatch.setattr(zlib, "compressobj", None)
    pixels = (np.arange(256 * 256 * 3) % 251).astype(np.uint8).reshape(256, 256, 3)
    data = stored_png(pixels)
    assert len(data) == 196_947
    assert (
        hashlib.sha256(data).hexdigest() == "f5b0dc5783befff29b3962fbed204848c367bbdfd6deaf03ec44513ee76b5a38"
    )
