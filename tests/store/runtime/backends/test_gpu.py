"""The GPUs that CUDA shows, through a fake of its driver's Python module."""

import enum
import sys
from types import SimpleNamespace

import pytest

from store.runtime.backends import gpu as device
from store.runtime.backends.gpu import Gpu, exact_target, gpu_runs, gpus

L4 = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=24 << 30, driver="12.6")
ORIN = Gpu(index=0, name="Orin", capability="sm87", memory=32 << 30, driver="13.0")


class Attribute(enum.Enum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


def driver(*found, status=0):
    def attribute(which, index):
        digits = found[index][1]
        return 0, digits[0] if which is Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR else digits[1]

    return SimpleNamespace(
        CUdevice_attribute=Attribute,
        cuInit=lambda _: (status,),
        cuDriverGetVersion=lambda: (0, 12060),
        cuDeviceGetCount=lambda: (0, len(found)),
        cuDeviceGet=lambda index: (0, index),
        cuDeviceGetAttribute=attribute,
        cuDeviceGetName=lambda _, index: (0, found[index][0] + bytes(100)),
        cuDeviceTotalMem=lambda index: (0, found[index][2]),
    )


@pytest.fixture
def shown(monkeypatch):
    gpus.cache_clear()

    def show(module):
        gpus.cache_clear()
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module)
        return gpus()

    yield show
    gpus.cache_clear()


def test_every_gpu_is_listed(shown):
    assert shown(driver((b"NVIDIA L4", (8, 9), 24 << 30), (b"RTX 5090", (12, 0), 32 << 30))) == (
        L4,
        Gpu(index=1, name="RTX 5090", capability="sm120", memory=32 << 30, driver="12.6"),
    )
    assert str(L4) == "NVIDIA L4, sm89, 24576 MiB, CUDA 12.6"
    assert L4.to_document()["memory_bytes"] == 24 << 30


@pytest.mark.parametrize(
    "module", [None, SimpleNamespace(), driver(), driver((b"L4", (8, 9), 1), status=100)]
)
def test_there_is_no_gpu_without_driver_or_package(shown, module, capfd):
    assert shown(module) == ()
    assert capfd.readouterr() == ("", "")


def test_a_driver_library_that_does_not_load_is_no_gpu(shown):
    def failing(_):
        raise RuntimeError("libcuda.so.1 not found")

    assert shown(SimpleNamespace(cuInit=failing)) == ()


@pytest.mark.parametrize(
    ("backend", "target", "gpu", "runs"),
    [
        ("tensorrt", "sm87:Orin", ORIN, True),
        ("tensorrt", "sm87:Orin Nano", ORIN, False),
        ("tensorrt", "sm89:NVIDIA L4", ORIN, False),
        ("tensorrt", "portable", L4, False),
        ("tensorrt-rtx", "portable", L4, True),
        ("tensorrt-rtx", "portable", ORIN, False),
        ("tensorrt-rtx", "sm86+sm89", L4, True),
        ("tensorrt-rtx", "sm8", L4, False),
        ("tensorrt-rtx", "sm120", L4, False),
        ("onnxruntime", "sm89", L4, False),
    ],
)
def test_an_engine_runs_on_gpus_of_its_target(backend, target, gpu, runs):
    assert gpu_runs(backend, target, gpu) is runs
    assert exact_target(ORIN) == "sm87:Orin"


def test_the_gpus_of_this_machine_are_listed():
    gpus.cache_clear()
    assert all(gpu.capability.startswith("sm") for gpu in device.gpus())
