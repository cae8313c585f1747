"""`builtin:place`, the built-in place descriptor: a small network whose weights are computed from formulas.

A tile and a picture of it taken at another heading get nearly the same descriptor. In order:

1. convert to grey, halve, normalise the local contrast, which removes light and haze;
2. energies of odd and even Gabor filters: 4 octaves, 2 wavelengths in each, 8 orientations;
3. weighted means over 2 rings of 16 sectors, with orientations relative to the direction of the sector: in a
   rotated picture the values are shifted along the sectors;
4. the discrete Fourier transform along the sectors. A shift does not change its absolute values. Nor does it
   change the product of one wavelength's coefficient with the conjugate of the one an octave above, which
   keeps the relative position of their patterns;
5. scale every wavelength to unit length, subtract a fixed mean, apply a fixed whitening to 384 dimensions,
   scale to unit length.

Whitening was trained once, on pairs of pictures of a procedural landscape, and is a data file whose digest is
pinned here; nothing is fitted to the tiles of a build. The model's digest is pinned too. docs/place.md has
the method, its sources and figures.

Importing this module needs NumPy only; making the model needs the `onnx` package.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.builtin_model import graph
from pipeline.errors import CompileError, ErrorKind

Floats = npt.NDArray[np.float32]

PLACE_SIZE: Final = (graph.SIDE, graph.SIDE)
"""Height and width that the network sees."""
PLACE_DIMENSIONS: Final = 384
PLACE_BYTES: Final = 2_903_903
PLACE_INPUT: Final = graph.INPUT
"""float32 [N, 3, 256, 256], RGB, 0 to 255."""
PLACE_OUTPUT: Final = graph.OUTPUT
"""float32 [N, 384], unit length."""
PLACE_FEATURES: Final = graph.FEATURES
"""Numbers per tile before whitening: absolute values first, then real and imaginary parts of the products."""
PLACE_MAGNITUDES: Final = graph.MAGNITUDES

PLACE_WHITENING_SHA256: Final = "b087122d09db4943243fb29d4810f202f5f9aff6b5740e507968ddc12a78e4fa"
PLACE_MODEL_SHA256: Final = "44637ed5434a7675fd979aca72dc4225d363cbbf52e5bf51645e0c7ffd2b405a"

_CELLS: Final = 16
_BLANK_WITHIN: Final = 2
"""Grey levels that compression may add to black and white."""

_WHITENING: Final = Path(__file__).parent / "place-whitening.bin"
_MAGIC: Final = b"C10WHITE"
_HEADER: Final = struct.Struct("<8sIII44x")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitening:
    """The mean to subtract from the features, and the matrix to multiply them with.

    Attributes:
        mean: float32 [features].
        projection: float16 [features, dimensions].
    """

    mean: Floats
    projection: npt.NDArray[np.float16]


def decode_whitening(data: bytes) -> Whitening:
    """Parse the bytes of the data file, little-endian.

    A header of 64 bytes: the magic `C10WHITE`, then as 32-bit integers the format version 1, the number of
    features F and of dimensions D, then zeros. Then F float32 (the mean) and F x D float16 (the projection,
    row by row).

    Raises:
        CompileError: kind `bad-model`; another kind or version of file, a wrong length, or numbers that are
            not finite.
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


def place_model() -> bytes:
    """Make the ONNX model of the built-in descriptor.

    The bytes are the same on every machine and in every run. Input `input`: float32 [N, 3, 256, 256], RGB, 0
    to 255. Output `descriptor`: float32 [N, 384], unit length. No row depends on other rows of the batch.

    Returns:
        A serialised ModelProto, opset 17, about 3 MB.

    Raises:
        CompileError: the `onnx` package is missing (kind `backend-unavailable`); the data file cannot be
            read, or the file or the model is not the pinned one (kind `bad-model`).
    """
    try:
        data = _WHITENING.read_bytes()
    except OSError as error:
        raise _bad_data(
            f"the whitening file {_WHITENING} cannot be read: {error.strerror or error}"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != PLACE_WHITENING_SHA256:
        raise _bad_data(
            f"expected a whitening file of SHA-256 {PLACE_WHITENING_SHA256}, found {found} in {_WHITENING}"
        )
    whitening = decode_whitening(data)
    model = graph.serialised_network(whitening.mean, whitening.projection)
    digest = hashlib.sha256(model).hexdigest()
    if digest != PLACE_MODEL_SHA256:
        raise CompileError(
            f"expected the built-in descriptor to have SHA-256 {PLACE_MODEL_SHA256}, this machine made {digest}",
            hint=f"its descriptors could not be compared with others'; found onnx {graph.import_onnx().__version__}, "
            "install a release that the package asks for",
            kind=ErrorKind.BAD_MODEL,
            subject="builtin:place",
        )
    return model


def blank_share(rgb: npt.NDArray[np.uint8]) -> float:
    """Return how much of a tile is black or white, as programs fill what they have no imagery of; 0 to 1.

    Counted are those of 16 x 16 cells that are wholly black or wholly white, which ground hardly ever is.

    Args:
        rgb: uint8 [height, width, 3].
    """
    height, width = (side // _CELLS for side in rgb.shape[:2])
    if 0 in (height, width):
        return 0.0
    cells = rgb[: height * _CELLS, : width * _CELLS].reshape(_CELLS, height, _CELLS, width * 3)
    black = cells.max(axis=1).max(axis=2) <= _BLANK_WITHIN
    white = cells.min(axis=1).min(axis=2) >= 255 - _BLANK_WITHIN
    return float((black | white).mean())


def _bad_data(message: str) -> CompileError:
    hint = "install the package again: its data file is damaged or of another version"
    return CompileError(message, hint=hint, kind=ErrorKind.BAD_MODEL, subject="builtin:place")
