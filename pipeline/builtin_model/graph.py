"""Make the network of `builtin:place`, node by node; `place` explains what it computes and why.

Tables come from formulas. They are rounded to coarse binary fractions, so that the bytes do not depend on the
last bit of a sine, which differs between machines. All operators are accepted by ONNX Runtime, OpenVINO and
TensorRT, and none mixes the pictures of a batch.
"""

import math
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import CompileError, ErrorKind

Table = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

SIDE: Final = 256
INPUT: Final = "input"
OUTPUT: Final = "descriptor"

_OPSET: Final = 17
_IR_VERSION: Final = 8
_OCTAVES: Final = 4
_ORIENTATIONS: Final = 8
_SECTORS: Final = 2 * _ORIENTATIONS
_RINGS: Final = 2
_HARMONICS: Final = 5
_WAVELENGTHS: Final = (5.0, 5.0 * math.sqrt(2.0))
_ENVELOPES: Final = (11 / 4.2, 11 / 4.2 * math.sqrt(2.0))
_KERNELS: Final = (11, 15)
_BANDS: Final = _OCTAVES * len(_WAVELENGTHS)
_PER_BAND: Final = _RINGS * _ORIENTATIONS
_CONTRAST_CELL: Final = 8
_CONTRAST_FLOOR: Final = 0.015
_ENERGY_FLOOR: Final = 1e-6
_MAGNITUDE_FLOOR: Final = 1e-7
_LENGTH_FLOOR: Final = 1e-7
_CONSTANT_TERM: Final = 0.35
_TABLE_BITS: Final = 20

MAGNITUDES: Final = _PER_BAND * _BANDS * _HARMONICS
FEATURES: Final = MAGNITUDES + 2 * _PER_BAND * (_BANDS - len(_WAVELENGTHS)) * (_HARMONICS - 1)
"""Numbers per tile before whitening: absolute values first, then real and imaginary parts of the products."""


def import_onnx() -> ModuleType:
    """Import `onnx` where it is needed, since workers and the aircraft do without it."""
    try:
        import onnx  # noqa: PLC0415
        import onnx.helper  # noqa: PLC0415
        import onnx.numpy_helper  # noqa: PLC0415
    except ImportError as error:
        raise CompileError(
            "making the built-in descriptor needs the onnx package, which is not installed",
            hint='install it with: pip install "onnx>=1.21"',
            kind=ErrorKind.BACKEND_UNAVAILABLE,
            subject="builtin:place",
        ) from error
    package: ModuleType = onnx
    return package


