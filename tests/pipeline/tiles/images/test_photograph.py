"""What is said of a photograph that cannot be read, and what mends it."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.tiles.images.photograph import decode_photograph, photograph_size

NOISE = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)


def encoded(kind, mode="RGB"):
    data = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(data, kind)
    return data.getvalue()


def hint(function, data, tmp_path):
    with pytest.raises(RequestError) as error:
        function(data, tmp_path / "cut.jpg")
    return error.value.hint


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_photograph_that_was_cut_short_is_called_incomplete(kind, part, tmp_path):
    data = encoded(kind)
    assert "damaged or incomplete" in hint(decode_photograph, data[: int(len(data) * part)], tmp_path)


@pytest.mark.parametrize("function", [decode_photograph, photograph_size])
def test_a_header_that_was_cut_short_and_other_files(function, tmp_path):
    assert "damaged or incomplete" in hint(function, encoded("PNG")[:12], tmp_path)
    for data in (b"", b"z,x,y"):
        assert hint(function, data, tmp_path) == "name a JPEG, PNG or WebP file"


def test_a_picture_of_a_kind_that_is_refused_is_not_called_damaged(tmp_path):
    assert "RGB" in hint(decode_photograph, encoded("JPEG", "CMYK"), tmp_path)
