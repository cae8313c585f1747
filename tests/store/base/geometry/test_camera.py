import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.geometry import sampling as module
from store.base.geometry.camera import Camera, Distortion, cut_square, level_sides_m

DOCUMENT = {"width": 1000, "height": 562, "fx": 755.9, "fy": 755.9, "cx": 500, "cy": 281.0}
MINI = Camera(1000, 562, 755.9, 755.9, 500, 281)
PINHOLE_8 = Distortion("opencv", (-0.28, 0.07, 0.001, -0.002, 0.01, 0.1, -0.02, 0.003))
FISHEYE = Distortion("fisheye", (-0.02, 0.005, -0.003, 0.0007))


def waves(height, width):
    """Return a smooth picture without any symmetry."""
    rows, columns = np.mgrid[0:height, 0:width]
    bands = (rows / 17 + columns / 29, rows / 23 - columns / 13, (rows + 40) * (columns + 60) / 4000)
    return np.stack([127 + 120 * np.sin(band) for band in bands], axis=-1).astype(np.uint8)


def at(picture, x, y):
    """Interpolate bilinearly, mirrored at the edges, in doubles; pixel middles are whole numbers."""

    def pixel(row, column):
        turned = [index % (2 * count) for index, count in zip((row, column), picture.shape[:2], strict=True)]
        return picture[
            tuple(
                np.minimum(index, 2 * count - 1 - index)
                for index, count in zip(turned, picture.shape[:2], strict=True)
            )
        ].astype(float)

    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = pixel(top, left) * (1 - u) + pixel(top, left + 1) * u
    return upper * (1 - v) + (pixel(top + 1, left) * (1 - u) + pixel(top + 1, left + 1) * u) * v


def test_a_calibration_is_read():
    assert Camera.from_document(DOCUMENT | {"model": "any", "serial": [1]}) == MINI
    assert Camera.from_document(DOCUMENT | {"distortion": None}) == MINI
    for model, count in (("opencv", 4), ("opencv", 5), ("opencv", 8), ("fisheye", 4)):
        lens = {"model": model, "coefficients": [0, *[0.5] * (count - 1)], "more": 1}
        found = Camera.from_document(DOCUMENT | {"distortion": lens})
        assert found.distortion == Distortion(model, (0.0, *[0.5] * (count - 1)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("width", "height") for value in (None, 0, -1, 1.5, True, "9", 1 << 16)),
        *(
            (key, value)
            for key in ("fx", "fy")
            for value in (None, 0, -3.0, 1e-300, 1e200, math.nan, math.inf, "9", True, [], [10**5000])
        ),
        *((key, value) for key in ("cx", "cy") for value in (None, -0.1, 1000.5, math.nan, 10**400, {})),
        *(
            ("distortion", value)
            for value in (5, [], {}, {"coefficients": [0] * 4}, {"model": []}, {"model": "x"})
        ),
    ],
)
def test_an_error_in_a_calibration_names_the_key(key, value):
    document = DOCUMENT | {key: value}
    with pytest.raises(ValueError, match=f'"{key}"'):
        Camera.from_document(document)
    if value is None:
        del document[key]
        with pytest.raises(ValueError, match=f'"{key}"'):
            Camera.from_document(document)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("opencv", [0] * 3),
        ("opencv", [0] * 6),
        ("opencv", [0, 0, 0, "0"]),
        ("opencv", [0, 0, 0, math.nan]),
        ("opencv", None),
        ("opencv", "0000"),
        ("fisheye", [0] * 5),
        ("fisheye", [0, 0, 0, 0, None]),
        ("opencv", [10**5000, 0, 0, 0]),
    ],
)
def test_coefficients_that_a_model_does_not_have(model, values):
    with pytest.raises(ValueError, match=r'"distortion\.coefficients"'):
        Camera.from_document(DOCUMENT | {"distortion": {"model": model, "coefficients": values}})