class _GraphBuilder:
    """Collects nodes and tables in the order of the calls; equal tables are stored once."""

    def __init__(self) -> None:
        self._onnx = import_onnx()
        self._nodes: list[Any] = []
        self._tables: dict[bytes, Any] = {}

    def table(self, values: npt.NDArray[Any]) -> str:
        key = values.dtype.str.encode() + repr(values.shape).encode() + values.tobytes()
        if key not in self._tables:
            name = f"table{len(self._tables)}"
            self._tables[key] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return str(self._tables[key].name)

    def weights(self, values: Table) -> str:
        return self.table(_round_to_binary_fractions(values))

    def shape(self, *sizes: int) -> str:
        return self.table(np.array(sizes, dtype=np.int64))

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = f"value{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def convolution(self, value: str, kernels: Table, stride: int = 1) -> str:
        side = kernels.shape[-1]
        return self.node(
            "Conv",
            value,
            self.weights(kernels),
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def average(self, value: str, side: int) -> str:
        return self.node("AveragePool", value, kernel_shape=[side, side], strides=[side, side])

    def root(self, value: str, floor: float) -> str:
        return self.node("Sqrt", self.node("Add", value, self.table(np.array(floor, dtype=np.float32))))

    def serialise(self, output: str, dimensions: int) -> bytes:
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes.append(helper.make_node("Identity", [output], [OUTPUT]))
        given = helper.make_tensor_value_info(INPUT, kind, ["N", 3, SIDE, SIDE])
        returned = helper.make_tensor_value_info(OUTPUT, kind, ["N", dimensions])
        graph = helper.make_graph(self._nodes, "place", [given], [returned], list(self._tables.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="c10",
            producer_version="1",
        )
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def serialised_network(mean: Floats | None, projection: npt.NDArray[np.float16] | None) -> bytes:
    """Make the ONNX model.

    Args:
        mean: float32 [FEATURES], subtracted from the features; without it the network returns the features.
        projection: float16 [FEATURES, dimensions], multiplied with the difference.

    Returns:
        A serialised ModelProto, opset 17: `input` float32 [N, 3, 256, 256] to `descriptor` float32 [N,
        dimensions].

    Raises:
        CompileError: kind `backend-unavailable`; the `onnx` package is missing.
    """
    graph = _GraphBuilder()
    picture = _normalised_contrast(graph, _halved_grey(graph))
    features = _invariants(graph, _pooled_energies(graph, picture))
    if mean is None or projection is None:
        return graph.serialise(features, FEATURES)
    centred = graph.node("Sub", features, graph.table(mean.astype(np.float32)))
    # A 1 x 1 convolution is computed picture by picture. Some libraries compute a matrix product of one row
    # and of many rows in different ways, and the last bits of a descriptor would depend on the batch.
    column = graph.node("Reshape", centred, graph.shape(0, FEATURES, 1, 1))
    dimensions = projection.shape[1]
    kernels = np.ascontiguousarray(projection.astype(np.float32).T)[:, :, None, None]
    mixed = graph.node("Conv", column, graph.table(kernels), kernel_shape=[1, 1])
    flat = graph.node("Reshape", mixed, graph.shape(0, dimensions))
    unit = graph.node("Div", flat, _length(graph, flat, axis=1))
    return graph.serialise(unit, dimensions)


def _halved_grey(graph: _GraphBuilder) -> str:
    """Return [N, 1, 128, 128], 0 to 1, with the luma weights of ITU-R BT.601."""
    luma = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1) / 255
    return graph.average(graph.convolution(INPUT, luma), 2)


def _normalised_contrast(graph: _GraphBuilder, grey: str) -> str:
    """Subtract the local mean and divide by the local deviation, both over about 48 pixels of the tile."""
    mean = _smoothed(graph, graph.average(grey, _CONTRAST_CELL))
    centred = graph.node("Sub", grey, _enlarged(graph, mean))
    square = graph.node("Mul", centred, centred)
    variance = _smoothed(graph, graph.average(square, _CONTRAST_CELL))
    floor = graph.table(np.array(_CONTRAST_FLOOR, dtype=np.float32))
    deviation = graph.node("Add", graph.node("Sqrt", variance), floor)
    return graph.node("Div", centred, _enlarged(graph, deviation))


def _smoothed(graph: _GraphBuilder, value: str) -> str:
    return graph.node(
        "AveragePool", value, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=0
    )


def _enlarged(graph: _GraphBuilder, value: str) -> str:
    factors = graph.table(np.array([1, 1, _CONTRAST_CELL, _CONTRAST_CELL], dtype=np.float32))
    return graph.node(
        "Resize", value, "", factors, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _pooled_energies(graph: _GraphBuilder, picture: str) -> str:
    """Return [N, bands * orientations, rings * sectors], from the shortest wavelength to the longest."""
    bands: list[str] = []
    side = SIDE // 2
    for octave in range(_OCTAVES):
        stride = 2 if side >= 64 else 1
        response_side = side // stride
        pooling = graph.weights(_polar_windows(response_side))
        for wavelength, envelope, kernel in zip(_WAVELENGTHS, _ENVELOPES, _KERNELS, strict=True):
            filters = _gabor_filters(kernel, wavelength, envelope)
            energy = _energy(graph, graph.convolution(picture, filters, stride))
            rows = graph.node("Reshape", energy, graph.shape(0, _ORIENTATIONS, response_side * response_side))
            bands.append(graph.node("MatMul", rows, pooling))
        if octave + 1 < _OCTAVES:
            picture = graph.average(picture, 2)
            side //= 2
    return graph.node("Concat", *bands, axis=1)


def _energy(graph: _GraphBuilder, responses: str) -> str:
    """Return the length of each pair of even and odd responses, [N, orientations, side, side]."""
    pairs = np.concatenate([np.eye(_ORIENTATIONS), np.eye(_ORIENTATIONS)], axis=1)[:, :, None, None]
    square = graph.convolution(graph.node("Mul", responses, responses), pairs)
    return graph.root(square, _ENERGY_FLOOR)


def _invariants(graph: _GraphBuilder, pooled: str) -> str:
    """Return [N, FEATURES]: absolute values and products that a rotation of the picture does not change."""
    flat = graph.node("Reshape", pooled, graph.shape(0, _BANDS * _PER_BAND * _SECTORS))
    aligned = graph.node("Gather", flat, graph.table(_aligned_order()), axis=1)
    rows = graph.node("Reshape", aligned, graph.shape(0, _BANDS * _PER_BAND, _SECTORS))
    angle = 2 * math.pi * np.outer(np.arange(_SECTORS), np.arange(_HARMONICS)) / _SECTORS
    root = math.sqrt(_SECTORS)
    by_band = graph.shape(0, _BANDS, _PER_BAND * _HARMONICS)
    real, imaginary = (
        graph.node("Reshape", graph.node("MatMul", rows, graph.weights(wave / root)), by_band)
        for wave in (np.cos(angle), -np.sin(angle))
    )
    power = graph.node("Add", graph.node("Mul", real, real), graph.node("Mul", imaginary, imaginary))
    magnitude = graph.root(power, _MAGNITUDE_FLOOR)
    share = np.tile(np.where(np.arange(_HARMONICS) == 0, _CONSTANT_TERM, 1.0), _PER_BAND)
    weighted = graph.node("Mul", magnitude, graph.weights(share))
    length = _length(graph, weighted, axis=2)
    parts = [graph.node("Div", weighted, length)]
    parts += _products(graph, *(graph.node("Div", value, length) for value in (real, imaginary, magnitude)))
    flats = [graph.node("Flatten", part, axis=1) for part in parts]
    return graph.node("Concat", *flats, axis=1)


def _products(graph: _GraphBuilder, real: str, imaginary: str, magnitude: str) -> list[str]:
    """Return real and imaginary parts of a * conj(b) / sqrt(|a| |b|), b an octave above, no constant term."""
    split = graph.shape(0, _BANDS, _PER_BAND, _HARMONICS)
    octave = len(_WAVELENGTHS)

    def part(value: str, first: int, last: int) -> str:
        table = graph.node("Reshape", value, split)
        start, stop = graph.shape(first, 1), graph.shape(last, _HARMONICS)
        return graph.node("Slice", table, start, stop, graph.shape(1, 3))

    (a, ai, am), (b, bi, bm) = (
        [part(value, first, last) for value in (real, imaginary, magnitude)]
        for first, last in ((0, _BANDS - octave), (octave, _BANDS))
    )
    # Two roots, not one of the product, which half precision would round to zero.
    scale = graph.node("Mul", graph.node("Sqrt", am), graph.node("Sqrt", bm))
    along = graph.node("Add", graph.node("Mul", a, b), graph.node("Mul", ai, bi))
    across = graph.node("Sub", graph.node("Mul", ai, b), graph.node("Mul", a, bi))
    return [graph.node("Div", along, scale), graph.node("Div", across, scale)]


def _length(graph: _GraphBuilder, value: str, *, axis: int) -> str:
    square = graph.node("ReduceSum", graph.node("Mul", value, value), graph.shape(axis), keepdims=1)
    return graph.root(square, _LENGTH_FLOOR)


def _round_to_binary_fractions(values: Table) -> Floats:
    """Round to 20 bits below the largest value: exact in float32, whatever the last bit of a sine."""
    exponent = int(np.frexp(np.abs(values).max())[1]) - _TABLE_BITS
    # Adding zero turns minus zero, which a sine near zero may return, into zero.
    return (np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent) + 0.0).astype(np.float32)


def _gabor_filters(side: int, wavelength: float, envelope: float) -> Table:
    """Return even, then odd filters of all orientations; zero sum, unit sum of absolute values."""
    reach = np.arange(side, dtype=np.float64) - side // 2
    x, y = np.meshgrid(reach, reach)
    window = np.exp(-(x * x + y * y) / (2 * envelope * envelope))
    angles = math.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
    phase = 2 * math.pi / wavelength * (x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None])
    even, odd = window * np.cos(phase), window * np.sin(phase)
    even -= window * (even.sum((1, 2), keepdims=True) / window.sum())
    filters = np.concatenate([even, odd])
    filters /= np.abs(filters).sum((1, 2), keepdims=True)
    return filters[:, None]


