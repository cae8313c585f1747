"""The embedded descriptor: pinned bytes, no influence between rows, no heading, and no file but its own."""

import hashlib
import io
import math
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline.builtin_model import graph as place_graph
from pipeline.builtin_model import place
from pipeline.errors import CompileError, ErrorKind
from tests.child_python import run_python
from tests.examples_tried import examples, mostly_deep
from tests.place_training import encode_whitening, feature_model
from tests.terrain_views import CONDITIONS, random_view
from tools.demo.terrain import terrain, view

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def session(model, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def model():
    return place.place_model()


@pytest.fixture(scope="module")
def network(model):
    return session(model)


@pytest.fixture(scope="module")
def mosaic():
    return terrain(2048, 11)


@pytest.fixture(scope="module")
def tiles(mosaic):
    cut = [mosaic[y : y + 256, x : x + 256] for y in range(256, 1792, 256) for x in range(256, 1792, 256)]
    return np.stack(cut)


@pytest.fixture(scope="module")
def rows(network, tiles):
    """The vectors of the tiles, embedded in batches of 8. Never change them."""
    return embed(network, tiles)


def embed(network, pictures, batch=8):
    samples = np.stack(list(pictures)).transpose(0, 3, 1, 2).astype(np.float32)
    rows = [network.run(None, {"input": samples[i : i + batch]})[0] for i in range(0, len(samples), batch)]
    return np.concatenate(rows)


class TestModel:
    def test_bytes_are_the_pinned_ones_every_time(self, model):
        assert hashlib.sha256(model).hexdigest() == place.PLACE_MODEL_SHA256
        assert place.place_model() == model

    def test_another_process_with_other_hashing_makes_the_same_bytes(self, model):
        program = "import hashlib,pipeline.builtin_model.place as p; print(hashlib.sha256(p.place_model()).hexdigest())"
        made = run_python(program, env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)})
        assert made.stdout.strip() == hashlib.sha256(model).hexdigest()

    def test_the_interface_is_the_promised_one(self, network):
        (given_input,), (output,) = network.get_inputs(), network.get_outputs()
        assert (given_input.name, given_input.type, given_input.shape) == (
            place.PLACE_INPUT,
            "tensor(float)",
            ["N", 3, *place.PLACE_SIZE],
        )
        assert (output.name, output.type, output.shape) == (
            place.PLACE_OUTPUT,
            "tensor(float)",
            ["N", place.PLACE_DIMENSIONS],
        )

    def test_only_operators_that_every_backend_has(self, model):
        import onnx

        graph = onnx.load_from_string(model)
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]
        assert {node.op_type for node in graph.graph.node} <= {
            *(
                "Add",
                "AveragePool",
                "Concat",
                "Conv",
                "Div",
                "Flatten",
                "Gather",
                "Identity",
                "MatMul",
                "Mul",
            ),
            *("ReduceSum", "Reshape", "Resize", "Slice", "Sqrt", "Sub"),
        }
        floats = [onnx.numpy_helper.to_array(table) for table in graph.graph.initializer]
        assert all(np.isfinite(table).all() for table in floats)

    def test_last_bit_differences_of_the_tables_change_no_byte(self, model, monkeypatch):
        exact = place_graph._round_to_binary_fractions
        whitening = place.decode_whitening(place._WHITENING.read_bytes())
        for away in (-np.inf, np.inf):
            monkeypatch.setattr(
                place_graph,
                "_round_to_binary_fractions",
                lambda values, away=away: exact(np.nextafter(values, away)),
            )
            assert place_graph.serialised_network(whitening.mean, whitening.projection) == model

    @given(
        hnp.arrays(
            np.float64,
            hnp.array_shapes(max_dims=2, max_side=6),
            elements=st.floats(-4, 4),
        ).filter(lambda values: np.abs(values).max() > 1e-6)
    )
    def test_rounded_tables_are_exact_in_float32_and_close(self, values):
        rounded = place_graph._round_to_binary_fractions(values)
        largest = np.abs(values).max()
        assert np.abs(rounded - values).max() <= largest * 2.0**-19
        grid = 2.0 ** (math.frexp(largest)[1] - 20)
        assert np.all(rounded / grid == np.rint(rounded / grid))
        assert not np.signbit(rounded[rounded == 0]).any()


