"""Call the part of CUDA's runtime that runs engines: page-locked and device memory, streams, events.

A `Cuda` owns all that it allocates, and `close` releases it, the newest first. CUDA returns failures as
values; here each becomes a `CudaError` that names the call.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from store.runtime.backends.base import Untyped, Vectors, import_library

_MEMORY: Final = Path("/proc/meminfo")
_STREAM_NON_BLOCKING: Final = 1
_EVENT_BLOCKING_SYNC: Final = 1
_EVENT_NO_TIMING: Final = 2


class CudaError(Exception):
    """A call of CUDA failed; the message says which one and how."""

    def __init__(self, message: str, *, memory: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.memory = memory


class Cuda:
    """One device and everything that was allocated on it."""

    def __init__(self, device: int, *, extra: str) -> None:
        self._library = import_library("cuda.bindings.runtime", "running an engine on a GPU", extra=extra)
        self._device = device
        self._allocated = contextlib.ExitStack()
        self.use_device()

    def use_device(self) -> None:
        """Select the device for the calling thread: CUDA keeps that per thread."""
        self._call("cudaSetDevice", self._device)

    def close(self) -> None:
        """Release everything. Errors are ignored: nobody could act on them."""
        with contextlib.suppress(CudaError):
            self._allocated.close()

    def free_memory(self) -> int:
        """Return the bytes of device memory that are free.

        A GPU that shares the machine's memory, like that of a Jetson, counts the system's file cache as used,
        though the system would free it at once. There the system's own figure counts.
        """
        free, _ = self._call("cudaMemGetInfo")
        integrated = self._call(
            "cudaDeviceGetAttribute", self._library.cudaDeviceAttr.cudaDevAttrIntegrated, self._device
        )
        return max(int(free), _available_memory()) if integrated else int(free)

    def host_array(self, shape: Sequence[int]) -> Vectors:
        """Return page-locked float32 [*shape] of zeros: only such memory is copied while kernels run."""
        count = int(np.prod(shape, dtype=np.int64))
        pointer = int(self._call("cudaHostAlloc", 4 * count, 0))
        self._allocated.callback(self._call, "cudaFreeHost", pointer)
        floats = (ctypes.c_float * count).from_address(pointer)
        array: Vectors = np.frombuffer(memoryview(floats), np.float32).reshape(tuple(shape))
        array[...] = 0
        return array

    def device_memory(self, size: int) -> int:
        """Return the address of device memory of a size in bytes."""
        pointer = int(self._call("cudaMalloc", max(1, size)))
        self._allocated.callback(self._call, "cudaFree", pointer)
        return pointer

    def stream(self) -> Untyped:
        """Return a stream that does not wait for the default one."""
        stream = self._call("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING)
        self._allocated.callback(self._call, "cudaStreamDestroy", stream)
        return stream

    def event(self) -> Untyped:
        """Return an event. A thread that waits for it sleeps, since workers share the cores."""
        event = self._call("cudaEventCreateWithFlags", _EVENT_BLOCKING_SYNC | _EVENT_NO_TIMING)
        self._allocated.callback(self._call, "cudaEventDestroy", event)
        return event

    def upload(self, stream: Untyped, host: Vectors, device: int) -> None:
        """Queue a copy of a whole page-locked array to the device."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, stream)

    def download(self, stream: Untyped, device: int, host: Vectors) -> None:
        """Queue a copy from the device into a whole page-locked array."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, stream)

    def record(self, event: Untyped, stream: Untyped) -> None:
        """Let an event happen when a stream has done all work queued so far."""
        self._call("cudaEventRecord", event, stream)

    def stream_wait_event(self, stream: Untyped, event: Untyped) -> None:
        """Let a stream wait for an event before it does the work queued next."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: Untyped) -> None:
        """Sleep until an event has happened."""
        self._call("cudaEventSynchronize", event)

    def synchronize_streams(self, *streams: Untyped) -> None:
        """Sleep until streams have done all queued work."""
        for stream in streams:
            self._call("cudaStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Untyped) -> Untyped:
        """Call a function of CUDA; return its one result, or a list of none or several."""
        code, *results = getattr(self._library, name)(*arguments)
        if int(code) != 0:
            raise self._error(name, code)
        return results[0] if len(results) == 1 else results

    def _error(self, name: str, code: Untyped) -> CudaError:
        _, label = self._library.cudaGetErrorName(code)
        _, text = self._library.cudaGetErrorString(code)
        # CUDA also keeps failures that leave the device usable for the next caller who asks; clear this one.
        self._library.cudaGetLastError()
        return CudaError(
            f"{name} failed: {_text(label)} ({int(code)}), {_text(text)}",
            memory=int(code) == int(self._library.cudaError_t.cudaErrorMemoryAllocation),
        )


def _available_memory() -> int:
    """Return the bytes that Linux could give to a program, file cache included; 0 if it does not say."""
    try:
        lines = _MEMORY.read_text("ascii").splitlines()
    except OSError:
        return 0
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(next(found, "0"))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
