"""List the GPUs of this machine, and say which of them run engines for a target.

Listing creates no context and takes no memory, so that the library that runs engines finds the device
untouched.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import Any, Final

from store.base.valueclass import valueclass

PORTABLE: Final = "portable"
"""Target of an engine of TensorRT for RTX that runs on many GPUs."""

PORTABLE_CAPABILITIES: Final = frozenset({"sm80", "sm86", "sm89", "sm120", "sm121"})
"""GPUs that run portable engines: those that the library lists (1.7), without sm75, which must be named."""

_SUCCESS: Final = 0


@valueclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, such as the model "Orin" with the compute capability "sm87"; memory in bytes.

    `index` is its number in CUDA, `driver` the greatest CUDA version that the driver supports, such as
    "12.6".
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
    """Return the GPUs that CUDA shows here; none without its driver or the Python package `cuda-python`."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.driver")
        return tuple(_list_gpus(cuda))
    except Exception:  # noqa: BLE001 - a missing driver shows as one of many errors, an old package as another
        return ()


def first_gpu() -> str:
    """Describe the GPU that engines run on, for messages."""
    found = gpus()
    return str(found[0]) if found else "no GPU"


def gpu_runs(backend: str, target: str, gpu: Gpu) -> bool:
    """Whether a GPU runs an engine that a backend compiled for a target.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        target: For TensorRT "smNN:NAME", one model of GPU. For TensorRT for RTX "portable", or capabilities
            such as "sm86+sm89".
        gpu: The device.
    """
    if backend == "tensorrt":
        return target == exact_target(gpu)
    if backend == "tensorrt-rtx":
        return gpu.capability in (PORTABLE_CAPABILITIES if target == PORTABLE else target.split("+"))
    return False


def exact_target(gpu: Gpu) -> str:
    """Return the target of one model of GPU, such as "sm87:Orin"; engines of TensorRT run on no other."""
    return f"{gpu.capability}:{gpu.name}"


def _list_gpus(cuda: Any) -> list[Gpu]:  # noqa: ANN401 - a module without types
    _value(cuda.cuInit(0))
    version = int(_value(cuda.cuDriverGetVersion()))
    found = []
    kinds = cuda.CUdevice_attribute
    capability = (
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )
    for index in range(int(_value(cuda.cuDeviceGetCount()))):
        device = _value(cuda.cuDeviceGet(index))
        major, minor = (int(_value(cuda.cuDeviceGetAttribute(kind, device))) for kind in capability)
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
    """Return the value of an answer of the driver, which is a status, then values."""
    status, *values = answer
    if int(status) != _SUCCESS:
        raise RuntimeError(f"CUDA: {status!r}")
    return values[0] if values else None
