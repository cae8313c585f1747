"""Open the head of a cache as the aircraft would, and report why the reader refuses it."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from store.base.cache_warning import CacheWarning
from store.disk.area_shapes import stored_area_shape
from store.disk.capture_dates import stored_capture_dates
from store.errors import ErrorKind, NoGoError, TranslateShortages
from store.files.permissions import revoke_writing, writable_folders_at
from store.manifest.manifest import EngineEntry, Manifest
from store.manifest.roles import DELTA, WHOLE
from store.reader.flight_cache import FlightCache
from store.reader.open_generation import open_generation
from store.runtime.capabilities import covered
from store.runtime.load import ExecutionError, RuntimeUnavailableError
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.readiness_facts import Facts, Reading, Signature, facts_of_manifest
from store.trust.signatures import TrustedKey, find_signer, parse_trusted_keys
from store.verify.artifact_check import ArtifactCheck, Options
from store.verify.read_once import ReadOnce
from store.verify.report import Finding, ProblemKind

_KIND_OF_REFUSAL: Final = {
    ErrorKind.DEVICE: ProblemKind.DEVICE,
    ErrorKind.PARITY: ProblemKind.DEVICE,
    ErrorKind.SIGNATURE: ProblemKind.SIGNATURE,
    ErrorKind.PERMISSION: ProblemKind.EXPOSED,
}


@dataclass(slots=True, kw_only=True)
class ReaderCheck:
    """A check of the head by the reader of the aircraft.

    Attributes:
        root: Folder of the cache.
        manifest: Of its head.
        signatures: The signature files of that manifest.
        artifacts: The files that are checked; it takes over those that are loaded.
        damaged: Digests of artifacts that are known to be damaged.
        signed_by: The trusted key whose signature of the head holds.
        loaded: Whether it was tried to load engines and index.
        not_loaded: The engines and index that could not be loaded here, and why.
        elsewhere: The engines that are for another device, and what that means.
    """

    root: Path
    manifest: Manifest
    signatures: Sequence[bytes]
    artifacts: ReadOnce
    damaged: set[str]
    findings: list[Finding] = field(default_factory=list)
    signed_by: str | None = None
    loaded: bool = False
    not_loaded: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    _cache: FlightCache | None = None

    @property
    def generation(self) -> int:
        """The generation that is checked."""
        return self.manifest.envelope.generation

    @contextmanager
    def opened(self, trusted_keys: TrustedKeys, *, load: bool) -> Iterator[None]:
        """Open the head, or report why that is refused. With `load`, engines and index may be loaded while it is open.

        They are then hashed by the reader, while it copies them into memory.
        """
        if trusted_keys is not ALLOW_UNSIGNED:
            self.signed_by = self._trusted_signer(trusted_keys)
        found = None
        try:
            with TranslateShortages(f"cache {os.fspath(self.root)!r}"):
                found = open_generation(
                    self.root,
                    trusted_keys=trusted_keys,
                    floor=None,
                    generation=self.generation,
                    # A cache with a stand-in engine is for another device, and is still checked here.
                    flown=not self.manifest.stand_ins,
                )
        except NoGoError as error:
            self._report_refusal(error)
        if found is None:
            yield
            return
        with FlightCache(found.manifest, found.files, elsewhere=found.elsewhere) as self._cache:
            for entry in found.manifest.engines:
                self._note_unrun(self._cache, entry)
            if load:
                self.artifacts.files, self.artifacts.loaded = found.files, self._to_load(self._cache)
            yield
        self._cache = self.artifacts.files = None

    def load(self) -> None:
        """Load engines and index as on board, if the head is open and none of its files is damaged."""
        if self._cache is None or not self.damaged.isdisjoint(
            ref.sha256 for _, ref in self.manifest.artifacts()
        ):
            return
        try:
            self._load(self._cache)
        except NoGoError as error:
            self._report_refusal(error)

    def signature(self, trusted_keys: TrustedKeys) -> Signature | None:
        """Return what is known of the head's signatures; None if they are refused, which is a problem."""
        if self.signed_by is not None:
            return Signature.HOLDS
        if trusted_keys is not ALLOW_UNSIGNED:
            return None
        return Signature.UNCHECKED if self.signatures else Signature.ABSENT

    def facts(self, check: ArtifactCheck, options: Options) -> Facts:
        """Return what the readiness of the head is judged by, after it was opened."""
        tiles, hashed = self.manifest.tiles, check.hashed()
        return facts_of_manifest(
            self.manifest,
            dates=stored_capture_dates(check.artifacts, tiles, tiles=self.manifest.tile_count),
            reading=Reading(
                depth=str(options.depth),
                hashed=hashed.files,
                files=hashed.files_total,
                loaded=self.loaded,
                not_loaded=self.not_loaded,
                elsewhere=self.elsewhere,
            ),
            signature=self.signature(options.trusted_keys),
            signed_by=self.signed_by,
            shape=stored_area_shape(check.artifacts, self.manifest.area),
        )

    def group_writable(self) -> Iterator[CacheWarning]:
        """Yield a warning for each folder of the cache that a group may write to."""
        for text in writable_folders_at(self.root, permission=stat.S_IWGRP):
            yield CacheWarning(kind="group-writable", message=text, hint=revoke_writing(self.root, "g"))

    def _trusted_signer(self, keys: Sequence[TrustedKey | bytes]) -> str | None:
        """Return the key of the first signature of the head that holds."""
        try:
            known = parse_trusted_keys(keys)
        except ValueError:
            return None
        return find_signer(self.manifest.raw, self.signatures, generation=self.generation, keys=known)

    def _report_refusal(self, error: NoGoError) -> None:
        generation = f"generation {self.generation}"
        kind = _KIND_OF_REFUSAL.get(error.kind)
        if kind is not None:
            self.signed_by = self.signed_by if kind is ProblemKind.DEVICE else None
            for reason in error.reasons:
                subject, _, text = reason.partition(": ")
                self._report(kind, subject, text)
        elif error.kind is not ErrorKind.ARTIFACT_DAMAGED:
            self._report(ProblemKind.MANIFEST, generation, "; ".join(error.reasons))
        elif not self.damaged:
            self._report(ProblemKind.CONTENT, generation, "; ".join(error.reasons))

    def _note_unrun(self, cache: FlightCache, entry: EngineEntry) -> None:
        """Report an engine for another library version; note one that is for another device."""
        why = cache.elsewhere.get(entry.model)
        if why is None:
            return
        if covered(entry.backend, entry.target):
            subject, _, found = why.partition(": ")
            self._report(ProblemKind.DEVICE, subject, found)
            return
        described = entry in cache.manifest.descriptor_engines
        parity = "; on board its answers are compared with those of its stand-in" if described else ""
        self.elsewhere[f"engine {entry.model}"] = f"it is for {entry.backend} {entry.target}{parity}"

    @staticmethod
    def _to_load(cache: FlightCache) -> dict[str, str]:
        """Return digest to role of the files that `load` uses."""
        manifest, delta = cache.manifest, cache.manifest.index.delta
        files = {
            entry.artifact.sha256: f"engine {entry.model}"
            for entry in manifest.descriptor_engines
            if entry.model not in cache.elsewhere
        }
        files[manifest.index.artifact.sha256] = WHOLE
        return files if delta is None else files | {delta.artifact.sha256: DELTA}

    def _load(self, cache: FlightCache) -> None:
        self.loaded = True
        names = [entry.model for entry in cache.manifest.descriptor_engines]
        engines: list[tuple[str, Callable[[], object]]] = [
            (f"engine {name}", partial(cache.engine, name)) for name in names if name not in cache.elsewhere
        ]
        for subject, load in (*engines, ("descriptor index", cache.descriptor_index)):
            try:
                load()
            except RuntimeUnavailableError as error:
                self.not_loaded[subject] = error.message
            except ExecutionError as error:
                self._report(ProblemKind.CONTENT, subject, error.message)

    def _report(self, kind: ProblemKind, subject: str, found: str) -> None:
        self.findings.append(Finding(kind=kind, subject=subject, found=found, generation=self.generation))
