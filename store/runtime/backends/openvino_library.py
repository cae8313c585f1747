"""Import OpenVINO, configure it, and read the requirements in its exported engines.

Unless it is told otherwise, the library computes in bfloat16 on every processor that has it, both when it
compiles a network and when it imports an engine; the engine's bytes do not say the precision. An engine runs
only with the instruction set of the processor that compiled it, so the target names that instruction set.
"""

import functools
import importlib
import importlib.metadata
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import numpy as np

from store.base.valueclass import valueclass
from store.runtime.backends.base import EngineLoadError, RuntimeUnavailableError, import_library

BACKEND: Final = "openvino"
DEVICE: Final = "CPU"
PRECISIONS: Final = {"fp32": "f32", "bf16": "bf16"}
"""Precision to the library's name of it."""

_TARGET: Final = "cpu:"
_MAGIC: Final = b"RR_UPCVO"
_HEADER: Final = struct.Struct("<8sIQ")
"""Magic, version of the layout, and length of the requirements that follow as text."""

_LONGEST: Final = 4096
_CAPABILITY: Final = "BF16"
_TELEMETRY: Final = "openvino_telemetry"
_REQUIREMENTS: Final = "RUNTIME_REQUIREMENTS"


@valueclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What an exported engine needs.

    Attributes:
        version: Version of OpenVINO, in three parts.
        instruction_set: The library's name of the processor's instruction set, such as "Intel AVX2".
    """

    version: str
    instruction_set: str

    @property
    def target(self) -> str:
        """The target that the engine was compiled for."""
        return _TARGET + self.instruction_set


def library() -> ModuleType:
    """Import OpenVINO without the package that reports each import to its maker.

    That package writes into the home folder and opens network connections. The library works without it.

    Raises:
        RuntimeUnavailableError: It is not installed, or does not load.
    """
    with _hidden(_TELEMETRY):
        return import_library("openvino", "an engine of OpenVINO", extra="openvino")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Hide a module that is not imported yet, as if it were not installed."""
    if name in sys.modules:
        yield
        return
    # None makes the import system find no module of this name.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def library_version() -> str:
    """Return the version that is installed, in three parts, without importing it.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeUnavailableError(
            "expected the Python package 'openvino', found none", hint="pip install 'c10[openvino]'"
        ) from error


def loaded_version(openvino: ModuleType) -> str:
    """Return the version of the library that was imported, in three parts."""
    return str(openvino.__version__).split("-", 1)[0]


def configuration(precision: str, *, threads: int = 1) -> dict[str, Any]:
    """Return the settings under which engines are compiled and imported.

    Args:
        precision: "fp32" or "bf16".
        threads: Threads within one run. They are not pinned, since several workers share the cores.
    """
    return {**numerics(precision), "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}


def numerics(precision: str, *, quantized: bool = False) -> dict[str, Any]:
    """Return the settings that may change a result.

    A network that quantises explicitly is computed in floats between its roundings: sums in 8 bits overflow on
    processors without VNNI. Only the compiler needs this setting; the exported engine has no such operators.
    """
    floats = {"LP_TRANSFORMS_MODE": "NO"} if quantized else {}
    return {
        **floats,
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }


@functools.cache
def cpu_target() -> str:
    """Return the target of engines that this machine compiles and runs, such as "cpu:Intel AVX2".

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, or too old to say.
    """
    openvino = library()
    opset = importlib.import_module("openvino.opset13")
    given = opset.parameter([1], np.float32)
    network = openvino.Model([opset.relu(given)], [given], "probe")
    try:
        compiled = openvino.Core().compile_model(network, DEVICE, configuration("fp32"))
        text = str(compiled.get_property(_REQUIREMENTS))
    except RuntimeError as error:
        raise RuntimeUnavailableError(
            f"expected an OpenVINO that says which instruction set its engines need, which is 2026.4 or later, found "
            f"{loaded_version(openvino)}",
            hint="pip install 'c10[openvino]'",
        ) from error
    return _parse_requirements(text).target


def has_bfloat16(openvino: ModuleType) -> bool:
    """Whether this processor computes in bfloat16; if not, the library computes in float32."""
    return _CAPABILITY in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def read_requirements(data: memoryview) -> Requirements:
    """Return the requirements in the first bytes of an exported engine.

    Raises:
        EngineLoadError: These bytes are no exported engine.
    """
    found = bytes(data[: _HEADER.size + _LONGEST])
    if len(found) >= _HEADER.size:
        magic, _, length = _HEADER.unpack_from(found)
        text = found[_HEADER.size : _HEADER.size + length]
        if magic == _MAGIC and 0 < length <= _LONGEST and len(text) == length and text.isascii():
            return _parse_requirements(text.decode("ascii"))
    raise EngineLoadError(
        f"expected an engine that OpenVINO exported, found {len(data)} bytes that do not begin like one",
        hint="c10 verify --full",
    )


def _parse_requirements(text: str) -> Requirements:
    fields = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if not {"ov", "isa"} <= fields.keys():
        raise EngineLoadError(
            f"expected the version and the instruction set that an engine needs, found {text!r}",
            hint="build the cache again here",
        )
    return Requirements(version=fields["ov"], instruction_set=fields["isa"])
