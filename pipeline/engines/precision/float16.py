"""The 16-bit floating-point types: rounding to them, what they can hold, the loss that is allowed. Pure."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.base.valueclass import valueclass

Floats = NDArray[np.float32]

LEAST_COSINE: Final[Mapping[str, float]] = {"fp32": 0.999, "fp16": 0.999, "bf16": 0.99}
"""Least cosine between an engine's answers and the network's in float32, unless a request names another."""

_ONNX_FLOAT16: Final = 10
_ONNX_BFLOAT16: Final = 16
_MAX_LOSS: Final = 1 / 128
"""Largest share of a weight tensor's Euclidean norm that rounding may change.

Rounding to bfloat16 alone changes about 1/600 of it; more is lost only where values become zero.
"""


@valueclass(frozen=True, slots=True, kw_only=True)
class NarrowType:
    """One type of 16 bits.

    Attributes:
        precision: Its name in a request.
        onnx: Its number among the element types of ONNX.
        since_opset: First operator set of ONNX that knows it.
        unsupported: Operators that a compiler does not have in this type; they stay in float32.
    """

    precision: str
    onnx: int
    since_opset: int
    unsupported: frozenset[str] = frozenset()

    def encode(self, values: Floats) -> bytes:
        """Return the values in this type, little-endian, rounded to the nearest, ties to even."""
        if self.onnx == _ONNX_FLOAT16:
            with np.errstate(over="ignore"):
                return values.astype("<f2").tobytes()
        return (_bfloat16_bits(values) >> np.uint32(16)).astype("<u2").tobytes()

    def rounded(self, values: Floats) -> Floats:
        """Return the values that `encode` would store, as float32 of the same shape."""
        if self.onnx == _ONNX_FLOAT16:
            with np.errstate(over="ignore"):
                return values.astype(np.float16).astype(np.float32)
        return _bfloat16_bits(values).view(np.float32).reshape(values.shape)

    def holds(self, values: Floats) -> bool:
        """Tell whether the type holds a tensor: no finite value becomes infinite, and few become zero."""
        finite = np.isfinite(values)
        if not finite.all():
            # An infinity stays one, as attention masks and the padding of a maximum need it.
            return not np.isnan(values).any() and self.holds(values[finite])
        rounded = self.rounded(values)
        if not np.isfinite(rounded).all():
            return False
        # Scaled, so that the squares of very small and very large numbers stay within float64.
        scale = float(np.abs(values).max(initial=0.0)) or 1.0
        kept = np.linalg.norm(values.ravel().astype(np.float64) / scale)
        loss = np.linalg.norm((rounded.astype(np.float64) - values.astype(np.float64)).ravel() / scale)
        return bool(loss <= _MAX_LOSS * kept)


def least_cosine(precision: str, asked: float | None = None) -> float:
    """Return the threshold that a request asks for, or the usual one of the precision."""
    return LEAST_COSINE[precision] if asked is None else asked


def _bfloat16_bits(values: Floats) -> NDArray[np.uint32]:
    """Return the bits of float32 rounded to their upper half; not-a-number stays not-a-number."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = bits >> np.uint32(16) & np.uint32(1)
    with np.errstate(over="ignore"):
        rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF_0000)
    return np.where(np.isnan(values), np.uint32(0x7FC0_0000), rounded)


NARROW: Final = {
    "fp16": NarrowType(precision="fp16", onnx=_ONNX_FLOAT16, since_opset=1),
    "bf16": NarrowType(
        precision="bf16",
        onnx=_ONNX_BFLOAT16,
        since_opset=13,
        # TensorRT for RTX 1.7 refuses the first when it reads a network and the second when it builds it.
        unsupported=frozenset({"ConvTranspose", "HardSwish"}),
    ),
}
