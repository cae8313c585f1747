"""Check that an engine answers here as its stand-in did on the ground, and keep a record of it.

An engine compiled for another device could not run where the cache was built. On board it runs on the golden
images before it is handed out, on all of them together and on each alone, as queries come. Its answers must
agree with those in the cache. The result is kept for the bytes of engine and answers, the version of the
library and the device: in this process and, if the caller names a folder, in write-once parity records there.

A parity record is one line: canonical JSON, a space, and the SHA-256 of `"c10/proof/1" || 00 || JSON`; its
name is the digest of its key. One that is damaged, or in a folder that anybody may write to, does not count:
the engine is checked again. A refusal is never recorded. Who can write to the folder can forge a record, so
keep it where the rollback protection is kept.
"""

import contextlib
import hashlib
import os
import platform
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from store.base.canonical_json import CanonicalError, Value, decode, digest, encode
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass
from store.errors import ArtifactError, CacheUnusableError, ErrorKind, NoGoError
from store.files.sealed_memory import SealError, open_expected
from store.manifest.manifest import EngineEntry, StandInEntry
from store.reader.manifest_files import damaged
from store.runtime.backends.gpu import exact_target, gpus
from store.runtime.backends.registry import BACKENDS
from store.runtime.golden_vectors import Run, Vectors, agreement, decode_answers, golden_samples

_BILLION: Final = 1_000_000_000
_DOMAIN: Final = b"c10/proof/1\0"
_MAX_BYTES: Final = 4096
_measured: dict[str, int] = {}
"""Name of a key to the cosine that this process measured or read, in parts per billion."""


@valueclass(frozen=True, slots=True, kw_only=True)
class ParityKey:
    """Everything that can change the answers.

    `engine`, `golden` and `preprocessing` are digests of the engine, of the stand-in's answers and of the
    image contract; `version` is the full one of the backend's library.
    """

    engine: str
    golden: str
    backend: str
    version: str
    device: str
    preprocessing: str

    @property
    def name(self) -> str:
        """Digest of the key, which names its record."""
        return digest("c10/claim/1", self.to_document())

    def to_document(self) -> dict[str, Value]:
        """Return the key as plain data."""
        return asdict(self)


def parity_key(
    *, engine: str, golden: str, backend: str, version: str, preprocessing: Preprocessing
) -> ParityKey:
    """Return the key of an engine on this device."""
    return ParityKey(
        engine=engine,
        golden=golden,
        backend=backend,
        version=version,
        device=describe_device(backend),
        preprocessing=digest("c10/preprocessing/1", dict[str, Any](preprocessing.to_document())),
    )


def describe_device(backend: str) -> str:
    """Describe what runs the engines of a backend here: the GPU with its driver, or the processor."""
    if backend in BACKENDS and BACKENDS[backend].on_gpu:
        found = gpus()
        return f"{exact_target(found[0])}, CUDA {found[0].driver}" if found else "no GPU"
    return f"{platform.machine()}: {_processor()}"


def require_stand_in_parity(
    stand_in: StandInEntry,
    entry: EngineEntry,
    run: Run,
    *,
    preprocessing: Preprocessing,
    golden: Callable[[], memoryview],
    folder: Path | None,
) -> None:
    """Make sure that the engine of an entry answers as its stand-in did; see `require_parity`.

    Args:
        stand_in: The engine that embedded the tiles.
        entry: The engine that flies.
        run: Runs the engine that flies.
        preprocessing: The image contract.
        golden: Returns the artifact of the stand-in's answers.
        folder: Where records are kept; None for this process alone.

    Raises:
        NoGoError: It answers otherwise, or the stand-in's answers are damaged.
        ExecutionError: It does not run.
    """
    key = parity_key(
        engine=entry.artifact.sha256,
        golden=stand_in.golden.sha256,
        backend=entry.backend,
        version=entry.version,
        preprocessing=preprocessing,
    )

    def answers() -> Vectors:
        try:
            return decode_answers(golden())
        except ArtifactError as error:
            raise damaged([error.message]) from error

    require_parity(
        key,
        run,
        answers=answers,
        preprocessing=preprocessing,
        least_cosine=stand_in.least_cosine,
        folder=folder,
    )


