"""The packages that `c10` needs and an aircraft lacks: the extra `ground`. Pure."""

from typing import Final

GROUND_PACKAGES: Final = frozenset(
    {"click", "lmdb", "mercantile", "msgpack", "pmtiles", "portalocker", "rich", "shapely", "tomli"}
)
"""Each is imported under the name under which it is installed."""

HINT: Final = "pip install 'c10[cpu]'"


def missing_ground_package(error: BaseException) -> str | None:
    """Return the package of the ground that an import did not find, None if it is not that."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name if name in GROUND_PACKAGES else None
