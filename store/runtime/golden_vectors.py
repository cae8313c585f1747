"""Check engines on golden inputs: are the answers right, and do they depend on the rest of the batch? Pure.

The bytes of engines cannot be compared, because compilers do not reproduce them; answers can. A fixed integer
formula gives the inputs, the same on any machine and with any version of any library, so that no cache has to
hold them.

If the engine that flies cannot run on the ground, the answers of its stand-in are in the cache. Their file:
magic `C10GOLD1`; count n and dimensions d, u32 little-endian; n rows of d float32, little-endian. Row i
answers golden image i of seed 0, in the size of the image contract and prepared by it. Another formula of the
images needs another magic.
"""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.base.preprocessing import Preprocessing
from store.errors import ArtifactError, ErrorKind

Vectors = NDArray[np.float32]
Run = Callable[[Vectors], Vectors]
"""Runs an engine: samples float32 [n, ...] to descriptors float32 [n, d]."""

ANSWERED: Final = 8
"""How many golden images a stand-in answers: a single batch of most engines."""

_BYTE: Final = 255
_HEADER: Final = struct.Struct("<8sII")
_MOST: Final = 1024
_MAGIC: Final = b"C10GOLD1"


def golden_images(count: int, height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return images, uint8 [count, height, width, 3], with smooth and rough parts like natural ones.

    Each channel is a gradient, plus bilinear value noise in cells of 32, 8 and 2 pixels with falling weight:
    integer arithmetic on a hash of the coordinates (the finaliser of MurmurHash3, 32 bits), so that no
    rounding mode or math library can change a bit.
    """
    out = np.empty((count, height, width, 3), np.uint8)
    rows = np.arange(height, dtype=np.uint64)
    columns = np.arange(width, dtype=np.uint64)
    for number in range(count):
        for channel in range(3):
            key = (seed * 1_000_003 + number * 3 + channel) & 0xFFFF_FFFF
            slope = _hash(np.array([key], np.uint64))[0]
            ramp = rows[:, None] * (slope & np.uint64(0xFF)) // np.uint64(height)
            ramp = (
                ramp + columns[None, :] * (slope >> np.uint64(8) & np.uint64(0xFF)) // np.uint64(width)
            ) // np.uint64(2)
            noise = sum(
                (
                    np.uint32(weight) * _value_noise(height, width, cell, key)
                    for cell, weight in ((32, 4), (8, 2), (2, 1))
                ),
                start=np.uint32(0),
            )
            out[number, :, :, channel] = (ramp + noise // np.uint32(7)) // np.uint64(2)
    return out


def golden_inputs(shape: tuple[int, ...], *, seed: int = 0) -> Vectors:
    """Return raw samples, float32 of ``shape``, with values of 0 ... 255.

    Args:
        shape: [n, 3, h, w] or [n, h, w, 3] gives golden images; any other shape is filled with hashed values.
        seed: Another seed gives other samples.
    """
    match shape:
        case (count, 3, height, width):
            images = golden_images(count, height, width, seed=seed)
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
        case (count, height, width, 3):
            return golden_images(count, height, width, seed=seed).astype(np.float32)
        case _:
            size = int(np.prod(shape, dtype=np.int64))
            values = _hash(np.arange(size, dtype=np.uint64) + np.uint64((seed * 1_000_003) & 0xFFFF_FFFF))
            return (values & np.uint64(_BYTE)).astype(np.float32).reshape(shape)


def parity(engine: Run, reference: Run, inputs: Vectors) -> float:
    """Return the least cosine between the rows of two runs on the same inputs; -1 if a number is not finite.

    Args:
        engine: The compiled engine.
        reference: ONNX Runtime on the same network.
        inputs: Preprocessed samples, float32 [n, ...].
    """
    return agreement(engine(inputs), reference(inputs))


def agreement(answers: Vectors, others: Vectors) -> float:
    """Return the least cosine between rows of two answers, float32 [n, d]; -1 if a number is not finite."""
    found, expected = answers.astype(np.float64), others.astype(np.float64)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return -1.0
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    products = np.einsum("nd,nd->n", found, expected)
    # Two zero rows agree; a zero row against another does not.
    both_zero = (np.abs(found).max(axis=1, initial=0) == 0) & (np.abs(expected).max(axis=1, initial=0) == 0)
    cosines = np.divide(products, norms, out=np.where(both_zero, 1.0, -1.0), where=norms > 0)
    return float(np.clip(cosines, -1.0, 1.0).min(initial=1.0))


def batch_invariance(engine: Run, inputs: Vectors) -> float:
    """Return the greatest absolute difference between rows run together and the same rows each run alone.

    Zero means that a descriptor does not depend on the rest of the batch. Networks with dynamic quantisation
    fail this, and must be compiled with batch 1.
    """
    together = engine(inputs)
    alone = [engine(inputs[row : row + 1]) for row in range(len(inputs))]
    backwards = engine(np.ascontiguousarray(inputs[::-1]))[::-1]
    differences = [np.abs(together - np.concatenate(alone)), np.abs(together - backwards)]
    return float(max(np.nan_to_num(each, nan=np.inf).max(initial=0.0) for each in differences))


def golden_samples(preprocessing: Preprocessing, count: int) -> Vectors:
    """Return golden images in the form of an image contract, float32 [count, ...]."""
    height, width = preprocessing.size
    return np.stack([preprocessing.apply(image) for image in golden_images(count, height, width)])


def encode_answers(vectors: Vectors) -> bytes:
    """Return the file of answers to the first n golden images, float32 [n, d]."""
    count, dimensions = vectors.shape
    return _HEADER.pack(_MAGIC, count, dimensions) + np.ascontiguousarray(vectors, "<f4").tobytes()


def decode_answers(data: bytes | memoryview) -> Vectors:
    """Return the answers in a file, float32 [n, d], n from 1 to 1024 and d at least 1.

    Raises:
        ArtifactError: It is no such file, or holds a number that is not finite.
    """
    size = memoryview(data).nbytes
    magic, count, dimensions = _HEADER.unpack_from(data) if size >= _HEADER.size else (b"", 0, 0)
    expected = _HEADER.size + 4 * count * dimensions
    if magic != _MAGIC or not 1 <= count <= _MOST or not dimensions or size != expected:
        raise _invalid(f"magic C10GOLD1 and {expected} bytes", f"{bytes(magic)!r} and {size}")
    vectors = np.frombuffer(data, "<f4", offset=_HEADER.size).reshape(count, dimensions).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise _invalid("finite numbers", "others")
    return vectors


def _invalid(expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"golden answers: expected {expected}, found {found}",
        kind=ErrorKind.ARTIFACT_DAMAGED,
        hint="c10 build",
    )


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 32-bit integers: the finaliser of MurmurHash3 (A. Appleby, public domain)."""
    mask = np.uint64(0xFFFF_FFFF)
    mixed = values & mask
    mixed = (mixed ^ (mixed >> np.uint64(16))) * np.uint64(0x85EB_CA6B) & mask
    mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(0xC2B2_AE35) & mask
    return mixed ^ (mixed >> np.uint64(16))


def _value_noise(height: int, width: int, cell: int, key: int) -> NDArray[np.uint32]:
    """Return bilinear noise of 0 ... 255, uint32 [height, width], in cells of ``cell`` pixels."""
    row, column = (np.arange(size // cell + 2, dtype=np.uint64) for size in (height, width))
    places = row[:, None] * np.uint64(0x9E37) + column * np.uint64(0x79B9_0001) + np.uint64(key * 31 + cell)
    corners = (_hash(places) & np.uint64(_BYTE)).astype(np.uint32)
    # Across at the corners' rows first, then down: at most 255 * 32 * 32.
    across = _between(corners.T, width, cell).T
    return _between(across, height, cell) // np.uint32(cell * cell)


def _between(values: NDArray[np.uint32], size: int, cell: int) -> NDArray[np.uint32]:
    """Return `size` rows between the rows of some values, ``cell`` for each, times ``cell``: uint32 [size, n]."""
    place, right = np.divmod(np.arange(size), cell)
    right = right.astype(np.uint32)[:, None]
    between: NDArray[np.uint32] = values[place] * (np.uint32(cell) - right) + values[place + 1] * right
    return between