def require_parity(
    key: ParityKey,
    run: Run,
    *,
    answers: Callable[[], Vectors],
    preprocessing: Preprocessing,
    least_cosine: float,
    folder: Path | None,
) -> None:
    """Make sure that an engine answers as its stand-in did: by a record, or by running it.

    Args:
        key: Engine, answers and device.
        run: Runs the engine.
        answers: Returns the answers of the stand-in, float32 [n, d].
        preprocessing: The image contract.
        least_cosine: Least cosine between two answers to the same image.
        folder: Where records are kept; None for this process alone.

    Raises:
        NoGoError: It answers otherwise.
        ExecutionError: It does not run.
    """
    least = round(least_cosine * _BILLION)
    known = _measured.get(key.name)
    if known is None and folder is not None:
        known = _read_record(key, folder)
    if known is not None and known >= least:
        _measured[key.name] = known
        return
    expected = answers()
    cosine = _measure_cosine(run, expected, preprocessing)
    measured = round(cosine * _BILLION)
    if measured < least:
        reason = (
            f"engine {key.engine[:12]}: expected answers as its stand-in gave, which embedded the tiles"
            f" (cosine of at least {least_cosine:g}), found {cosine:.6f} on {key.device}"
        )
        hint = "build for this device, or at a higher precision: c10 build"
        raise NoGoError([reason], kind=ErrorKind.PARITY, hint=hint)
    _measured[key.name] = measured
    if folder is not None:
        # Without a record the next process runs the engine a few times more, and nothing else.
        with contextlib.suppress(OSError):
            _write_record(key, measured, folder)


def _measure_cosine(run: Run, expected: Vectors, preprocessing: Preprocessing) -> float:
    """Run all golden images together, then each alone; return the least cosine, -1 for another shape."""
    samples = golden_samples(preprocessing, len(expected))
    together = run(samples)
    alone = np.concatenate([run(samples[row : row + 1]) for row in range(len(samples))])
    return min(agreement(together, expected), agreement(alone, expected))


def _read_record(key: ParityKey, folder: Path) -> int | None:
    """Return the cosine of a valid record, else None."""
    try:
        with _open_folder(folder) as folder_fd:
            fd = open_expected(key.name, folder=folder_fd, limit=_MAX_BYTES)
            with os.fdopen(fd, "rb") as file:
                return _cosine_of(key, file.read(_MAX_BYTES + 1))
    except (OSError, SealError, CacheUnusableError):
        return None


def _write_record(key: ParityKey, measured: int, folder: Path) -> None:
    """Write a record, complete and durable before it has its name; replace one that is not valid."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    with _open_folder(folder) as folder_fd:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444)
        try:
            os.write(fd, _record(key, measured))
            os.fsync(fd)
            try:
                _link(fd, key.name, folder_fd)
            except FileExistsError:
                if _read_record(key, folder) is not None:
                    return
                os.unlink(key.name, dir_fd=folder_fd)
                _link(fd, key.name, folder_fd)
            os.fsync(folder_fd)
        finally:
            os.close(fd)


def _link(fd: int, name: str, folder_fd: int) -> None:
    # Python passes AT_SYMLINK_FOLLOW, which a path under /proc needs, only with a folder descriptor.
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder_fd, follow_symlinks=True)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    """Open a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_mode & stat.S_IWOTH:
            raise PermissionError(f"anybody may write to {folder}")
        yield fd
    finally:
        os.close(fd)


def _record(key: ParityKey, measured: int) -> bytes:
    content = encode({"claim": key.to_document(), "cosine_ppb": measured})
    return content + b" " + hashlib.sha256(_DOMAIN + content).hexdigest().encode() + b"\n"


def _cosine_of(key: ParityKey, data: bytes) -> int | None:
    content, _, _ = data.rpartition(b" ")
    try:
        document = decode(content)
    except CanonicalError:
        return None
    match document:
        case {"cosine_ppb": int(cosine)} if data == _record(key, cosine):
            return cosine
        case _:
            return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    named = (line.partition(":") for line in lines.splitlines())
    return next(
        (value.strip() for key, _, value in named if key.strip() in {"model name", "Model"}), "unknown"
    )
