"""`builtin:place`, the embedded place descriptor: a small network whose weights follow from formulas.

A tile and a picture of it taken at another heading get nearly the same descriptor. In order:

1. grey, halved, local contrast normalised: light and haze drop out;
2. energies of odd and even Gabor filters: 4 octaves, 2 wavelengths in each, 8 orientations;
3. soft averages over 2 rings of 16 sectors, orientations counted from the sector's own direction, so that a
   turned picture is the same table, moved along the sectors;
4. the discrete Fourier transform along the sectors. Its absolute values do not see a move. Neither does the
   product of one wavelength's coefficient with the conjugate of that an octave above, and this one keeps how the
   patterns of the two lie to each other, which the absolute values lose;
5. every wavelength scaled to unit length, a fixed mean subtracted, a fixed whitening to 384 dimensions, unit
   length.

Whitening was learnt once, from pairs of pictures of a procedural landscape, and is a data file whose digest is
pinned here; nothing is ever fitted to the tiles of a build. The tables are rounded to coarse binary fractions, so
that machines whose sines differ in the last bit still make the same bytes, and the model's digest is pinned too.
The method, its sources and figures are in docs/place.md.

Importing this module needs NumPy alone; making the model needs the `onnx` package.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import CompileError, ErrorKind

__all__ = [
    "FEATURELESS_BELOW",
    "PLACE_COLOUR",
    "PLACE_DIMENSIONS",
    "PLACE_FEATURES",
    "PLACE_INPUT",
    "PLACE_MAGNITUDES",
    "PLACE_MEAN",
    "PLACE_MODEL_SHA256",
    "PLACE_OUTPUT",
    "PLACE_SIZE",
    "PLACE_STD",
    "PLACE_WHITENING_SHA256",
    "Whitening",
    "decode_whitening",
    "encode_whitening",
    "feature_model",
    "place_model",
    "texture_energy",
]

Table = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

PLACE_SIZE: Final = (256, 256)
"""Height and width that the network sees."""
PLACE_DIMENSIONS: Final = 384
PLACE_INPUT: Final = "input"
"""float32 [N, 3, 256, 256], RGB, 0 to 255."""
PLACE_OUTPUT: Final = "descriptor"
"""float32 [N, 384], unit length."""
PLACE_COLOUR: Final = "rgb"
PLACE_MEAN: Final = (0.0, 0.0, 0.0)
PLACE_STD: Final = (1.0, 1.0, 1.0)

PLACE_WHITENING_SHA256: Final = "0000000000000000000000000000000000000000000000000000000000000000"
PLACE_MODEL_SHA256: Final = "0000000000000000000000000000000000000000000000000000000000000000"

FEATURELESS_BELOW: Final = 2.0
"""Texture energy, in grey levels, below which a tile cannot be told from others like it (calm water, no data)."""

_WHITENING: Final = Path(__file__).parent / "data" / "place-whitening.bin"
_MAGIC: Final = b"C10WHITE"
_HEADER: Final = struct.Struct("<8sIII44x")

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
_MAGNITUDE_FLOOR: Final = 1e-10
_CONSTANT_TERM: Final = 0.35
_TABLE_BITS: Final = 20

PLACE_MAGNITUDES: Final = _PER_BAND * _BANDS * _HARMONICS
PLACE_FEATURES: Final = PLACE_MAGNITUDES + 2 * _PER_BAND * (_BANDS - len(_WAVELENGTHS)) * (_HARMONICS - 1)
"""Numbers per tile before whitening: absolute values first, then real and imaginary parts of the products."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitening:
    """What is subtracted from the features, and what they are multiplied with.

    Attributes:
        mean: float32 [features].
        projection: float16 [features, dimensions].
    """

    mean: Floats
    projection: npt.NDArray[np.float16]


def encode_whitening(whitening: Whitening) -> bytes:
    """Write the data file.

    A header of 64 bytes: the magic `C10WHITE`, then as little-endian 32-bit integers the format version 1, the
    number of features F and of dimensions D, then zeros. Then F float32 (the mean) and F x D float16 (the
    projection, row after row), little-endian.

    Args:
        whitening: mean [F] and projection [F, D].

    Returns:
        The bytes of the file.
    """
    features, dimensions = whitening.projection.shape
    header = _HEADER.pack(_MAGIC, 1, features, dimensions)
    return header + whitening.mean.astype("<f4").tobytes() + whitening.projection.astype("<f2").tobytes()