USELESS = {
    "a coefficient of no lens": ("opencv", (1e200, 0, 0, 0)),
    "float32 overflows": ("opencv", (0, 0, 0, 0, -3e38)),
    "no number": ("opencv", (0, 0, 0, 0, 1e299, 0, 0, -1e299)),
    "far away": ("opencv", (0, 0, 1e7, 0)),
    "fisheye": ("fisheye", (0, -1e200, 0, 1e200)),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_lens_that_shows_its_frame_nowhere_is_refused(name):
    model, values = USELESS[name]
    with pytest.raises(ValueError, match=r'"distortion\.coefficients": expected a lens'):
        Camera.from_document(DOCUMENT | {"distortion": {"model": model, "coefficients": list(values)}})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", USELESS)
@pytest.mark.parametrize("side", [10, 5000])
def test_what_a_lens_shows_nowhere_is_some_pixel(name, side):
    frame = np.full((562, 1000, 3), 255, np.uint8)
    camera = Camera(1000, 562, 755.9, 755.9, 500, 281, Distortion(*USELESS[name]))
    assert (cut(frame, side, 12.0, (30, 20), camera=camera) == 255).all()


@pytest.mark.filterwarnings("error")
def test_a_lens_that_divides_by_0_outside_of_its_frame():
    # 1 - squared / 4 is 0 at two focal lengths from the axis; the frame ends at one.
    lens = {"model": "opencv", "coefficients": [0, 0, 0, 0, 0, -0.25, 0, 0]}
    document = {"width": 201, "height": 201, "fx": 100, "fy": 100, "cx": 100, "cy": 100, "distortion": lens}
    frame = np.full((201, 201, 3), 255, np.uint8)
    found = cut(frame, 402, 0.0, (201, 201), camera=Camera.from_document(document))
    assert (found == 255).all()


def test_ground_and_wanted_side():
    small, large = MINI.ground_seen(120)
    assert (small, large) == pytest.approx((89.22, 158.75), abs=0.01)
    assert MINI.wanted_side_m(120) == pytest.approx(119.01, abs=0.01)
    upright = Camera(562, 1000, 755.9, 755.9, 281, 500)
    assert upright.ground_seen(120) == pytest.approx((small, large))
    # A frame twice as wide as high would have more than a quarter of the square mirrored.
    assert Camera(1000, 500, 500, 500, 500, 250).wanted_side_m(100) == pytest.approx(135)


@given(st.floats(1, 5000), st.floats(1, 200))
def test_levels_of_a_range_of_altitudes(lowest, span):
    highest = lowest * span
    sides = level_sides_m(lowest, highest, MINI)
    wanted = MINI.wanted_side_m(highest)
    assert sides[0] == MINI.wanted_side_m(lowest)
    assert all(1 < after / before <= 1.25 + 1e-9 for before, after in pairwise(sides))
    assert wanted / 1.12 <= sides[-1] * (1 + 1e-8)
    assert sides[-1] <= wanted * 1.12
    # One level less would not do.
    assert len(sides) == 1 or sides[0] * 1.25 ** (len(sides) - 2) < wanted / 1.12


def test_the_fewest_levels():
    assert len(level_sides_m(120, 120, MINI)) == 1
    assert len(level_sides_m(100, 112, MINI)) == 1
    assert len(level_sides_m(100, 113, MINI)) == 2
    assert len(level_sides_m(100, 140, MINI)) == 2
    assert len(level_sides_m(100, 140.1, MINI)) == 3


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_altitudes_that_cannot_be(lowest, highest):
    with pytest.raises(ValueError, match="the lowest first"):
        level_sides_m(lowest, highest, MINI)


def test_frames_of_another_size_and_the_same_aspect():
    lens = Camera(1000, 562, 755.9, 700, 500, 281, FISHEYE)
    assert lens.scaled_to(1000, 562) is lens
    half = lens.scaled_to(500, 281)
    assert (half.width, half.height, half.fx, half.fy, half.distortion) == (500, 281, 377.95, 350, FISHEYE)
    # The corner of the frame stays its corner.
    assert (half.cx + 0.5, half.cy + 0.5) == (250.25, 140.75)
    assert lens.scaled_to(4000, 2250).fy == pytest.approx(700 * 2250 / 562)
    for size in ((562, 1000), (1000, 750), (1000, 570), (1000, 562 + 3)):
        with pytest.raises(ValueError, match="1000 x 562 pixels, found"):
            lens.scaled_to(*size)


@pytest.mark.parametrize(
    ("lens", "expected"),
    [  # as OpenCV's initUndistortRectifyMap computes them
        (
            Distortion("opencv", (-0.28, 0.07, 0.001, -0.002)),
            [(64.41081238, 48.14912415), (560.54486084, 119.37347412), (319.93124390, 457.21466064)],
        ),
        (
            Distortion("opencv", (-0.28, 0.07, 0.001, -0.002, 0.01)),
            [(61.56649780, 46.06549835), (561.06225586, 119.11944580), (319.93008423, 457.32727051)],
        ),
        (PINHOLE_8, [(80.82315826, 60.17211914), (549.38299561, 124.85385132), (320.00369263, 450.17828369)]),
        (FISHEYE, [(70.04496765, 51.31201172), (558.29553223, 120.47652435), (320.26019287, 453.73645020)]),
    ],
)
def test_undistortion_as_opencv_computes_it(lens, expected):
    x, y = Camera(640, 480, 410.0, 405.0, 322.5, 236.25, lens).undistort_map()
    assert x.shape == y.shape == (480, 640)
    found = [(x[row, column], y[row, column]) for row, column in ((0, 0), (100, 600), (479, 320))]
    assert np.array(found) == pytest.approx(np.array(expected), abs=2e-4)


def test_the_principal_point_stays():
    for lens in (None, PINHOLE_8, FISHEYE):
        x, y = Camera(64, 48, 41.0, 40.0, 30, 20, lens).undistort_map()
        assert (x[20, 30], y[20, 30]) == (30, 20)


@pytest.mark.parametrize("lens", [PINHOLE_8, FISHEYE, Distortion("opencv", (0.3, 0, 0, 0))])
def test_a_frame_is_undistorted(lens):
    frame = waves(150, 200)
    found = Camera(400, 300, 300, 300, 210, 140, lens).undistort(frame)
    expected = at(frame, *Camera(200, 150, 150, 150, 104.75, 69.75, lens).undistort_map())
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 3
    assert np.abs(found - expected).mean() <= 0.5


def test_a_pinhole_leaves_a_frame_alone():
    frame = waves(562, 1000)
    assert MINI.undistort(frame) is frame
    with pytest.raises(ValueError, match="aspect"):
        MINI.undistort(frame[:400])


def cut(frame, side, heading=0.0, size=None, **more):
    asked = {
        "metres_per_pixel": 1.0,
        "side_m": float(side),
        "heading_deg": heading,
        "size": size or (side, side),
    }
    return cut_square(frame, **asked | more)


def test_a_square_at_the_scale_of_the_frame_is_its_middle():
    frame = waves(60, 100)
    assert (cut(frame, 40) == frame[10:50, 30:70]).all()
    assert (cut(frame, 40, away_m=(-7, 3)) == frame[13:53, 23:63]).all()
    assert (cut(frame, 40, camera=Camera(100, 60, 80, 80, 52.5, 26.5)) == frame[7:47, 33:73]).all()


@pytest.mark.parametrize("heading", [0, 90, 180, 270, 360, -90])
def test_the_upper_edge_of_a_frame_is_turned_to_its_heading(heading):
    frame = waves(60, 100)
    # Upper edge to the east: the frame is turned clockwise.
    assert (cut(frame, 40, heading) == np.rot90(frame[10:50, 30:70], -heading // 90)).all()


def test_what_the_frame_does_not_show_is_mirrored():
    frame = waves(30, 50)
    for side, above, left in ((60, 15, 5), (200, 85, 75)):
        padded = np.pad(frame, ((above, above), (left, left), (0, 0)), mode="symmetric")
        assert (cut(frame, side) == padded).all()
    assert (cut(frame, 30, away_m=(300, 0)) == frame[:, 10:40]).all()


@given(
    st.floats(-400, 400),
    st.floats(5, 59),
    st.tuples(st.integers(20, 50), st.integers(20, 50)),
    st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    st.sampled_from([1, 300, 16_384]),
)
def test_any_square(heading, side, size, away, at_once):
    frame, turn = waves(45, 70), math.radians(heading)
    lens = Camera(70, 45, 60, 66, 33, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        found = cut(frame, side, heading, size, metres_per_pixel=2.0, camera=lens, away_m=away)
    south, east = ((np.arange(count) + 0.5) / count * side - side / 2 for count in size)
    south, east = np.meshgrid(south, east, indexing="ij")
    x = 33 + (east * math.cos(turn) + south * math.sin(turn) + away[0]) / 2
    y = 24 + (south * math.cos(turn) - east * math.sin(turn) + away[1]) / 2 * 66 / 60
    expected = at(frame, x, y)
    assert found.shape == (*size, 3)
    # A thirty-second of a pixel, and the rounding.
    assert np.abs(found - expected).max() <= 1.5


def test_a_finer_frame_is_averaged_and_not_sampled():
    noise = np.random.default_rng(3).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    means = noise[:, 30:150].reshape(24, 5, 24, 5, 3).mean(axis=(1, 3))
    assert np.abs(cut(noise, 120, size=(24, 24)) - means).max() <= 1
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[::2] = 255
    for heading in (0, 17):
        for size in (160, 110, 60, 20):
            inner = cut(stripes, 300, heading, (size, size)).astype(float)
            # Of five lines, two or three are white; the stripes themselves deviate by 127.
            assert inner.std() < (75 if size == 160 else 30)


def test_frames_smaller_than_what_is_averaged():
    for height, width in ((1, 1), (2, 9), (9, 2), (3, 5)):
        frame = np.full((height, width, 3), 77, np.uint8)
        assert (cut(frame, 500, 33.0, (4, 4)) == 77).all()
        assert (cut(frame, 40, 33.0, (8, 8), metres_per_pixel=0.01) == 77).all()


def test_a_white_frame_stays_white():
    frame = np.full((50, 80, 3), 255, np.uint8)
    for side in (10, 33, 300):
        assert (cut(frame, side, 12.0, (30, 20)) == 255).all()


@pytest.mark.parametrize("lens", [PINHOLE_8, FISHEYE])
def test_what_is_cut_is_undistorted(lens):
    frame = waves(300, 400)
    camera = Camera(800, 600, 500, 500, 410, 290, lens)
    expected = cut(camera.undistort(frame), 200, 25.0, camera=Camera(800, 600, 500, 500, 410, 290))
    found = cut(frame, 200, 25.0, camera=camera)
    assert np.abs(found.astype(int) - expected).mean() <= 1
    plain = cut(frame, 200, 25.0, camera=Camera(800, 600, 500, 500, 410, 290))
    assert np.abs(found.astype(int) - plain).mean() > 10
