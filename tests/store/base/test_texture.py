"""The texture of pictures: ground has it, blank tiles do not, at every size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from store.base import texture
from tools.demo.terrain import terrain


@pytest.fixture(scope="module")
def mosaic():
    return terrain(2048, 11)


@pytest.fixture(scope="module")
def tiles(mosaic):
    cut = [mosaic[y : y + 256, x : x + 256] for y in range(256, 1792, 256) for x in range(256, 1792, 256)]
    return np.stack(cut)


def plain_texture(rgb):
    """The texture as it is defined, mean by mean and cell by cell."""
    height, width = rgb.shape[:2]
    down, across = -(-height // 64), -(-width // 64)
    rows = np.arange(64 * down) * height // (64 * down)
    columns = np.arange(64 * across) * width // (64 * across)
    grey = rgb[rows][:, columns].astype(np.int64) @ [1, 2, 1]
    sums = grey.reshape(64, down, 64, across).sum((1, 3)).astype(np.float32)
    means = sums / np.float32(4 * down * across)
    deviations = []
    for y in range(0, 64, 8):
        for x in range(0, 64, 8):
            cell = sorted(means[y : y + 8, x : x + 8].ravel())
            deviations += [abs(each - cell[32]) for each in cell]
    return float(sorted(deviations)[round(64 * 64 * (1 - texture.TEXTURED_GROUND))]) / 1.53


class TestTexture:
    @pytest.mark.parametrize("level", [0, 77, 255])
    def test_a_uniform_tile_has_none(self, level):
        assert texture.texture_energy(np.full((256, 256, 3), level, dtype=np.uint8)) == 0

    def test_sensor_noise_and_slow_gradients_stay_below_the_threshold(self):
        rng = np.random.default_rng(2)
        noisy = np.clip(np.rint(90 + rng.normal(0, 6, (256, 256, 3))), 0, 255).astype(np.uint8)
        ramp = np.broadcast_to(np.linspace(80, 120, 256)[None, :, None], (256, 256, 3)).astype(np.uint8)
        assert texture.texture_energy(noisy) < texture.FEATURELESS_BELOW
        assert texture.texture_energy(ramp) < texture.FEATURELESS_BELOW

    def test_ground_lies_well_above_the_threshold(self, tiles):
        assert min(map(texture.texture_energy, tiles)) > 2 * texture.FEATURELESS_BELOW

    @pytest.mark.parametrize("side", [128, 200, 512, 1024])
    def test_the_same_ground_scores_the_same_at_every_size(self, side, mosaic):
        ground = Image.fromarray(mosaic[:256, :256])
        other = np.asarray(ground.resize((side, side), Image.Resampling.BICUBIC))
        assert texture.texture_energy(other) == pytest.approx(
            texture.texture_energy(np.asarray(ground)), rel=0.1
        )

    @pytest.mark.parametrize(
        "shown",
        [np.s_[:26, :26], np.s_[:, :26], np.s_[:, 100:101], np.s_[77:80], np.s_[96:160, 96:160]],
        ids=["corner", "strip", "seam", "thick seam", "logo"],
    )
    @pytest.mark.parametrize("blank", [0, 255])
    def test_a_tile_that_is_nearly_blank_is_featureless(self, shown, blank, tiles):
        pixels = np.full_like(tiles[0], blank)
        pixels[shown] = tiles[0][shown]
        assert texture.texture_energy(pixels) < texture.FEATURELESS_BELOW

    def test_a_tile_that_is_half_ground_is_not(self, tiles):
        half = tiles[0].copy()
        half[:, 128:] = 60
        assert texture.texture_energy(half) > texture.FEATURELESS_BELOW

    @given(
        hnp.arrays(np.uint8, st.tuples(st.integers(1, 80), st.integers(1, 80), st.just(3))),
    )
    def test_any_picture_gives_a_finite_score(self, picture):
        score = texture.texture_energy(picture)
        assert 0 <= score <= 255

    @pytest.mark.parametrize("size", [(256, 256), (64, 192), (70, 300), (9, 30), (513, 640)])
    @pytest.mark.parametrize("darkest", [0, 250])
    def test_it_is_what_its_definition_says_also_from_the_sums_of_rows(self, size, darkest):
        picture = np.random.default_rng(4).integers(darkest, 256, (*size, 3), dtype=np.uint8)
        expected = plain_texture(picture)
        assert expected > 0
        assert texture.texture_energy(picture) == expected
        rows = picture.astype(texture.sums_type(*size))
        sums = np.concatenate([texture.grey_sums(rows[at : at + 1]) for at in range(len(rows))])
        assert sums.shape == (size[0], 64)
        assert texture.textures_of_sums(np.stack([sums, sums]), size[1]).tolist() == [expected, expected]

    def test_a_strided_view_scores_like_its_copy(self, mosaic):
        cut = mosaic[10:266, 30:286]
        assert texture.texture_energy(cut) == texture.texture_energy(cut.copy())

    @pytest.mark.parametrize("shape", [(256, 256), (256, 256, 4), (0, 0, 3)])
    def test_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match="expected pixels"):
            texture.texture_energy(np.zeros(shape, dtype=np.uint8))
