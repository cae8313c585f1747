"""Which flavour of faiss is installed. There must be exactly one: all of them own the module `faiss`.

Two in one environment overwrite each other's files, so that neither is whole and what is imported depends on the order
in which they came. That is looked at before faiss is imported, on the ground and on board.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_PREFIX: Final = "faiss"
_GPU: Final = "gpu"


class FaissInstallError(Exception):
    """There is no faiss, or more than one."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


@dataclass(frozen=True, slots=True)
class FaissDistribution:
    """An installed distribution of faiss."""

    name: str
    version: str

    @property
    def gpu(self) -> bool:
        """Whether it is one that can work on GPUs."""
        return _GPU in self.name.lower().replace("_", "-").split("-")


@functools.cache
def installed_faiss() -> FaissDistribution:
    """Return the one that is installed. Looked up once per process.

    Raises:
        FlavourError: None or several are.
    """
    module = find_spec(_PREFIX)
    if module is None or module.origin is None:
        return require_one_faiss(())
    # Flavours that overwrite each other lie in one folder, beside the module.
    beside = Path(module.origin).parents[1].glob(f"{_PREFIX}*-info")
    return require_one_faiss((each.name, each.version) for each in map(metadata.Distribution.at, beside))


def require_one_faiss(installed: Iterable[tuple[str, str]]) -> FaissDistribution:
    """Return the one distribution of faiss among those installed, (name, version) each.

    Raises:
        FlavourError: There is none, or more than one.
    """
    found = sorted({each for each in installed if each[0].lower().startswith(_PREFIX)})
    if not found:
        raise FaissInstallError("expected the Python package 'faiss', found none", "pip install 'c10[cpu]'")
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found)
        raise FaissInstallError(
            f"expected one distribution of faiss, found {names}: they overwrite each other's files",
            f"pip uninstall {' '.join(name for name, _ in found)}, then install one of them again",
        )
    return FaissDistribution(*found[0])
