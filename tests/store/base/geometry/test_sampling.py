"""What is cut from a frame, byte for byte: means as Pillow reckons them, and colours of one recorded frame."""

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from store.base.geometry import sampling as module
from store.base.geometry.camera import Camera, Distortion, cut_square


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def means_by_pillow(frame, by):
    """Means of squares: of whole rows, rounded, and then of columns by Pillow."""
    height, width = frame.shape[:2]
    total = frame.reshape(height // by, by, width, 3).sum(axis=1, dtype=np.int64)
    rows = ((total + by // 2) // by).astype(np.uint8)
    return np.asarray(Image.fromarray(rows).reduce((by, 1)))


@pytest.mark.parametrize("by", [*range(1, 34), 63, 64, 65, 127, 128, 200, 255, 256])
def test_means_are_those_of_rows_and_then_of_columns(by):
    frame = noise(6 * by, 6 * by, by)
    frame[: 2 * by] //= 64  # small sums too, where a reciprocal that is too small shows
    frame[2 * by : 3 * by] = 255
    found = cut_square(frame, metres_per_pixel=1.0, side_m=6.0 * by, heading_deg=0, size=(6, 6))
    assert (found == means_by_pillow(frame, by)).all()


@pytest.mark.parametrize(
    ("frame", "side", "heading", "size", "expected"),
    [
        ((562, 1000), 805.5, 0, (256, 256), "0533fe3c3ab2a84f"),
        ((562, 1000), 805.5, 33.3, (256, 256), "c18416d8cfca3e1a"),
        ((1060, 1886), 1519.0, 0, (256, 256), "154818214ee989d3"),
        ((1060, 1886), 1519.0, 152.1, (256, 256), "23db98dbe90dd6de"),
        ((61, 43), 333.0, 0, (60, 90), "08b459aa5cf2a6b2"),
        ((61, 43), 333.0, 301.0, (60, 90), "9519f84fc6b61c75"),
        ((200, 300), 90.0, 45.0, (224, 224), "065138d050708fab"),
    ],
)
def test_a_recorded_cut(frame, side, heading, size, expected):
    found = cut_square(noise(*frame), metres_per_pixel=1.0, side_m=side, heading_deg=heading, size=size)
    assert sha256(np.ascontiguousarray(found)).hexdigest()[:16] == expected


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 60)),
    st.integers(1, 400),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 100, 1 << 16]),
)
def test_rows_and_columns_that_cross_give_what_pairs_of_them_give(shape, side, size, at_once):
    asked = {"metres_per_pixel": 1.0, "side_m": float(side), "heading_deg": 0.0, "size": size}
    # A lens that distorts nothing: each pixel is looked up by itself. Its focal lengths round nothing off.
    lens = [64.0, 64.0, shape[1] // 2, shape[0] // 2, Distortion("opencv", (0.0, 0.0, 0.0, 0.0))]
    frame = noise(*shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SUMS_AT_ONCE", at_once)
        pairs = cut_square(frame, **asked, camera=Camera(shape[1], shape[0], *lens))
        crossing = cut_square(frame, **asked, camera=Camera(shape[1], shape[0], *lens[:4]))
    assert np.abs(pairs.astype(int) - crossing).max() <= 255 // 16
    if not (side & side - 1 or size[0] & size[0] - 1 or size[1] & size[1] - 1):
        assert (pairs == crossing).all()
