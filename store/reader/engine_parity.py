"""Proofs that an engine answers here as its stand-in did on the ground, made once and remembered by digest.

An engine that was compiled for another device could not be run where the cache was built. On board it is asked the
golden questions before it is handed out: all images together, and each of them alone as a query comes. Its answers
must agree with those that travel with the cache. What was shown is remembered for the bytes of engine and answers, the
version of the library and the device, in this process and, if the caller names a folder, in write-once files there.

A file is one line: canonical JSON, a space, and the SHA-256 of `"c10/proof/1" || 00 || JSON`; its name is the digest of
what it is about. One that is damaged, foreign or in a folder that anybody may write to proves nothing: the questions
are asked again. A refusal is never remembered. Whoever can write to the folder can forge a proof; keep it where the
floors are kept.
"""

import contextlib
import hashlib
import os
import platform
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from store.base.canonical_json import CanonicalError, Value, decode, digest, encode
from store.base.preprocessing import Preprocessing
from store.errors import CacheUnusableError, ErrorKind, NoGoError
from store.files.sealed_memory import SealError, open_expected
from store.runtime.backends.gpu import exact_target, gpus
from store.runtime.backends.registry import BACKENDS
from store.runtime.golden_vectors import Run, Vectors, agreement, golden_samples

_BILLION: Final = 1_000_000_000
_DOMAIN: Final = b"c10/proof/1\0"
_MAX_BYTES: Final = 4096
_shown: dict[str, int] = {}
"""Digest of a claim to the cosine that was measured in this process, in parts per billion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityKey:
    """What a proof is about: nothing else can change the answers.

    Attributes:
        engine: SHA-256 of the engine.
        golden: SHA-256 of the answers that it is held against.
        backend: What executes it.
        version: Full version of that library.
        device: What it runs on, in words.
        preprocessing: Digest of the image contract.
    """

    engine: str
    golden: str
    backend: str
    version: str
    device: str
    preprocessing: str

    @property
    def name(self) -> str:
        """Digest of the claim."""
        return digest("c10/claim/1", self.to_document())

    def to_document(self) -> dict[str, Value]:
        """Return the claim as plain data."""
        return asdict(self)


def parity_key(
    *, engine: str, golden: str, backend: str, version: str, preprocessing: Preprocessing
) -> ParityKey:
    """Return the claim that an engine's answers agree, on this device."""
    return ParityKey(
        engine=engine,
        golden=golden,
        backend=backend,
        version=version,
        device=describe_device(backend),
        preprocessing=digest("c10/preprocessing/1", dict[str, Any](preprocessing.to_document())),
    )


def describe_device(backend: str) -> str:
    """Describe what executes the engines of a backend here: the GPU with its driver, or the processor."""
    if backend in BACKENDS and BACKENDS[backend].on_gpu:
        found = gpus()
        return f"{exact_target(found[0])}, CUDA {found[0].driver}" if found else "no GPU"
    return f"{platform.machine()}: {_processor()}"


def require_parity(
    about: ParityKey,
    run: Run,
    *,
    answers: Callable[[], Vectors],
    preprocessing: Preprocessing,
    least_cosine: float,
    folder: Path | None,
) -> None:
    """Make sure that an engine answers as its stand-in did, by asking it or from what was shown before.

    Args:
        about: What is claimed.
        run: Runs the engine.
        answers: Gives the answers to agree with, float32 [n, d].
        preprocessing: The image contract.
        least_cosine: Between two answers to the same image.
        folder: Where proofs are kept beyond this process, if anywhere.

    Raises:
        NoGoError: It answers otherwise.
        ExecutionError: It does not run.
    """
    least = round(least_cosine * _BILLION)
    known = _shown.get(about.name)
    if known is None and folder is not None:
        known = _read(about, folder)
    if known is not None and known >= least:
        _shown[about.name] = known
        return
    expected = answers()
    cosine = _measure(run, expected, preprocessing)
    measured = round(cosine * _BILLION)
    if measured < least:
        reason = (
            f"engine {about.engine[:12]}: expected answers as its stand-in gave, which embedded the tiles"
            f" (cosine of at least {least_cosine:g}), found {cosine:.6f} on {about.device}"
        )
        hint = "build for this device, or at a higher precision: c10 build"
        raise NoGoError([reason], kind=ErrorKind.PARITY, hint=hint)
    _shown[about.name] = measured
    if folder is not None:
        # A proof that cannot be kept costs the next process a few runs of the engine, and nothing else.
        with contextlib.suppress(OSError):
            _write(about, measured, folder)


def _measure(run: Run, expected: Vectors, preprocessing: Preprocessing) -> float:
    """Ask all questions together, then each alone; return the least cosine, -1 for answers of another shape."""
    samples = golden_samples(preprocessing, len(expected))
    together = run(samples)
    alone = np.concatenate([run(samples[row : row + 1]) for row in range(len(samples))])
    return min(agreement(together, expected), agreement(alone, expected))


def _read(about: ParityKey, folder: Path) -> int | None:
    """Return the cosine that a file proves, or nothing."""
    try:
        place = _open(folder)
    except OSError:
        return None
    try:
        fd = open_expected(about.name, folder=place, limit=_MAX_BYTES)
        with os.fdopen(fd, "rb") as file:
            return _cosine(about, file.read(_MAX_BYTES + 1))
    except (OSError, SealError, CacheUnusableError):
        return None
    finally:
        os.close(place)


def _write(about: ParityKey, measured: int, folder: Path) -> None:
    """Give a proof its name, complete and durable; one that is there and proves nothing makes way."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    place = _open(folder)
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444)
        try:
            os.write(fd, _line(about, measured))
            os.fsync(fd)
            try:
                _link(fd, about.name, place)
            except FileExistsError:
                if _read(about, folder) is not None:
                    return
                os.unlink(about.name, dir_fd=place)
                _link(fd, about.name, place)
            os.fsync(place)
        finally:
            os.close(fd)
    finally:
        os.close(place)


def _link(fd: int, name: str, place: int) -> None:
    # Only with a folder descriptor does Python call linkat with AT_SYMLINK_FOLLOW, which the path under /proc needs.
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=place, follow_symlinks=True)


def _open(folder: Path) -> int:
    """Open a folder in which its owner alone, or the owner's group, may put files.

    Raises:
        OSError: There is none.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.fstat(fd).st_mode & stat.S_IWOTH:
        os.close(fd)
        raise PermissionError(f"anybody may write to {folder}")
    return fd


def _line(about: ParityKey, measured: int) -> bytes:
    said = encode({"claim": about.to_document(), "cosine_ppb": measured})
    return said + b" " + hashlib.sha256(_DOMAIN + said).hexdigest().encode() + b"\n"


def _cosine(about: ParityKey, data: bytes) -> int | None:
    said, _, _ = data.rpartition(b" ")
    try:
        document = decode(said)
    except CanonicalError:
        return None
    match document:
        case {"cosine_ppb": int(cosine)} if data == _line(about, cosine):
            return cosine
        case _:
            return None


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    named = (line.partition(":") for line in facts.splitlines())
    return next(
        (value.strip() for key, _, value in named if key.strip() in {"model name", "Model"}), "unknown"
    )