def decode_whitening(data: bytes) -> Whitening:
    """Read a data file as `encode_whitening` writes it.

    Args:
        data: all bytes of the file.

    Returns:
        The mean and the projection.

    Raises:
        CompileError: kind `bad-model`; it is no such file, of another version, cut short or too long, or a number
            in it is not finite.
    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise _bad_data(f"expected a whitening file that begins with {_MAGIC!r}, found {data[:8]!r}")
    _, version, features, dimensions = _HEADER.unpack_from(data)
    if version != 1:
        raise _bad_data(f"expected version 1 of the whitening file, found {version}")
    expected = _HEADER.size + 4 * features + 2 * features * dimensions
    if len(data) != expected:
        raise _bad_data(f"expected {expected} bytes for {features} x {dimensions} numbers, found {len(data)}")
    mean = np.frombuffer(data, "<f4", features, _HEADER.size)
    projection = np.frombuffer(data, "<f2", features * dimensions, _HEADER.size + 4 * features)
    if not (np.isfinite(mean).all() and np.isfinite(projection).all()):
        raise _bad_data("expected finite numbers in the whitening file, found others")
    return Whitening(mean=mean, projection=projection.reshape(features, dimensions))


def place_model(whitening_file: Path | None = None) -> bytes:
    """Make the ONNX model of the embedded descriptor.

    The bytes are the same on every machine and in every run. Input `input`: float32 [N, 3, 256, 256], RGB, 0 to
    255. Output `descriptor`: float32 [N, 384], unit length. No row depends on its neighbours in the batch.

    Args:
        whitening_file: where the data file lies; the one shipped with the package if not given.

    Returns:
        A serialised ModelProto, opset 17, about 3 MB.

    Raises:
        CompileError: the `onnx` package is missing (kind `backend-unavailable`); the data file cannot be read or is
            not the pinned one, or the bytes made are not the pinned ones (kind `bad-model`).
    """
    path = _WHITENING if whitening_file is None else whitening_file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _bad_data(f"the whitening file {path} cannot be read: {error.strerror or error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != PLACE_WHITENING_SHA256:
        raise _bad_data(f"expected a whitening file of SHA-256 {PLACE_WHITENING_SHA256}, found {found} in {path}")
    model = _serialised(decode_whitening(data))
    made = hashlib.sha256(model).hexdigest()
    if made != PLACE_MODEL_SHA256:
        raise CompileError(
            f"expected the embedded descriptor to have SHA-256 {PLACE_MODEL_SHA256}, this machine made {made}",
            f"its descriptors could not be compared with others'; found onnx {_onnx().__version__}, "
            "install a release that the package asks for",
            kind=ErrorKind.BAD_MODEL,
            subject="builtin:place",
        )
    return model


def feature_model() -> bytes:
    """Make the ONNX model of the features alone, before whitening: for training and for comparison.

    Returns:
        A serialised ModelProto with the input of `place_model` and an output `descriptor`, float32
        [N, PLACE_FEATURES], not of unit length.

    Raises:
        CompileError: the `onnx` package is missing (kind `backend-unavailable`).
    """
    return _serialised(None)


def texture_energy(rgb: npt.NDArray[np.uint8]) -> float:
    """Measure how much there is to recognise in a tile: its local contrast.

    The root mean square, over cells of 32 x 32 pixels, of the deviation of means of 4 x 4 pixels within the cell.
    The means let sensor noise and compression pass for nothing; the cells do the same for slow gradients. Margins
    that fill no cell are left out; a picture smaller than a cell is one cell.

    Args:
        rgb: uint8 [height, width, 3], at least 4 pixels each way.

    Returns:
        Grey levels, 0 for a uniform tile. Compare with `FEATURELESS_BELOW`.

    Raises:
        ValueError: the picture has another shape.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or min(rgb.shape[:2]) < 4:
        raise ValueError(f"expected pixels of shape [height, width, 3], at least 4 x 4, found {list(rgb.shape)}")
    height, width = (4 * (side // 4) for side in rgb.shape[:2])
    kept = rgb[:height, :width]
    # Sums of four rows, then of four columns; 16 * 4 * 255 fits into 16 bits.
    grey = kept[..., 1].astype(np.uint16)
    grey += grey
    grey += kept[..., 0]
    grey += kept[..., 2]
    rows = grey[0::4] + grey[1::4] + grey[2::4] + grey[3::4]
    means = (rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]).astype(np.float32) / np.float32(64)
    down, across = means.shape
    step_down, step_across = min(8, down), min(8, across)
    down, across = down // step_down, across // step_across
    cells = means[: down * step_down, : across * step_across].reshape(down, step_down, across, step_across)
    return float(math.sqrt(float(cells.var(axis=(1, 3)).mean())))


def _bad_data(message: str) -> CompileError:
    hint = "install the package again: its data file is damaged or of another version"
    return CompileError(message, hint, kind=ErrorKind.BAD_MODEL, subject="builtin:place")


def _onnx() -> ModuleType:
    """Import `onnx` where it is needed: neither workers nor the aircraft have a use for it."""
    try:
        import onnx  # noqa: PLC0415
        import onnx.helper  # noqa: PLC0415
        import onnx.numpy_helper  # noqa: PLC0415
    except ImportError as error:
        raise CompileError(
            "making the embedded descriptor needs the onnx package, which is not installed",
            'install it with: pip install "onnx>=1.21"',
            kind=ErrorKind.BACKEND_UNAVAILABLE,
            subject="builtin:place",
        ) from error
    return onnx


class _Graph:
    """Nodes and tables in the order in which they are asked for; a table asked for twice is stored once."""

    def __init__(self) -> None:
        self._onnx = _onnx()
        self._nodes: list[Any] = []
        self._tables: dict[bytes, Any] = {}

    def table(self, values: npt.NDArray[Any]) -> str:
        key = values.dtype.str.encode() + repr(values.shape).encode() + values.tobytes()
        if key not in self._tables:
            name = f"table{len(self._tables)}"
            self._tables[key] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return str(self._tables[key].name)

    def weights(self, values: Table) -> str:
        return self.table(_dyadic(values))

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

    def serialised(self, output: str, dimensions: int) -> bytes:
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes.append(helper.make_node("Identity", [output], [PLACE_OUTPUT]))
        given = helper.make_tensor_value_info(PLACE_INPUT, kind, ["N", 3, *PLACE_SIZE])
        returned = helper.make_tensor_value_info(PLACE_OUTPUT, kind, ["N", dimensions])
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


def _serialised(whitening: Whitening | None) -> bytes:
    graph = _Graph()
    picture = _normalised_contrast(graph, _halved_grey(graph))
    features = _invariants(graph, _pooled_energies(graph, picture))
    if whitening is None:
        return graph.serialised(features, PLACE_FEATURES)
    centred = graph.node("Sub", features, graph.table(whitening.mean.astype(np.float32)))
    # A 1 x 1 convolution is computed picture by picture; a matrix product of one row takes another path through
    # some libraries than one of many rows, and the last bits of a descriptor would depend on the batch.
    column = graph.node("Reshape", centred, graph.shape(0, PLACE_FEATURES, 1, 1))
    turned = np.ascontiguousarray(whitening.projection.astype(np.float32).T)[:, :, None, None]
    mixed = graph.node("Conv", column, graph.table(turned), kernel_shape=[1, 1])
    flat = graph.node("Reshape", mixed, graph.shape(0, PLACE_DIMENSIONS))
    return graph.serialised(_unit_length(graph, flat, axis=1), PLACE_DIMENSIONS)


def _halved_grey(graph: _Graph) -> str:
    """[N, 1, 128, 128], 0 to 1, with the luma weights of ITU-R BT.601."""
    luma = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1) / 255
    return graph.average(graph.convolution(PLACE_INPUT, luma), 2)


