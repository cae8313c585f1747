"""What training of `builtin:place` needs besides the product: the network of its features, and its data file."""

import struct

from pipeline.builtin_model import graph
from pipeline.builtin_model.place import Whitening


def encode_whitening(whitening: Whitening) -> bytes:
    """Return the data file of a whitening, as `pipeline.builtin_model.place.decode_whitening` reads it."""
    features, dimensions = whitening.projection.shape
    header = struct.pack("<8sIII44x", b"C10WHITE", 1, features, dimensions)
    return header + whitening.mean.astype("<f4").tobytes() + whitening.projection.astype("<f2").tobytes()


def feature_model() -> bytes:
    """Return the ONNX model of the features before whitening, float32 [N, PLACE_FEATURES], not of unit length."""
    return graph.serialised_network(None, None)
