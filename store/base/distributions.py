"""Which distributions are installed, and in which versions, told by the folders that lie beside the packages.

`importlib.metadata` says the same, and is asked wherever this look is not enough. Loading it takes a twentieth of a
command that finds nothing to do: it brings a reader of e-mail and one of archives.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_SEPARATORS = re.compile(r"[-_.]+")
_INFO = (".dist-info", ".egg-info")
_HEADERS = 1 << 12
"""Bytes of metadata that are read; name and version are among its first lines."""


def version_of(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    wanted = _normal(name)
    found = next(_found(lambda normal: normal == wanted), None)
    if found is not None and found[1] is not None and _normal(found[0]) == wanted:
        return found[1]
    from importlib import metadata  # noqa: PLC0415 - see the module

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def with_prefix(prefix: str) -> list[tuple[str, str]]:
    """Return name and version of the distributions whose names begin so, wherever on the path they lie."""
    found = list(_found(lambda normal: normal.startswith(prefix)))
    told = [(name, version) for name, version in found if version is not None]
    if told and len(told) == len(found):
        return told
    from importlib import metadata  # noqa: PLC0415 - see the module

    there = ((each.name or "", each.version) for each in metadata.distributions())
    return [(name, version) for name, version in there if _normal(name).startswith(prefix)]


def _found(wanted: Callable[[str], bool]) -> Iterator[tuple[str, str | None]]:
    """Name and version of every distribution whose folder is called like one that is wanted, in the order of the path.

    The version is None where its metadata lies otherwise than installers leave it today, and where a folder has two of
    one name: which of them counts is for the standard library to say, since it depends on the order of the folder.
    """
    for folder in dict.fromkeys(sys.path):
        try:
            with os.scandir(folder or ".") as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(_INFO))
        except OSError:
            continue  # an archive, or nothing at all
        there = [(_distribution(name), name) for name in names]
        called = [normal for normal, _ in there if wanted(normal)]
        for normal, name in there:
            if wanted(normal):
                yield _read(Path(folder, name, "METADATA")) if called.count(normal) == 1 else ("", None)


def _distribution(folder: str) -> str:
    """The name of a distribution, as installers compare it, from that of its folder."""
    return _normal(folder.removesuffix(".dist-info").removesuffix(".egg-info").partition("-")[0])


def _read(path: Path) -> tuple[str, str | None]:
    """Name and version as the headers of a metadata file say."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADERS).partition(b"\n\n")[0].decode("utf-8", "replace")
    except OSError:
        return "", None
    fields = dict(line.split(": ", 1) for line in reversed(head.splitlines()) if ": " in line)
    return fields.get("Name", "").strip(), fields.get("Version", "").strip() or None


def _normal(name: str) -> str:
    """A name as installers compare it."""
    return _SEPARATORS.sub("-", name).lower()