def _normalised_contrast(graph: _Graph, grey: str) -> str:
    """Subtract the local mean and divide by the local deviation, both over about 48 pixels of the tile."""
    mean = _smoothed(graph, graph.average(grey, _CONTRAST_CELL))
    centred = graph.node("Sub", grey, _enlarged(graph, mean))
    square = graph.node("Mul", centred, centred)
    variance = _smoothed(graph, graph.average(square, _CONTRAST_CELL))
    floor = graph.table(np.array(_CONTRAST_FLOOR, dtype=np.float32))
    deviation = graph.node("Add", graph.node("Sqrt", variance), floor)
    return graph.node("Div", centred, _enlarged(graph, deviation))


def _smoothed(graph: _Graph, value: str) -> str:
    return graph.node(
        "AveragePool", value, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=0
    )


def _enlarged(graph: _Graph, value: str) -> str:
    factors = graph.table(np.array([1, 1, _CONTRAST_CELL, _CONTRAST_CELL], dtype=np.float32))
    return graph.node(
        "Resize", value, "", factors, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _pooled_energies(graph: _Graph, picture: str) -> str:
    """[N, bands * orientations, rings * sectors], from the shortest wavelength to the longest."""
    bands: list[str] = []
    side = PLACE_SIZE[0] // 2
    for octave in range(_OCTAVES):
        stride = 2 if side >= 64 else 1
        seen = side // stride
        pooling = graph.weights(_polar_windows(seen))
        for wavelength, envelope, kernel in zip(_WAVELENGTHS, _ENVELOPES, _KERNELS, strict=True):
            filters = _gabor_filters(kernel, wavelength, envelope)
            energy = _energy(graph, graph.convolution(picture, filters, stride))
            rows = graph.node("Reshape", energy, graph.shape(0, _ORIENTATIONS, seen * seen))
            bands.append(graph.node("MatMul", rows, pooling))
        if octave + 1 < _OCTAVES:
            picture = graph.average(picture, 2)
            side //= 2
    return graph.node("Concat", *bands, axis=1)


def _energy(graph: _Graph, responses: str) -> str:
    """The length of each pair of even and odd responses; [N, orientations, side, side]."""
    pairs = np.concatenate([np.eye(_ORIENTATIONS), np.eye(_ORIENTATIONS)], axis=1)[:, :, None, None]
    square = graph.convolution(graph.node("Mul", responses, responses), pairs)
    floor = graph.table(np.array(_ENERGY_FLOOR, dtype=np.float32))
    return graph.node("Sqrt", graph.node("Add", square, floor))


def _invariants(graph: _Graph, pooled: str) -> str:
    """[N, PLACE_FEATURES]: absolute values and products that a turn of the picture leaves alone."""
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
    floor = graph.table(np.array(_MAGNITUDE_FLOOR, dtype=np.float32))
    magnitude = graph.node("Sqrt", graph.node("Add", power, floor))
    share = np.tile(np.where(np.arange(_HARMONICS) == 0, _CONSTANT_TERM, 1.0), _PER_BAND)
    weighted = graph.node("Mul", magnitude, graph.weights(share))
    length = _length(graph, weighted, axis=2)
    parts = [graph.node("Div", weighted, length)]
    parts += _products(graph, *(graph.node("Div", value, length) for value in (real, imaginary, magnitude)))
    flats = [graph.node("Flatten", part, axis=1) for part in parts]
    return graph.node("Concat", *flats, axis=1)


def _products(graph: _Graph, real: str, imaginary: str, magnitude: str) -> list[str]:
    """Real and imaginary parts of a * conj(b) / sqrt(|a| |b|), b an octave above a, without the constant term."""
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
    scale = graph.node("Sqrt", graph.node("Mul", am, bm))
    along = graph.node("Add", graph.node("Mul", a, b), graph.node("Mul", ai, bi))
    across = graph.node("Sub", graph.node("Mul", ai, b), graph.node("Mul", a, bi))
    return [graph.node("Div", along, scale), graph.node("Div", across, scale)]


def _length(graph: _Graph, value: str, *, axis: int) -> str:
    square = graph.node("ReduceSum", graph.node("Mul", value, value), graph.shape(axis), keepdims=1)
    floor = graph.table(np.array(1e-12, dtype=np.float32))
    return graph.node("Sqrt", graph.node("Add", square, floor))


def _unit_length(graph: _Graph, value: str, *, axis: int) -> str:
    return graph.node("Div", value, _length(graph, value, axis=axis))


def _dyadic(values: Table) -> Floats:
    """Round to 20 bits below the largest value: exact in float32, and deaf to the last bit of a sine."""
    exponent = int(np.frexp(np.abs(values).max())[1]) - _TABLE_BITS
    # Adding zero turns minus zero, which a sine near zero may or may not give, into zero.
    return (np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent) + 0.0).astype(np.float32)


def _gabor_filters(side: int, wavelength: float, envelope: float) -> Table:
    """Even filters of all orientations, then odd ones; zero sum, unit sum of absolute values."""
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
    """Weights of every pixel in every ring and sector, [side * side, rings * sectors]; columns sum to one.

    They are cut off at the inscribed circle, since the corners of a turned picture show other ground.
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
    return windows / windows.sum(0)


def _aligned_order() -> npt.NDArray[np.int64]:
    """Where to find (band, ring, orientation relative to the sector, sector) in (band, orientation, ring, sector)."""
    band, ring, orientation, sector = np.ogrid[:_BANDS, :_RINGS, :_ORIENTATIONS, :_SECTORS]
    absolute = (orientation + sector) % _ORIENTATIONS
    order = ((band * _ORIENTATIONS + absolute) * _RINGS + ring) * _SECTORS + sector
    return order.ravel().astype(np.int64)
