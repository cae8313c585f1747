"""What an operator sets for a machine; nothing of it enters a build's identity."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import RequestError

_MAX_WORKERS = 256
_EXECUTORS = ("local", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class C10ProvisionerConfig:
    """Operator settings.

    Attributes:
        cache_root: Folder of the cache.
        coverage_strict: Whether strangers in the cache's folders stop a build; what a manifest names and is
            missing or damaged always does.
        lock_timeout_s: How long to wait for another build, seconds.
        manifest_filename: Names of the manifest files, a format string on `generation`.
        workers: Embedding processes; by default one per processor this process may use, or of the cluster.
        reserve_mb: Disk space set aside so that a failure on a full disk is still recorded, MiB.
        allow_unknown_filesystem: Accept a local file system that nobody tried; remote ones are always refused.
        signing_key: Private key that signs what is committed, a file outside of the cache.
        trusted_keys: Whose signatures ground commands accept: lines of key files, or paths of such files.
        executor: Where tiles are embedded: "local", processes on this machine, or "ray", actors on a Ray cluster.
        ray_address: That cluster: HOST:PORT, "auto" for the one that Ray finds, or "local" for one that is started
            on this machine for the build.
        memory_folder: Where digests of tiles and networks are remembered between builds; outside of any cache.
    """

    cache_root: Path
    coverage_strict: bool = True
    lock_timeout_s: float = 5.0
    manifest_filename: str = "{generation:08d}.json"
    workers: int | None = None
    reserve_mb: int = 8
    allow_unknown_filesystem: bool = False
    signing_key: Path | None = None
    trusted_keys: tuple[str, ...] = ()
    digest_cache_folder: Path | None = None
    executor: str = "local"
    ray_address: str = "local"

    def __post_init__(self) -> None:
        """Check what the types cannot.

        Raises:
            RequestError: A setting has a wrong type or is out of its range.
        """
        wanted: dict[str, tuple[bool, str]] = {
            "coverage_strict": (isinstance(self.coverage_strict, bool), "true or false"),
            "allow_unknown_filesystem": (isinstance(self.allow_unknown_filesystem, bool), "true or false"),
            "lock_timeout_s": (_number(self.lock_timeout_s, 0, 86_400), "seconds from 0 to 86400"),
            "manifest_filename": (
                isinstance(self.manifest_filename, str),
                "a name such as 'f-{generation:08d}.json'",
            ),
            "workers": (
                self.workers is None or _whole(self.workers, 1, _MAX_WORKERS),
                f"a whole number from 1 to {_MAX_WORKERS}",
            ),
            "executor": (self.executor in _EXECUTORS, " or ".join(map(repr, _EXECUTORS))),
            "ray_address": (
                _address(self.ray_address),
                "HOST:PORT of a cluster's head, 'auto' or 'local'",
            ),
            "signing_key": (_key_path(self.signing_key), "the path of a key file"),
            "trusted_keys": (
                _texts(self.trusted_keys),
                "a list of texts, each the path of a key file or a line of one",
            ),
            "reserve_mb": (_whole(self.reserve_mb, 0, 1 << 20), "MiB from 0 to 1048576"),
        }
        for name, (good, expected) in wanted.items():
            if not good:
                raise RequestError(
                    f"{name}: expected {expected}, found {getattr(self, name)!r}", hint="change the setting"
                )

    @property
    def worker_count(self) -> int:
        """How many embedding processes to start."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def reserve_bytes(self) -> int:
        """Disk space set aside, in bytes."""
        return self.reserve_mb << 20

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, cache_root: Path, digest_cache_folder: Path | None = None
    ) -> "C10ProvisionerConfig":
        """Make a config from named settings.

        Raises:
            RequestError: A setting is unknown, mistyped or out of its range.
        """
        known = [item.name for item in fields(cls) if item.name not in {"cache_root", "memory_folder"}]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise RequestError(
                    f"expected a known setting, found {name!r}",
                    hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
                )
        given = dict(settings)
        if isinstance(key := given.get("signing_key"), str) and key:
            given["signing_key"] = Path(key)
        if isinstance(keys := given.get("trusted_keys"), (str, list)):
            given["trusted_keys"] = (keys,) if isinstance(keys, str) else tuple(keys)
        return cls(cache_root=cache_root, digest_cache_folder=digest_cache_folder, **given)


def _whole(value: object, least: int, greatest: int) -> bool:
    return type(value) is int and least <= value <= greatest


def _key_path(value: object) -> bool:
    return value is None or isinstance(value, Path)


def _address(value: object) -> bool:
    """Whether a text may be where a cluster is; a client's `ray://` has no part in one and is none."""
    if value in {"auto", "local"}:
        return True
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return (
        bool(host.strip())
        and "/" not in host
        and port.isascii()
        and port.isdigit()
        and 0 < int(port) < 1 << 16
    )


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


def _number(value: object, least: float, greatest: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= greatest