class TestRows:
    def test_unit_length(self, rows):
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5

    @pytest.mark.parametrize("batch", mostly_deep((1, 2, 3, 8, 32), 1, 3))
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_row_is_bit_identical_whatever_the_batch_and_threads(self, model, tiles, rows, batch, threads):
        assert np.array_equal(embed(session(model, threads), tiles[:32], batch=batch), rows[:32])

    def test_a_row_is_bit_identical_whatever_its_neighbours_and_padding(self, network, tiles):
        expected = embed(network, tiles[:5], batch=5)
        zeros = np.zeros_like(tiles[:3])
        assert np.array_equal(embed(network, np.concatenate([tiles[:5], zeros]))[:5], expected)
        assert np.array_equal(embed(network, np.concatenate([zeros, tiles[:5]]))[3:], expected)
        assert np.array_equal(embed(network, tiles[4::-1], batch=5)[::-1], expected)

    def test_featureless_and_wild_tiles_give_finite_unit_rows(self, network):
        rng = np.random.default_rng(1)
        checks = np.indices((256, 256)).sum(0) % 2 * 255
        pictures = [
            *(np.full((256, 256, 3), level) for level in (0, 1, 128, 255)),
            np.stack([checks] * 3, -1),
            np.where(np.arange(256)[:, None, None] < 128, 0, 255) * np.ones((256, 256, 3)),
            rng.integers(0, 256, (256, 256, 3)),
            np.eye(256)[..., None] * np.full(3, 255),
        ]
        rows = embed(network, pictures)
        assert np.isfinite(rows).all()
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5

    @settings(max_examples=examples(15), deadline=None)
    @given(st.integers(0, 2**32), st.floats(0, 255), st.floats(0, 60))
    def test_noise_of_any_strength_gives_finite_unit_rows(self, network, seed, level, strength):
        noise = np.random.default_rng(seed).normal(level, strength, (1, 256, 256, 3))
        row = embed(network, np.clip(noise, 0, 255))
        assert np.isfinite(row).all()
        assert abs(np.linalg.norm(row) - 1) < 1e-5


class TestPlaces:
    def test_a_turned_picture_resembles_its_tile_far_more_than_any_other(self, network, mosaic, rows):
        for turn in range(0, 360, 15):
            seen = embed(network, [view(mosaic, (384, 384), heading_deg=turn, rng=np.random.default_rng(0))])
            scores = (seen @ rows[:6].T)[0]
            assert scores[0] > 0.8
            assert scores[1:].max() < 0.5

    def test_light_is_no_matter(self, network, tiles, rows):
        dark = 20 + tiles[:8].astype(np.float32) * 0.5
        alike = (rows[:8] * embed(network, dark)).sum(1)
        assert alike.min() > 0.95

    @pytest.mark.parametrize(
        ("kind", "least"),
        mostly_deep([("nominal", 0.97), ("hard", 0.85), ("rot360", 0.97), ("hard360", 0.85)], "hard360"),
    )
    def test_recall(self, network, mosaic, rows, kind, least):
        rng = np.random.default_rng(3)
        centres = [(x + 128, y + 128) for y in range(256, 1792, 256) for x in range(256, 1792, 256)]
        seen = embed(network, [random_view(mosaic, place_, CONDITIONS[kind], rng=rng) for place_ in centres])
        assert np.mean((seen @ rows.T).argmax(1) == np.arange(len(rows))) >= least

    def test_whitening_beats_the_bare_features(self, network, mosaic, tiles):
        rng = np.random.default_rng(4)
        bare = session(feature_model())
        centres = [(x + 128, y + 128) for y in range(256, 1792, 256) for x in range(256, 1792, 256)]
        pictures = [random_view(mosaic, place_, CONDITIONS["hard360"], rng=rng) for place_ in centres]

        def margin(net):
            rows, seen = (embed(net, group) for group in (tiles, pictures))
            rows, seen = (group / np.linalg.norm(group, axis=1, keepdims=True) for group in (rows, seen))
            scores = seen @ rows.T
            own = scores.diagonal().copy()
            np.fill_diagonal(scores, -1)
            return np.mean(own - scores.max(1))

        assert margin(network) > 2 * margin(bare)


