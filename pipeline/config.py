"""Operator settings of one machine; none of them enters a build's identity."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from pipeline.errors import RequestError

_MAX_WORKERS = 256
_EXECUTORS = ("local", "ray")
_MOST_WAIT_S = 86_400
_MOST_RESERVE_MB = 1 << 20
_NOT_SETTINGS = frozenset({"cache_root", "digest_cache_folder"})

SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "coverage_strict": {"type": "boolean"},
    "lock_timeout_s": {"type": "number", "minimum": 0, "maximum": _MOST_WAIT_S},
    "manifest_filename": {"type": "string"},
    "workers": {"type": "integer", "minimum": 1, "maximum": _MAX_WORKERS},
    "reserve_mb": {"type": "integer", "minimum": 0, "maximum": _MOST_RESERVE_MB},
    "allow_unknown_filesystem": {"type": "boolean"},
    "signing_key": {"type": "string", "minLength": 1},
    "trusted_keys": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}},
        ]
    },
    "executor": {"enum": list(_EXECUTORS)},
    "ray_address": {"type": "string", "minLength": 1},
}
"""JSON Schema of each setting in a file; `C10ProvisionerConfig` checks them, and refuses some that this takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class C10ProvisionerConfig:
    """Operator settings.

    Attributes:
        cache_root: Folder of the cache.
        coverage_strict: Whether foreign files in the cache's folders stop a build; a file that a manifest
            names and that is missing or damaged always does.
        lock_timeout_s: How long to wait for another build, seconds.
        manifest_filename: Name of a manifest file, a format string with `generation`.
        workers: Embedding processes; by default one per processor this process may use, or of the cluster.
        reserve_mb: Disk space set aside so that a failure on a full disk is still recorded, MiB.
        allow_unknown_filesystem: Accept an untested local file system; remote ones are always refused.
        signing_key: Private key that signs what is committed, a file outside of the cache.
        trusted_keys: Keys whose signatures ground commands accept: lines of key files, or paths of such
            files.
        executor: Where tiles are embedded: "local", processes on this machine, or "ray", actors on a Ray
            cluster.
        ray_address: That cluster: HOST:PORT, "auto" for the one that Ray finds, or "local" for one that is
            started on this machine for the build.
        digest_cache_folder: Keeps digests of tiles and networks between builds; outside of any flight cache.
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
        """Check types and ranges.

        Raises:
            RequestError: A setting has a wrong type or is out of its range.
        """
        checks: dict[str, tuple[bool, str]] = {
            "cache_root": (isinstance(self.cache_root, Path), "a pathlib.Path"),
            "coverage_strict": (isinstance(self.coverage_strict, bool), "true or false"),
            "allow_unknown_filesystem": (isinstance(self.allow_unknown_filesystem, bool), "true or false"),
            "lock_timeout_s": (
                _is_number(self.lock_timeout_s, 0, _MOST_WAIT_S),
                f"seconds from 0 to {_MOST_WAIT_S}",
            ),
            "manifest_filename": (
                isinstance(self.manifest_filename, str),
                "a name such as 'f-{generation:08d}.json'",
            ),
            "workers": (
                self.workers is None or _is_whole(self.workers, 1, _MAX_WORKERS),
                f"a whole number from 1 to {_MAX_WORKERS}",
            ),
            "executor": (self.executor in _EXECUTORS, " or ".join(map(repr, _EXECUTORS))),
            "ray_address": (
                _is_address(self.ray_address),
                "HOST:PORT of a cluster's head, 'auto' or 'local'",
            ),
            "signing_key": (isinstance(self.signing_key, Path | None), "the path of a key file"),
            "trusted_keys": (
                _are_texts(self.trusted_keys),
                "a list of texts, each the path of a key file or a line of one",
            ),
            "reserve_mb": (
                _is_whole(self.reserve_mb, 0, _MOST_RESERVE_MB),
                f"MiB from 0 to {_MOST_RESERVE_MB}",
            ),
        }
        for name, (valid, expected) in checks.items():
            if not valid:
                raise RequestError(
                    f"{name}: expected {expected}, found {getattr(self, name)!r}", hint="change the setting"
                )

    @property
    def worker_count(self) -> int:
        """How many embedding processes to start."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def embeds_with(self) -> str:
        """With what and how many workers this machine embeds, as a fact that a build records."""
        count = self.workers if self.executor == "ray" else self.worker_count
        return f"{self.executor}, {count or 'all'} workers"

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
        known = [item.name for item in fields(cls) if item.name not in _NOT_SETTINGS]
        for name in settings:
            if name not in known:
                import difflib  # noqa: PLC0415 - only errors need it

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


def _is_whole(value: object, least: int, greatest: int) -> bool:
    return type(value) is int and least <= value <= greatest


def _is_address(value: object) -> bool:
    """Say whether a text may be a cluster's address; `ray://`, the address of a client, is none."""
    if not isinstance(value, str):
        return False
    if value in {"auto", "local"}:
        return True
    host, _, port = value.rpartition(":")
    return (
        bool(host.strip())
        and "/" not in host
        and port.isascii()
        and port.isdigit()
        and 0 < int(port) < 1 << 16
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


def _is_number(value: object, least: float, greatest: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= greatest
