"""What this machine runs: which versions of which libraries, and engines for which targets."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

from store.runtime.backends import openvino_library
from store.runtime.backends.base import ExecutionError
from store.runtime.backends.gpu import covers, gpus
from store.runtime.backends.tensorrt_library import MODULES, LibraryMissingError, library_version

ON_CPU: Final[Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
"""Backends whose engines run on a CPU, and the distributions that bring them."""

CPU: Final = "cpu"
TARGETS: Final[Mapping[str, frozenset[str]]] = {"onnxruntime": frozenset({CPU})}
"""Backends whose targets are the same on every machine."""


def libraries() -> dict[str, str]:
    """Return backend to the version of its library that is installed here, without those that are not."""
    found = {backend: version for backend, names in ON_CPU.items() if (version := _version(names))}
    for backend in MODULES:
        try:
            found[backend] = library_version(backend)
        except LibraryMissingError:
            continue
    return found


def covered(backend: str, target: str) -> bool:
    """Tell whether this CPU or the first GPU, the one that engines run on, runs those of a backend for a target."""
    if backend == openvino_library.BACKEND:
        return target == device(backend)
    found = gpus()
    return bool(found) and covers(backend, target, found[0])


def device(backend: str) -> str:
    """Return what engines of a backend would run on here, for messages."""
    if backend == openvino_library.BACKEND:
        try:
            return openvino_library.cpu_target()
        except ExecutionError:
            return "no OpenVINO that runs"
    found = gpus()
    return str(found[0]) if found else "no GPU"


def _version(names: Sequence[str]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
