"""Find the installed distribution of faiss, and refuse more than one.

All of them own the module `faiss`. Two in one environment overwrite each other's files, so that the order of
their installation decides what is imported. This is checked before faiss is imported, on the ground and on
board.
"""

import functools
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from store.base.valueclass import valueclass
from store.runtime.backends.base import RuntimeUnavailableError

_PREFIX: Final = "faiss"
_GPU: Final = "gpu"


@valueclass(frozen=True, slots=True)
class FaissDistribution:
    """An installed distribution of faiss."""

    name: str
    version: str

    @property
    def gpu(self) -> bool:
        """Whether it can use GPUs."""
        return _GPU in self.name.lower().replace("_", "-").split("-")


@functools.cache
def installed_faiss() -> FaissDistribution:
    """Return the installed distribution, which is looked up once per process.

    Raises:
        RuntimeUnavailableError: None or several are installed.
    """
    from importlib import metadata  # noqa: PLC0415 - it takes a fifth of the time in which NumPy is imported

    try:
        module = find_spec(_PREFIX)
    except ImportError:  # from an import hook, as programs in one file have
        module = None
    if module is None or module.origin is None:
        return require_one_faiss(())
    # Distributions that overwrite each other are in one folder, beside the module.
    beside = map(metadata.Distribution.at, Path(module.origin).parents[1].glob(f"{_PREFIX}*-info"))
    # An uninstallation that was cut short leaves an empty folder, which is no distribution.
    whole = (each for each in beside if any(map(each.read_text, ("METADATA", "PKG-INFO", ""))))
    return require_one_faiss((each.name, each.version) for each in whole)


def require_one_faiss(installed: Iterable[tuple[str, str]]) -> FaissDistribution:
    """Return the one distribution of faiss among those installed, (name, version) each.

    Raises:
        FlavourError: There is none, or more than one.
    """
    found = sorted({each for each in installed if each[0].lower().startswith(_PREFIX)})
    if not found:
        raise RuntimeUnavailableError(
            "expected the Python package 'faiss', found none", hint="pip install 'c10[onboard]'"
        )
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found)
        raise RuntimeUnavailableError(
            f"expected one distribution of faiss, found {names}: they overwrite each other's files",
            hint=f"pip uninstall {' '.join(name for name, _ in found)}, then install one of them again",
        )
    return FaissDistribution(*found[0])
