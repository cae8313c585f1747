import functools
import hashlib
import json
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.preprocessing import (
    ALPHA,
    RESAMPLER,
    Preprocessing,
    flatten_alpha,
    middle_square,
    resample,
)


def gradient(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 7 % 256, columns * 5 % 256, (rows * columns) % 256], axis=2).astype(np.uint8)


def test_default_parameters_keep_the_pixels():
    image = gradient(8, 6)
    sample = Preprocessing(size=(8, 6)).apply(image)
    assert sample.shape == (3, 8, 6)
    assert sample.dtype == np.float32
    assert sample.flags.c_contiguous
    assert (sample == image.transpose(2, 0, 1)).all()


def test_order_of_channels_and_axes():
    image = gradient(8, 6)
    made = Preprocessing(size=(8, 6), colour="bgr", layout="nhwc", mean=(1, 2, 3), std=(2, 4, 8))
    sample = made.apply(image)
    assert sample.shape == made.shape == (8, 6, 3)
    assert sample.flags.c_contiguous
    assert (
        sample == (image[..., ::-1].astype(np.float32) - np.float32([1, 2, 3])) / np.float32([2, 4, 8])
    ).all()
    other = Preprocessing(size=(8, 6), colour="bgr", layout="nchw", mean=(1, 2, 3), std=(2, 4, 8)).apply(
        image
    )
    assert (other.transpose(1, 2, 0) == sample).all()


def test_the_image_is_left_alone():
    image = gradient(8, 8)
    before = image.copy()
    Preprocessing(size=(8, 8), mean=(9, 9, 9), std=(3, 3, 3)).apply(image)
    Preprocessing(size=(4, 4), mean=(9, 9, 9), std=(3, 3, 3)).apply(image)
    assert (image == before).all()
    image.setflags(write=False)
    Preprocessing(size=(8, 8)).apply(image)


def test_samples_do_not_change_between_versions():
    made = Preprocessing(
        size=(17, 23), colour="bgr", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    digests = [
        hashlib.sha256(made.apply(gradient(*size)).tobytes()).hexdigest() for size in ((64, 64), (9, 11))
    ]
    assert digests == [
        "68b042bc0958c6ce15d5f14be258828f842eb378e8865ea11eb429e7eabbb762",
        "eb571420bb579c8b332e575e43cf9db7827e179ba50320b91142c86a5536c8ae",
    ]


@pytest.mark.parametrize(("height", "width", "top", "left"), [(6, 13, 0, 3), (13, 6, 3, 0), (6, 6, 0, 0)])
def test_a_square_network_sees_the_middle_square(height, width, top, left):
    image = gradient(height, width)
    square = image[top : top + 6, left : left + 6]
    assert (middle_square(image) == square).all()
    for side in (6, 4, 9):
        made = Preprocessing(size=(side, side))
        assert (made.apply(image) == made.apply(square.copy())).all()
    # What a network that is not square sees is the whole.
    assert (
        Preprocessing(size=(4, 8), layout="nhwc").apply(image) == resample(image, (4, 8)).astype(np.float32)
    ).all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("mean", "std"), [((0, 0, 0), (1, 1, 1)), ((0, 3, 0), (1, 1, 1)), ((0, 0, 0), (1, 1, 7))]
)
def test_a_sample_is_written_to_given_memory(layout, mean, std):
    made = Preprocessing(size=(6, 8), layout=layout, mean=mean, std=std)
    batch = np.full((2, *made.shape), np.nan, np.float32)
    found = made.apply(gradient(9, 7), out=batch[1])
    assert found.base is batch
    assert (batch[1] == made.apply(gradient(9, 7))).all()
    assert np.isnan(batch[0]).all()
    expected = (resample(gradient(9, 7), (6, 8)).astype(np.float32) - np.float32(mean)) / np.float32(std)
    assert (found == (expected.transpose(2, 0, 1) if layout == "nchw" else expected)).all()


@pytest.mark.parametrize(
    "memory",
    [
        np.empty((3, 4, 4), np.float64),
        np.empty((4, 4, 3), np.float32),
        np.empty((3, 4, 8), np.float32)[:, :, ::2],
    ],
)
def test_other_memory_is_refused(memory):
    with pytest.raises(ValueError, match="expected memory float32"):
        Preprocessing(size=(4, 4)).apply(gradient(4, 4), out=memory)


def test_views_give_the_same_as_copies():
    image = gradient(40, 40)
    made = Preprocessing(size=(16, 16))
    assert (made.apply(image[::2, ::-1]) == made.apply(image[::2, ::-1].copy())).all()


def test_shrinking_averages():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[::2] = 255
    small = resample(image, (16, 16))
    assert small.min() > 100
    assert small.max() < 155


