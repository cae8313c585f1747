"""Cache what network files declare, so that an up-to-date build neither reads nor hashes them. Disposable.

An entry is valid while `stat` shows the network's file and its weight files unchanged;
`pipeline.tiles.digest_cache` explains for which files that is enough. Whether an engine can be made of the
network is checked each time, and the compiler reads the file again and refuses other bytes. Links have no
entry: their targets may change.

Layout of an entry: magic (8), SHA-256 of all that follows (32), msgpack.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from pipeline.engines.onnx.declaration import Declaration, TensorInfo
from pipeline.tiles.digest_cache import RACY_NS, Fingerprint, shows_changes
from store.base.valueclass import valueclass
from store.files.regular_file import read_own

_MAGIC: Final = b"C10NET\x00\x03"
_DIGEST: Final = 32
_MAX_BYTES: Final = 1 << 24

Fingerprints = tuple[Fingerprint, ...]
"""Those of the network's own file, and of its weight files in order of name."""


@valueclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """What is known of a network's file after reading it.

    Attributes:
        declared: What it declares.
        sha256: Its digest; see `pipeline.engines.onnx.file.onnx_digest`.
        size: Bytes of the file and of its external weights.
    """

    declared: Declaration
    sha256: str
    size: int


class NetworkCache:
    """Cached network files.

    Args:
        folder: Where the entries are; None caches nothing.
        now_ns: The wall clock that stamps files, nanoseconds since 1970.
    """

    def __init__(self, folder: Path | None, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._now_ns = now_ns

    def get_or_read(self, path: Path, read: Callable[[], NetworkFile]) -> NetworkFile:
        """Return the entry of a network; if there is none, the result of `read`, and cache it.

        Raises:
            PipelineError: As `read` does.
        """
        entry = self._entry(path)
        if entry is None:
            return read()
        cached = _load(entry)
        if cached is not None and cached[0] == _fingerprints(path, cached[1].declared):
            return cached[1]
        began, before = self._now_ns(), _fingerprint(path)
        found = read()
        fingerprints = _fingerprints(path, found.declared)
        if fingerprints is not None and fingerprints[0] == before and _is_settled(fingerprints, began):
            _store(entry, fingerprints, found)
        return found

    def _entry(self, path: Path) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(os.fsencode(os.path.realpath(path.parent) + "/" + path.name)).hexdigest()[:32]
        return self._folder / f"network-{name}"


def _fingerprints(path: Path, declared: Declaration) -> Fingerprints | None:
    """Return the fingerprints of a network's files; None if one of them is no regular file, or unreliable."""
    found = [_fingerprint(path), *(_fingerprint(path.parent / name) for name in declared.external)]
    regular = tuple(each for each in found if each is not None)
    return regular if len(regular) == len(found) else None


def _fingerprint(path: Path) -> Fingerprint | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    fingerprint = Fingerprint.of(status)
    reliable = stat.S_ISREG(status.st_mode) and shows_changes(np.array([fingerprint]), lambda _: path).all()
    return fingerprint if reliable else None


def _is_settled(fingerprints: Fingerprints, began_ns: int) -> bool:
    """Tell whether a later change of any of these files would change its fingerprint."""
    return all(max(each.mtime_ns, each.ctime_ns) < began_ns - RACY_NS for each in fingerprints)


def _store(entry: Path, fingerprints: Fingerprints, network: NetworkFile) -> None:
    """Replace an entry. Best effort: a full or read-only disk costs only speed."""
    declared = network.declared
    body: bytes = msgpack.packb(
        [
            fingerprints,
            network.sha256,
            network.size,
            [(each.name, each.dtype, each.shape) for each in declared.inputs],
            [(each.name, each.dtype, each.shape) for each in declared.outputs],
            declared.external,
            declared.quantized,
        ]
    )
    with suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry.unlink(missing_ok=True)
        # No temporary name: until the last byte is written, the checksum makes readers ignore the file.
        descriptor = os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)


def _load(entry: Path) -> tuple[Fingerprints, NetworkFile] | None:
    """Return an entry; None if it is torn, damaged, another user's or of another version."""
    try:
        content = read_own(entry, limit=_MAX_BYTES)
    except OSError:
        return None
    body = content[len(_MAGIC) + _DIGEST :]
    if content[: len(_MAGIC) + _DIGEST] != _MAGIC + hashlib.sha256(body).digest():
        return None
    try:
        fingerprints, sha256, size, inputs, outputs, external, quantized = msgpack.unpackb(body)
        declared = Declaration(
            inputs=_tensor_infos(inputs),
            outputs=_tensor_infos(outputs),
            external=tuple(external),
            quantized=quantized,
        )
        stored = tuple(Fingerprint(*numbers) for numbers in fingerprints)
    except (TypeError, ValueError):
        return None
    return stored, NetworkFile(declared=declared, sha256=sha256, size=size)


def _tensor_infos(found: list[Any]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, dtype=dtype, shape=None if shape is None else tuple(shape))
        for name, dtype, shape in found
    )