class TestDataFile:
    def test_the_shipped_file_is_the_pinned_one(self):
        data = place._WHITENING.read_bytes()
        assert hashlib.sha256(data).hexdigest() == place.PLACE_WHITENING_SHA256
        whitening = place.decode_whitening(data)
        assert whitening.projection.shape == (place.PLACE_FEATURES, place.PLACE_DIMENSIONS)
        assert encode_whitening(whitening) == data

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-1],
            lambda data: data + b"\0",
            lambda _: b"",
            lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        ],
    )
    def test_a_changed_file_is_refused_with_both_digests(self, tmp_path, monkeypatch, damage):
        file = tmp_path / "whitening.bin"
        changed = damage(place._WHITENING.read_bytes())
        file.write_bytes(changed)
        monkeypatch.setattr(place, "_WHITENING", file)
        with pytest.raises(CompileError, match=place.PLACE_WHITENING_SHA256) as caught:
            place.place_model()
        assert hashlib.sha256(changed).hexdigest() in str(caught.value)
        assert caught.value.kind is ErrorKind.BAD_MODEL

    def test_a_missing_file_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(place, "_WHITENING", tmp_path / "absent.bin")
        with pytest.raises(CompileError, match=r"absent\.bin") as caught:
            place.place_model()
        assert caught.value.kind is ErrorKind.BAD_MODEL

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", "begins with"),
            (b"PNG" + bytes(80), "begins with"),
            (struct.pack("<8sIII44x", b"C10WHITE", 2, 3, 2), "found 2"),
            (struct.pack("<8sIII44x", b"C10WHITE", 1, 3, 2) + bytes(23), "expected 88 bytes .* found 87"),
            (struct.pack("<8sIII44x", b"C10WHITE", 1, 2**31, 2**31), "found 64"),
            (struct.pack("<8sIII44xfe", b"C10WHITE", 1, 1, 1, math.nan, 1.0), "finite"),
            (struct.pack("<8sIII44xfe", b"C10WHITE", 1, 1, 1, 1.0, math.inf), "finite"),
        ],
    )
    def test_bytes_that_are_no_whitening_are_refused(self, data, text):
        with pytest.raises(CompileError, match=text):
            place.decode_whitening(data)

    @given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
    def test_a_whitening_survives_the_round_trip(self, features, dimensions, seed):
        rng = np.random.default_rng(seed)
        given_ = place.Whitening(
            mean=rng.standard_normal(features).astype(np.float32),
            projection=rng.standard_normal((features, dimensions)).astype(np.float16),
        )
        back = place.decode_whitening(encode_whitening(given_))
        assert np.array_equal(back.mean, given_.mean)
        assert np.array_equal(back.projection, given_.projection)

    def test_a_model_of_other_bytes_is_refused(self, monkeypatch):
        monkeypatch.setattr(place_graph, "_CONTRAST_FLOOR", 0.02)
        with pytest.raises(CompileError, match=place.PLACE_MODEL_SHA256):
            place.place_model()


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CompileError, match="pip install") as caught:
        place.place_model()
    assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE


def test_importing_needs_neither_onnx_nor_a_runtime():
    program = (
        "import sys,pipeline.builtin_model.place; print(sorted({'onnx','onnxruntime'} & set(sys.modules)))"
    )
    done = run_python(program, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.strip() == "[]"


class TestBlankShare:
    @pytest.mark.parametrize("side", mostly_deep((128, 256, 500, 1024), 128, 500))
    @pytest.mark.parametrize("colour", [0, 255])
    @pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
    def test_a_black_or_white_collar_counts_at_every_size(self, side, colour, form, mosaic):
        pixels = np.array(Image.fromarray(mosaic[:256, :256]).resize((side, side)))
        assert place.blank_share(pixels) == 0
        pixels[:, : side // 2] = colour
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form, quality=75)
        assert place.blank_share(np.asarray(Image.open(file).convert("RGB"))) == pytest.approx(
            0.47, abs=0.035
        )

    def test_ground_has_none(self, tiles):
        assert max(map(place.blank_share, tiles)) == 0

    def test_white_paper_between_the_lines_of_a_map_does_not_count(self):
        paper = np.full((256, 256, 3), 255, np.uint8)
        paper[::9, :, 1:] = 90
        assert place.blank_share(paper) == 0
        assert place.blank_share(np.full((15, 15, 3), 255, np.uint8)) == 0
