"""The landscape: the same from the same seed, mostly distinguishable, and seen rightly by the camera."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.base.texture import FEATURELESS_BELOW, texture_energy
from tests.examples_tried import examples
from tests.terrain_views import CONDITIONS, random_view
from tools.demo.terrain import terrain, view
from tools.demo.terrain_ground import Look


@pytest.fixture(scope="module")
def landscape():
    return terrain(1024, 3)


@pytest.fixture(scope="module")
def another_landscape():
    return terrain(1024, 4)


def rng():
    return np.random.default_rng(5)


def grey_difference(a, b):
    return np.abs(a.astype(np.float64).mean(2) - b.astype(np.float64).mean(2)).mean()


@pytest.mark.parametrize("size", [64, 100, 257, 1024])
def test_pixels_have_the_promised_shape_and_are_not_flat(size):
    pixels = terrain(size, 1)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 5


def test_one_seed_gives_one_landscape_and_another_seed_another(landscape, another_landscape):
    assert np.array_equal(landscape, terrain(1024, 3))
    assert grey_difference(landscape, another_landscape) > 5


def test_the_layout_does_not_depend_on_numpy_s_global_random_state():
    first = terrain(128, 9)
    np.random.seed(1)  # noqa: NPY002  (the point: it must not matter)
    assert np.array_equal(first, terrain(128, 9))


@pytest.mark.parametrize(("size", "seed", "text"), [(63, 0, "found 63"), (64, -1, "found -1")])
def test_bad_arguments_are_named(size, seed, text):
    with pytest.raises(ValueError, match=text):
        terrain(size, seed)


def test_most_tiles_can_be_told_apart_and_calm_water_cannot(landscape, another_landscape):
    energies = [
        texture_energy(mosaic[y : y + 128, x : x + 128])
        for mosaic in (landscape, another_landscape)
        for y in range(0, 1024, 128)
        for x in range(0, 1024, 128)
    ]
    featureless = np.mean(np.array(energies) < FEATURELESS_BELOW)
    assert 0 < featureless < 0.2


def test_a_plain_view_is_the_tile_itself(landscape):
    seen = view(landscape, (384, 640), rng=rng())
    assert np.array_equal(seen, landscape[512:768, 256:512])


@pytest.mark.parametrize(("heading", "turns"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_quarter_turns_are_exact_to_one_grey_level_and_clockwise_camera_turns_the_picture_back(
    landscape, heading, turns
):
    seen = view(landscape, (384, 640), heading_deg=heading, rng=rng())
    expected = np.rot90(landscape[512:768, 256:512], turns)
    assert np.abs(seen.astype(int) - expected).max() <= 1


def test_scale_magnifies_the_middle(landscape):
    near = view(landscape, (512, 512), scale=2.0, rng=rng())
    wide = view(landscape, (512, 512), rng=rng())
    middle = wide[64:192, 64:192]
    assert grey_difference(near[::2, ::2], middle) < grey_difference(near[::2, ::2], wide[:128, :128]) / 2


def test_each_disturbance_does_what_it_says(landscape):
    plain = view(landscape, (512, 512), rng=rng()).astype(np.float64)

    def seen(**changes):
        return view(landscape, (512, 512), rng=rng(), **changes).astype(np.float64)

    assert seen(brightness=-40).mean() < plain.mean() - 30
    assert seen(contrast=0.6).std() == pytest.approx(plain.std() * 0.6, rel=0.05)
    assert np.abs(np.diff(seen(blur_px=2.5), axis=0)).mean() < np.abs(np.diff(plain, axis=0)).mean() / 2
    assert np.abs(seen(noise=10) - plain).mean() == pytest.approx(10 * np.sqrt(2 / np.pi), rel=0.1)
    assert seen(tint=(1.3, 1.0, 0.7))[..., 0].mean() > plain[..., 0].mean() * 1.2
    assert seen(vignette=0.5)[0, 0].sum() < plain[0, 0].sum() * 0.6
    assert seen(gamma=2.0).mean() < plain.mean()
    assert 0 < np.abs(seen(jpeg_quality=50) - plain).mean() < 12


def test_another_day_shows_the_same_place_in_other_crops_and_shadows(landscape, another_landscape):
    later = terrain(1024, 3, Look(shadows=(-1.6, 0.7), canopy=(104, 84, 44), crops=1))
    other = grey_difference(landscape, another_landscape)
    assert 3 < grey_difference(landscape, later) < other / 2
    assert np.array_equal(landscape, terrain(1024, 3, Look()))


def test_a_camera_has_an_aspect(landscape):
    square = view(landscape, (512, 500), heading_deg=30, scale=1.1, size=256, rng=rng())
    wide = view(landscape, (512, 500), heading_deg=30, scale=1.1, size=(256, 144), rng=rng())
    assert wide.shape == (144, 256, 3)
    assert np.abs(wide.astype(int) - square[56:200]).max() <= 1


@settings(max_examples=examples(25), deadline=None)
@given(
    centre=st.tuples(st.floats(-600, 1600), st.floats(-600, 1600)),
    kind=st.sampled_from(sorted(CONDITIONS)),
    seed=st.integers(0, 2**32),
    size=st.sampled_from([32, 64, 129]),
)
def test_any_view_even_beyond_the_border_is_a_picture_and_repeatable(landscape, centre, kind, seed, size):
    first, second = (
        random_view(landscape, centre, CONDITIONS[kind], size=size, rng=np.random.default_rng(seed))
        for _ in range(2)
    )
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