def _polar_windows(side: int) -> Table:
    """Return the weights of all pixels, [side * side, rings * sectors]; columns sum to one.

    Outside the inscribed circle it is zero, since the corners of a rotated picture show other ground.
    """
    reach = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(reach, reach)
    radius, direction = np.sqrt(x * x + y * y), np.arctan2(y, x)
    columns = []
    for ring in range(_RINGS):
        centre = (ring + 0.6) / (_RINGS + 0.2)
        near = np.exp(-(((radius - centre) * _RINGS) ** 2) / (2 * 0.8**2)) * (radius < 1.02)
        for sector in range(_SECTORS):
            apart = np.abs(direction - 2 * math.pi * sector / _SECTORS)
            apart = np.minimum(apart, np.abs(2 * math.pi - apart)) * _SECTORS / (2 * math.pi)
            columns.append((near * np.exp(-(apart**2) / (2 * 1.2**2))).ravel())
    windows = np.array(columns).T
    shares: Table = windows / windows.sum(0)
    return shares


def _aligned_order() -> npt.NDArray[np.int64]:
    """Return indices that reorder (band, orientation, ring, sector): ring first, orientation by sector."""
    band, ring, orientation, sector = np.ogrid[:_BANDS, :_RINGS, :_ORIENTATIONS, :_SECTORS]
    absolute = (orientation + sector) % _ORIENTATIONS
    order = ((band * _ORIENTATIONS + absolute) * _RINGS + ring) * _SECTORS + sector
    flat: npt.NDArray[np.int64] = order.ravel().astype(np.int64)
    return flat
