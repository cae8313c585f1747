"""The VLAD head as a graph: what it computes, for whom, and what it leaves alone."""

import numpy as np
import onnx
import pytest

from pipeline.engines.onnx.file import declaration_of
from pipeline.engines.onnx.vlad import Projection, add_flat_features, add_vlad
from pipeline.engines.precision.convert import convert, emulate
from pipeline.errors import CompileError
from tests.small_builds import local_network

onnxruntime = pytest.importorskip("onnxruntime")

WORDS, CHANNELS, DIMENSIONS = 5, 8, 12
TEMPERATURE = 0.02


def answers(model, output, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([output], {"input": images})[0]


def unit(values, axis):
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


def network(**options):
    return onnx.load_from_string(local_network(channels=CHANNELS, **options))


def tables(seed=0):
    rng = np.random.default_rng(seed)
    words = 0.9 * unit(rng.standard_normal((WORDS, CHANNELS)), 1)
    axes = np.linalg.qr(rng.standard_normal((WORDS * CHANNELS, DIMENSIONS)))[0].T
    mean = 0.05 * rng.standard_normal(WORDS * CHANNELS)
    return words.astype(np.float32), Projection(mean=mean.astype(np.float32), axes=axes.astype(np.float32))


def images(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32)).astype(np.float32)


def vlad(features, words):
    """The VLAD vector of local features, float64 [t, c], as a formula."""
    shares = np.exp(-((features[:, None] - words[None]) ** 2).sum(2) / 2 / TEMPERATURE)
    shares /= shares.sum(axis=1, keepdims=True)
    sums = np.stack(
        [
            sum(shares[t, k] * (features[t] - words[k]) for t in range(len(features)))
            for k in range(len(words))
        ]
    )
    return unit(unit(sums, 1).ravel(), 0)


@pytest.mark.parametrize("rank", [3, 4])
def test_the_graph_computes_the_formula(rank):
    words, projection = tables()
    local = answers(network(rank=rank), "local", images()).astype(np.float64)
    features = unit(local.reshape(3, CHANNELS, -1).swapaxes(1, 2) if rank == 4 else local, 2)
    expected = np.stack([vlad(each, words.astype(np.float64)) for each in features])
    model = network(rank=rank)
    output = add_vlad(model, "local", words, None)
    onnx.checker.check_model(model)
    np.testing.assert_allclose(answers(model, output, images()), expected, atol=1e-4)
    model = network(rank=rank)
    output = add_vlad(model, "local", words, projection)
    onnx.checker.check_model(model)
    projected = unit((expected - projection.mean) @ projection.axes.T.astype(np.float64), 1)
    np.testing.assert_allclose(answers(model, output, images()), projected, atol=1e-4)


@pytest.mark.parametrize("rank", [3, 4])
def test_flat_features_are_the_local_ones_one_after_the_other(rank):
    model = network(rank=rank)
    local = answers(model, "local", images())
    output = add_flat_features(model, "local", CHANNELS)
    found = answers(model, output, images()).reshape(3, -1, CHANNELS)
    expected = local.reshape(3, CHANNELS, -1).swapaxes(1, 2) if rank == 4 else local
    np.testing.assert_allclose(found, unit(expected, 2), atol=1e-4)


def test_the_head_is_the_only_output_and_says_how_long_it_is():
    model = network(flat=True)
    output = add_vlad(model, "local", *tables())
    assert output not in {"descriptor", "local"}, "the network has an inner tensor of the first name"
    signature = declaration_of(model).signature()
    assert (signature.output.name, signature.fixed_dimensions(), signature.fixed_batch()) == (
        output,
        12,
        None,
    )
    fixed = network(batch=4)
    add_vlad(fixed, "local", *tables())
    assert declaration_of(fixed).signature().output.shape == (4, DIMENSIONS)


def test_no_row_depends_on_its_neighbours():
    model = network()
    output = add_vlad(model, "local", *tables())
    together = answers(model, output, images(8))
    alone = np.concatenate([answers(model, output, each[None]) for each in images(8)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_array_equal(answers(model, output, images(8)[::-1].copy())[::-1], together)


def test_a_picture_without_anything_has_an_answer_without_nan():
    model = network()
    output = add_vlad(model, "local", *tables())
    assert np.isfinite(answers(model, output, np.zeros((1, 3, 32, 32), np.float32))).all()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_head_keeps_its_answers_in_16_bits(precision):
    model = network()
    output = add_vlad(model, "local", *tables())
    convert(model, precision)
    rounded = answers(emulate(model, precision), output, images(8))
    cosines = (rounded * answers(model, output, images(8))).sum(axis=1)
    assert cosines.min() > {"fp16": 0.9999, "bf16": 0.99}[precision]


def test_an_old_network_is_refused():
    with pytest.raises(CompileError, match="opset 13 or newer below a head, found 12"):
        add_flat_features(network(opset=12), "local", CHANNELS)
    with pytest.raises(CompileError, match="opset 13 or newer below a head, found 9"):
        add_vlad(network(opset=9), "local", *tables())
