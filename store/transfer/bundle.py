"""Read records and single artifacts of a bundle in any order, without reading the whole file."""

import hashlib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Final

from journal import Entry
from journal.record import Head
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.transfer.bundle_format import BundleHeader
from store.transfer.bundle_reader import open_bundle

MAX_READ: Final = 1 << 30
"""Longer artifacts are not read into memory."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The records of a bundle, their chain checked, and the places of its artifacts.

    Content is checked against its digest when it is read, so that the file may be large, and may change.
    """

    path: Path
    header: BundleHeader
    entries: tuple[Entry, ...] = field(repr=False)
    _places: Mapping[str, tuple[int, int]] = field(repr=False)

    @property
    def head(self) -> Head:
        """The last record."""
        return self.entries[-1].head

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether it carries an artifact of this digest and size."""
        found = self._places.get(ref.sha256)
        return found is not None and found[1] == ref.size

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the checked bytes of an artifact; None if it is not carried, damaged, or very long."""
        if not self.holds(ref) or ref.size > MAX_READ:
            return None
        offset, size = self._places[ref.sha256]
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == ref.sha256 else None


def read_bundle(path: Path) -> Bundle:
    """Read the records of a bundle, and find its artifacts without reading them.

    Raises:
        BundleError: It is no bundle, or not whole.
        CacheUnusableError: It cannot be read.
    """
    with open_bundle(path, hash_all=False) as reader:
        header, entries = reader.header, tuple(reader.entries())
        places = {ref.sha256: (reader.offset, ref.size) for ref in reader.artifacts()}
        reader.finish()
    return Bundle(path=path, header=header, entries=entries, _places=places)
