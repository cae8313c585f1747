"""Import TensorRT or TensorRT for RTX, and find all four parts of its version.

An engine runs only under the version that compiled it: major, minor, patch and build. Some Python packages,
those of JetPack among them, name three parts; the library itself always knows all four.
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
        # Not only ImportError: if a shared library does not load, this is an OSError or a FileNotFoundError.
        raise LibraryMissingError(
            f"expected the Python package {MODULES[backend]!r}, found none that loads: {error}"
        ) from error


@functools.cache
def library_version(backend: str) -> str:
    """Return the version of the installed library, in four parts; import it only if the package does not say.

    Raises:
        LibraryMissingError: It is not installed, or does not say its version.
    """
    for name in _DISTRIBUTIONS[backend]:
        if _is_whole(version := _package_version(name)):
            return version
    return loaded_version(backend)


def loaded_version(backend: str) -> str:
    """Import the library and return its own version, in four parts.

    Raises:
        LibraryMissingError: It is not installed, or does not say its version.
    """
    module = library(backend)
    version = _asked(backend) or str(getattr(module, "__version__", ""))
    if not _is_whole(version):
        raise LibraryMissingError(
            f"expected the library of {backend} to say its version in four parts, found {version!r}"
        )
    return version


def cuda_major(backend: str) -> int | None:
    """Return the major version of CUDA in the name of the installed package, None without one."""
    for name in _DISTRIBUTIONS[backend]:
        _, mark, rest = name.partition("-cu")
        if mark and _package_version(name):
            return int(rest.partition("-")[0])
    return None


def engine_version(data: bytes | bytearray | memoryview) -> str | None:
    """Return the version in an engine's first bytes, None if they do not begin like an engine.

    NVIDIA does not document them, but they are stable since version 8 (NVIDIA/TensorRT#3073): the file begins
    with a letter and "trt", bytes 24 to 27 hold major, minor, patch and build, each modulo 256. This avoids
    bad loads and proves nothing.
    """
    head = bytes(data[: _HEADER.stop])
    if len(head) < _HEADER.stop or head[1:4] != _MAGIC:
        return None
    return ".".join(str(part) for part in head[_HEADER])


def same_version(stamped: str, version: str) -> bool:
    """Whether the version in an engine's header, each part modulo 256, is that of a whole version."""
    return stamped == ".".join(str(int(part) % 256) for part in version.split("."))


def _asked(backend: str) -> str | None:
    """Ask the loaded shared library, which knows its version better than any package."""
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


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
