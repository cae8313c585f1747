"""What TensorRT and TensorRT for RTX are called, and which version of them is here: all four parts of it.

An engine runs under exactly the version that compiled it, in major, minor, patch and build. Python packages name the
version in up to four parts, some (those of JetPack among them) in three; the library itself always knows all four.
"""

import ctypes
import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

MODULES: Final[Mapping[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend to Python module."""

_DISTRIBUTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
}
_LIBRARIES: Final[Mapping[str, str]] = {"tensorrt": "libnvinfer.so", "tensorrt-rtx": "libtensorrt_rtx.so"}
_PARTS: Final = 4
_HEADER: Final = slice(24, 28)
_MAGIC: Final = b"trt"


class LibraryMissingError(Exception):
    """The library is not installed, or does not load here."""


@functools.cache
def library(backend: str) -> ModuleType:
    """Import the module of a backend.

    Raises:
        LibraryMissingError: It is not installed, or does not load.
    """
    try:
        return importlib.import_module(MODULES[backend])
    except Exception as error:
        # Beside ImportError: a library of its own that does not load is an OSError or a FileNotFoundError.
        raise LibraryMissingError(
            f"expected the Python package {MODULES[backend]!r}, found none that loads: {error}"
        ) from error


@functools.cache
def library_version(backend: str) -> str:
    """Return the version of the library that is installed, in four parts, without importing it where that suffices.

    Raises:
        LibraryMissingError: It is not installed, or does not say its version.
    """
    for name in _DISTRIBUTIONS[backend]:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if _is_whole(version):
            return version
    return loaded_version(backend)


def loaded_version(backend: str) -> str:
    """Return the version of the library in this process, which is imported: what it says itself, if it can.

    Raises:
        LibraryMissingError: It is not installed, or does not say its version.
    """
    module = library(backend)
    said = _asked(backend) or str(getattr(module, "__version__", ""))
    if not _is_whole(said):
        raise LibraryMissingError(
            f"expected the library of {backend} to tell its version in four parts, found {said!r}"
        )
    return said


def cuda_major(backend: str) -> int | None:
    """Return the major version of CUDA that the installed library was built for, as far as its package tells."""
    for name in _DISTRIBUTIONS[backend]:
        _, mark, rest = name.partition("-cu")
        if mark and _is_installed(name):
            return int(rest.partition("-")[0])
    return None


def engine_version(data: bytes | bytearray | memoryview) -> str | None:
    """Return the version that an engine's first bytes name, nothing if they are not those of an engine.

    Not documented by the maker, but stable since version 8 (NVIDIA/TensorRT#3073): the file begins with a letter and
    "trt", bytes 24 to 27 hold major, minor, patch and build, each modulo 256. A hint that spares a bad load, never a
    proof.
    """
    head = bytes(data[: _HEADER.stop])
    if len(head) < _HEADER.stop or head[1:4] != _MAGIC:
        return None
    return ".".join(str(part) for part in head[_HEADER])


def same_version(stamped: str, version: str) -> bool:
    """Tell whether the version in an engine's header stands for a whole version."""
    return stamped == ".".join(str(int(part) % 256) for part in version.split("."))


def _asked(backend: str) -> str | None:
    """Ask the shared library that the module has loaded; it says what no package can get wrong."""
    path = _mapped(_LIBRARIES[backend])
    if path is None:
        return None
    try:
        loaded = ctypes.CDLL(path)
        parts = [
            int(getattr(loaded, f"getInferLib{part}Version")())
            for part in ("Major", "Minor", "Patch", "Build")
        ]
    except (OSError, AttributeError):
        return None
    return ".".join(str(part) for part in parts)


def _mapped(stem: str) -> str | None:
    """Return the path of a shared library that this process has mapped."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        path = line[line.find("/") :] if "/" in line else ""
        if path.rpartition("/")[2].startswith(stem):
            return path
    return None


def _is_whole(version: str) -> bool:
    parts = version.split(".")
    return len(parts) == _PARTS and all(part.isascii() and part.isdigit() for part in parts)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
