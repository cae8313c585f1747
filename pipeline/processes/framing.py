"""Encode and decode messages between a process and its child: length-prefixed msgpack. Pure.

A frame is a little-endian uint32 length and that many bytes of msgpack. An array is an extension of type 1:
the msgpack of ``[dtype, shape]``, then the raw elements; only numbers, never objects. Decoding runs no code
of the sender.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import msgpack
import numpy as np

from store.errors import Category

Payload = object
"""None, bool, int, float, str, bytes, sequences (arrive as lists), maps with text keys, arrays of numbers."""

Message = Any
"""A decoded message, which the receiver checks."""

MAX_FRAME: Final = 1 << 30
"""Largest frame in bytes; a longer one is a bug or a damaged stream."""

_LENGTH: Final = struct.Struct("<I")
_ARRAY: Final = 1
_DTYPES: Final = frozenset({"|b1", "|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8"})


class FrameError(ValueError):
    """A message cannot be encoded, or the stream does not hold frames."""

    category = Category.BUILD_FAILED


def encode(message: Payload) -> bytes:
    """Return the frame of one message.

    Raises:
        FrameError: The message holds something other than plain data, or is too long.
    """
    try:
        body: bytes = msgpack.packb(
            message,
            use_bin_type=True,
            strict_types=False,
            default=_pack_array,
            unicode_errors="surrogateescape",  # paths that are no UTF-8
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"expected plain data and arrays of numbers, found: {error}") from error
    if len(body) > MAX_FRAME:
        raise FrameError(f"expected a message of at most {MAX_FRAME} bytes, found {len(body)}")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Message:
    """Return the message in the body of a frame. Arrays are read-only.

    Raises:
        FrameError: The bytes are no message.
    """
    try:
        return msgpack.unpackb(body, raw=False, ext_hook=_unpack_extension, unicode_errors="surrogateescape")
    except FrameError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(f"expected a message in msgpack, found: {error!r}") from error


class FrameReader:
    """Splits a stream of bytes, which arrives in pieces of any size, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add the next bytes and yield every message that they complete.

        Raises:
            FrameError: The stream does not hold frames.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise FrameError(f"expected a frame of at most {MAX_FRAME} bytes, found {length}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body)


def _pack_array(value: object) -> object:
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        if little.dtype.str not in _DTYPES:
            raise TypeError(f"an array of {value.dtype}")
        head: bytes = msgpack.packb([little.dtype.str, list(little.shape)])
        return msgpack.ExtType(_ARRAY, head + little.tobytes())
    if isinstance(value, np.integer | np.floating):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__}")


def _unpack_extension(code: int, data: bytes) -> np.ndarray[Any, Any]:
    if code != _ARRAY:
        raise FrameError(f"expected extension {_ARRAY}, found {code}")
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_FRAME)
    unpacker.feed(data[:256])
    head = unpacker.unpack()
    match head:
        case [str(dtype), [*shape]] if dtype in _DTYPES and all(isinstance(n, int) and n >= 0 for n in shape):
            values = np.frombuffer(data, dtype, offset=unpacker.tell())
            return values.reshape(shape)
        case _:
            raise FrameError(f"expected the dtype and shape of an array, found {head!r}")