@given(st.integers(0, 255), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_flat_picture_stays_flat(value, height, width, new_height, new_width):
    image = np.full((height, width, 3), value, dtype=np.uint8)
    assert (resample(image, (new_height, new_width)) == value).all()


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 255))
def test_alpha_over_the_mean_of_what_is_visible(one, other, alpha):
    pixels = np.array([[[one, 0, 255, alpha], [other, 0, 255, alpha], [7, 7, 7, 0]]], dtype=np.uint8)
    flat = flatten_alpha(pixels)[0].tolist()
    mean = (one + other) // 2
    assert flat[2] == [mean, 0, 255]
    assert flat[0] == [(one * alpha + mean * (255 - alpha) + 127) // 255, 0, 255]
    assert (flatten_alpha(pixels * np.uint8([1, 1, 1, 0])) == 127).all()


floats = st.floats(-1e6, 1e6, allow_nan=False)


@given(
    st.tuples(st.integers(1, 16_384), st.integers(1, 16_384)),
    st.sampled_from(["rgb", "bgr"]),
    st.sampled_from(["nchw", "nhwc"]),
    st.tuples(floats, floats, floats),
    st.tuples(*[st.floats(1e-6, 1e6)] * 3),
)
def test_documents_are_read_back(size, colour, layout, mean, std):
    made = Preprocessing(size=size, colour=colour, layout=layout, mean=mean, std=std)
    document = made.to_document()
    carried = json.loads(json.dumps(document))
    assert Preprocessing.from_document(carried) == made
    assert carried == document
    assert Preprocessing.from_document(carried).to_document() == document


def test_form_of_a_document():
    assert Preprocessing(size=(224, 320), mean=(1, -0.0, 0.1), std=(58.395, 1, 1)).to_document() == {
        "alpha": ALPHA,
        "colour": "rgb",
        "layout": "nchw",
        "mean": ["1.0", "0.0", "0.1"],
        "resampler": RESAMPLER,
        "size": [224, 320],
        "std": ["58.395", "1.0", "1.0"],
    }
    assert RESAMPLER == "pillow-bilinear-antialiased/1"
    assert ALPHA == "over-mean/1"


def test_what_comes_after_the_network_is_named_only_where_it_is_wanted():
    given = np.array([[3, 4], [0, 0]], np.float32)
    plain, normalised = Preprocessing(size=(2, 2)), Preprocessing(size=(2, 2), normalise=True)
    assert "normalise" not in plain.to_document()
    assert normalised.to_document() == plain.to_document() | {"normalise": True}
    assert Preprocessing.from_document(normalised.to_document()) == normalised
    assert plain.finish(given) is given
    np.testing.assert_allclose(normalised.finish(given), [[0.6, 0.8], [0, 0]])
    for other in (1, 0, "true", None):
        with pytest.raises(ValueError, match="normalise to be true or false"):
            Preprocessing.from_document(plain.to_document() | {"normalise": other})
    with pytest.raises(ValueError, match="canonical form"):
        Preprocessing.from_document(plain.to_document() | {"normalise": False})


def test_a_document_of_earlier_versions_is_read():
    document = Preprocessing(size=(2, 2)).to_document() | {"alpha": "over-black/1"}
    assert Preprocessing.from_document(document).to_document() == document


@pytest.mark.parametrize(
    "change",
    [
        {"mean": ["1", "0.0", "0.1"]},
        {"mean": ["nan", "0.0", "0.1"]},
        {"mean": [1.0, 0.0, 0.1]},
        {"mean": ["1.0", "0.0"]},
        {"std": ["0.0", "1.0", "1.0"]},
        {"std": ["x", "1.0", "1.0"]},
        {"size": [224]},
        {"size": [224, True]},
        {"size": [224, 3.0]},
        {"size": "ab"},
        {"size": 3},
        {"colour": "gbr"},
        {"colour": ["rgb"]},
        {"resampler": "pillow-bicubic/1"},
        {"alpha": "over-white/1"},
        {"more": 1},
        {"layout": None},
    ],
)
def test_other_documents_are_refused(change):
    document = Preprocessing(size=(224, 320)).to_document() | change
    with pytest.raises(ValueError, match="expected"):
        Preprocessing.from_document(document)
    del document["size"]
    with pytest.raises(ValueError, match="expected"):
        Preprocessing.from_document(document)


@pytest.mark.parametrize(
    "change",
    [
        {"size": (0, 4)},
        {"size": (4, 20_000)},
        {"std": (1, 1e-60, 1)},
        {"mean": (1, float("inf"), 1)},
        {"mean": (1, 2)},
    ],
)
def test_invalid_parameters_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        Preprocessing(**({"size": (4, 4)} | change))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="expected a picture"):
        Preprocessing(size=(4, 4)).apply(image)


def resampled_axis(image, count):
    """Resample the rows of an image, by the words of `docs/images.md`."""
    length = len(image)
    scale, out = length / count, np.empty((count, *image.shape[1:]), np.uint8)
    wide = max(scale, 1.0)
    for row in range(count):
        centre = (row + 0.5) * scale
        first, end = max(0, int(centre - wide + 0.5)), min(length, int(centre + wide + 0.5))
        weights = [max(0.0, 1 - abs((at - centre + 0.5) * (1 / wide))) for at in range(first, end)]
        total = functools.reduce(operator.add, weights)
        whole = np.array([int(0.5 + weight / total * (1 << 22)) for weight in weights])
        sums = np.tensordot(whole, image[first:end].astype(np.int64), 1)
        out[row] = np.clip((1 << 21) + sums >> 22, 0, 255)
    return out


@pytest.mark.parametrize("seed", range(4))
def test_the_resampler_is_what_the_documents_say_in_any_version_of_pillow(seed):
    """Among the sizes are some that Pillow from 13 on resamples along the columns first."""
    random, columns_first = np.random.default_rng(seed), 0
    for _ in range(25):
        height, width, new_height, new_width = random.integers(1, 70, 4).tolist()
        columns_first += height - new_height > max(0, 2 * (width - new_width))
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        across = (
            image
            if width == new_width
            else resampled_axis(image.transpose(1, 0, 2), new_width).transpose(1, 0, 2)
        )
        expected = across if height == new_height else resampled_axis(across, new_height)
        assert (resample(image, (new_height, new_width)) == expected).all()
    assert columns_first > 3
