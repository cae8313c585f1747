"""Remembers what the file of a network says, so that a warm build neither reads nor hashes it. Disposable.

A network is remembered under what `stat` says of its file and of the files of its weights, with the care for racy writes
that `pipeline.tiles.digest_cache` explains. Whether an engine can be made of it is judged anew each time, and whoever compiles
it reads it again and refuses other bytes. A link is never remembered: what it leads to may change behind it.

Layout: magic (8), SHA-256 of all that follows (32), msgpack.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from pipeline.engines.onnx.declaration import Declaration, TensorInfo
from pipeline.tiles.digest_cache import RACY_NS, Fingerprint
from store.files.regular_file import read_own

_MAGIC: Final = b"C10NET\x00\x01"
_DIGEST: Final = 32
_MAX_BYTES: Final = 1 << 24

Stamps = tuple[Fingerprint, ...]
"""What `stat` says of the network's own file, and of those of its weights in order of name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network's file, read.

    Attributes:
        declared: What it says of itself.
        sha256: Its digest; see `pipeline.engines.onnx.file.onnx_digest`.
        size: Bytes of the file and of its external weights.
    """

    declared: Declaration
    sha256: str
    size: int


class NetworkMemory:
    """What is remembered of networks.

    Args:
        folder: Where memories are kept; None remembers nothing.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.
    """

    def __init__(self, folder: Path | None, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._now_ns = now_ns

    def of(self, path: Path, read: Callable[[], Network]) -> Network:
        """Return what is remembered of a network; or what `read` finds, and remember that.

        Raises:
            PipelineError: As `read` does.
        """
        place = self._place(path)
        if place is None:
            return read()
        kept = _load(place)
        if kept is not None and kept[0] == _stamps(path, kept[1].declared):
            return kept[1]
        began, own = self._now_ns(), _stamp(path)
        found = read()
        stamps = _stamps(path, found.declared)
        if stamps is not None and stamps[0] == own and _settled(stamps, began):
            _store(place, stamps, found)
        return found

    def _place(self, path: Path) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(os.fsencode(os.path.realpath(path.parent) + "/" + path.name)).hexdigest()[:32]
        return self._folder / f"network-{name}"


def _stamps(path: Path, declared: Declaration) -> Stamps | None:
    """What `stat` says now of a network's files; None if one of them is no regular file."""
    found = [_stamp(path), *(_stamp(path.parent / name) for name in declared.external)]
    there = tuple(each for each in found if each is not None)
    return there if len(there) == len(found) else None


def _stamp(path: Path) -> Fingerprint | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return Fingerprint.of(status) if stat.S_ISREG(status.st_mode) else None


def _settled(stamps: Stamps, began_ns: int) -> bool:
    """Whether a later change of any of these files would show."""
    return all(max(each.mtime_ns, each.ctime_ns) < began_ns - RACY_NS for each in stamps)


def _store(place: Path, stamps: Stamps, network: Network) -> None:
    """Replace what is stored. Best effort: a full or read-only disk costs only speed."""
    declared = network.declared
    body: bytes = msgpack.packb(
        [
            stamps,
            network.sha256,
            network.size,
            [(each.name, each.dtype, each.shape) for each in declared.inputs],
            [(each.name, each.dtype, each.shape) for each in declared.outputs],
            declared.external,
        ]
    )
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        # No temporary name is needed: until the last byte is there the checksum makes readers ignore the file.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)


def _load(place: Path) -> tuple[Stamps, Network] | None:
    """What was stored; nothing where any of it is torn, damaged, foreign or of another version."""
    try:
        content = read_own(place, limit=_MAX_BYTES)
    except OSError:
        return None
    body = content[len(_MAGIC) + _DIGEST :]
    if content[: len(_MAGIC) + _DIGEST] != _MAGIC + hashlib.sha256(body).digest():
        return None
    try:
        stamps, sha256, size, inputs, outputs, external = msgpack.unpackb(body)
        declared = Declaration(inputs=_infos(inputs), outputs=_infos(outputs), external=tuple(external))
        known = tuple(Fingerprint(*numbers) for numbers in stamps)
    except (TypeError, ValueError):
        return None
    return known, Network(declared=declared, sha256=sha256, size=size)


def _infos(found: list[Any]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name, dtype=dtype, shape=None if shape is None else tuple(shape))
        for name, dtype, shape in found
    )
