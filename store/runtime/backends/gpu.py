"""The GPUs of this machine, and whether an engine that was compiled for a target runs on one of them.

Used on the ground and on board. Nothing is kept from a look: no context is created and no memory taken, so that the
library that executes engines finds the device as it was.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PORTABLE: Final = "portable"
"""Target of an engine of TensorRT for RTX that was compiled for no GPU in particular."""

PORTABLE_CAPABILITIES: Final = frozenset({"sm80", "sm86", "sm89", "sm120", "sm121"})
"""Where portable engines run: what the library lists (1.7), less sm75, for which it compiles only by name."""

_SUCCESS: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its place in CUDA's order; engines run on number 0.
        name: What its maker calls it, such as "NVIDIA L4" or "Orin".
        capability: Its compute capability, such as "sm89".
        memory: Bytes of its memory.
        driver: Greatest CUDA version that the driver offers, such as "12.6".
    """

    index: int
    name: str
    capability: str
    memory: int
    driver: str

    def to_document(self) -> Mapping[str, object]:
        """Return the facts as plain data."""
        return {
            "name": self.name,
            "capability": self.capability,
            "memory_bytes": self.memory,
            "cuda": self.driver,
        }

    def __str__(self) -> str:
        return f"{self.name}, {self.capability}, {self.memory >> 20} MiB, CUDA {self.driver}"


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA shows here, none without its driver or the Python package `cuda-python`.

    Looked at once per process.
    """
    try:
        cuda: Any = importlib.import_module("cuda.bindings.driver")
        return tuple(_look(cuda))
    except Exception:  # noqa: BLE001 - a missing driver shows as one of many errors, an old package as another
        return ()


def first_gpu() -> str:
    """Describe the GPU that engines run on, for messages."""
    found = gpus()
    return str(found[0]) if found else "no GPU"


def gpu_runs(backend: str, target: str, gpu: Gpu) -> bool:
    """Tell whether an engine that a backend compiled for a target runs on a GPU.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        target: Of the former "smNN:NAME", one model of GPU. Of the latter "portable", or capabilities with plus signs
            in between, such as "sm86+sm89".
        gpu: The device.
    """
    if backend == "tensorrt":
        return target == exact_target(gpu)
    if backend == "tensorrt-rtx":
        return gpu.capability in (PORTABLE_CAPABILITIES if target == PORTABLE else target.split("+"))
    return False


def exact_target(gpu: Gpu) -> str:
    """Name one model of GPU, the only device on which an engine of TensorRT runs: "sm87:Orin"."""
    return f"{gpu.capability}:{gpu.name}"


def _look(cuda: Any) -> list[Gpu]:  # noqa: ANN401 - a module without types
    _value(cuda.cuInit(0))
    version = int(_value(cuda.cuDriverGetVersion()))
    found = []
    attribute = cuda.CUdevice_attribute
    for index in range(int(_value(cuda.cuDeviceGetCount()))):
        device = _value(cuda.cuDeviceGet(index))
        major, minor = (
            int(_value(cuda.cuDeviceGetAttribute(which, device)))
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        name: bytes = _value(cuda.cuDeviceGetName(128, device))
        found.append(
            Gpu(
                index=index,
                name=name.split(b"\0", 1)[0].decode("utf-8", "replace").strip(),
                capability=f"sm{major}{minor}",
                memory=int(_value(cuda.cuDeviceTotalMem(device))),
                driver=f"{version // 1000}.{version % 1000 // 10}",
            )
        )
    return found


def _value(answer: Any) -> Any:  # noqa: ANN401 - as above
    """Take the value out of what a call of the driver gives: its status, then values.

    Raises:
        RuntimeError: The status is not success.
    """
    status, *values = answer
    if int(status) != _SUCCESS:
        raise RuntimeError(f"CUDA: {status!r}")
    return values[0] if values else None
