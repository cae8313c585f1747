"""Ground verification: is what the head shows what the journal committed, and is all of it there?

Three depths. *Quick* looks at type and size of every file the head names, blocks included. *Budget* does that and
then hashes: engines, index and tables always, then blocks in a seeded random order until the time is up; it says
how much that was. *Full* hashes what any generation names, looks for strangers, holds every manifest and segment
against the journal and loads engine and index as the aircraft would.

Whatever is wrong is collected, not raised, so that one run names everything; only a journal that cannot be
believed ends it. Looking happens here, judging in
`store.verify.report`. Nothing is ever written.
"""

import os
import random
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, assert_never

from store.base.values import ArtifactRef
from store.cache.projections import signatures_of, signers_of
from store.cache.view import HistoryView, View, open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.domain.state import Generation, State
from store.errors import (
    UNREADABLE,
    ArtifactError,
    CacheUnusableError,
    ErrorKind,
    NoGoError,
    is_shortage,
)
from store.files.permissions import exposed_path
from store.manifest.manifest import Manifest, parse
from store.manifest.roles import DELTA, WHOLE
from store.policy.retention import keep_without
from store.reader import table_checks
from store.reader.flight_cache import FlightCache
from store.runtime.load import ExecutionError, RuntimeUnavailableError
from store.trust.go_no_go import ALLOW_UNSIGNED, UNCHECKED, TrustedKeys
from store.trust.signatures import TrustedKey, reasons_against, trusted
from store.verify.coverage import each, named_by, referenced_by, walk
from store.verify.projections import projection_findings
from store.verify.report import Depth, Finding, HashedAmount, ProblemKind, VerifyReport, diagnose
from store.verify.stable_view import stable_view

_OF_REFUSAL: Final = {
    ErrorKind.DEVICE: ProblemKind.DEVICE,
    ErrorKind.PARITY: ProblemKind.DEVICE,
    ErrorKind.SIGNATURE: ProblemKind.SIGNATURE,
    ErrorKind.PERMISSION: ProblemKind.EXPOSED,
}
_LASTING: Final = frozenset({ProblemKind.DAMAGED, ProblemKind.DEVICE})
"""What no writer beside this run can be the reason for; everything else may be files that it has not written yet, or
has collected."""

_ATTEMPTS = 3
_AT_ONCE = 8
"""How many files are hashed between two looks at the clock; more threads than this wait for the disk."""


def verify(
    layout: Layout,
    *,
    depth: Depth = Depth.QUICK,
    budget_s: float = 0.0,
    seed: int = 0,
    trusted_keys: TrustedKeys = ALLOW_UNSIGNED,
    monotonic: Callable[[], float] = time.monotonic,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Verify a cache.

    Args:
        layout: Where it is.
        depth: How closely to look.
        budget_s: How long to hash blocks, seconds; for `Depth.BUDGET`.
        seed: Of the order of the blocks; for `Depth.BUDGET`.
        trusted_keys: Keys that may have signed it, or `ALLOW_UNSIGNED`, of which a note then tells.
        monotonic: A clock, seconds.
        on_total: Told how many bytes may be hashed.
        on_bytes: Told of bytes hashed.

    Raises:
        NoGoError: There is no committed generation.
        RequestRefusedError: There is no cache.
        DamagedHistoryError, journal.JournalError: The journal cannot be believed.
    """
    attempt = 1
    while True:
        view = stable_view(layout, whole=depth is Depth.FULL)
        found = _verify(
            view,
            depth=depth,
            budget_s=budget_s,
            seed=seed,
            trusted_keys=trusted_keys,
            monotonic=monotonic,
            on_total=on_total if attempt == 1 else None,
            on_bytes=on_bytes if attempt == 1 else None,
        )
        if all(problem.kind in _LASTING for problem in found.problems):
            return found
        now = open_view(layout, strict=False)
        if now.head == view.head:
            return found
        if attempt == _ATTEMPTS:
            return found.without(now.state.collected_generations)
        attempt += 1


def _verify(
    view: View,
    *,
    depth: Depth,
    budget_s: float,
    seed: int,
    trusted_keys: TrustedKeys,
    monotonic: Callable[[], float],
    on_total: Callable[[int], None] | None,
    on_bytes: Callable[[int], None] | None,
) -> VerifyReport:
    """Verify what a view shows."""
    layout, head = view.layout, view.state.head
    if head is None:
        raise NoGoError(
            ("expected a committed generation, found none",),
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 build REQUEST --cache {layout.root}",
        )
    run = _Run(view=view, head=head, artifacts=Artifacts(layout), on_bytes=on_bytes)
    run.findings.extend(projection_findings(view, view.chains if isinstance(view, HistoryView) else None))
    collected = view.state.collected
    origins = {
        generation.origin: generation
        for generation in view.state.generations.values()
        if generation.origin not in collected
    }
    shown = [head] if depth is not Depth.FULL else [*origins.values()]
    # The head last, so that an artifact that many generations name bears the role it has there.
    for generation in sorted(shown, key=lambda each: each.origin == head.origin):
        run.name(generation)
    run.look_at_shapes()
    whole = [item for item in run.items() if item.digest not in run.bad]
    if on_total is not None:
        on_total(sum(item.size for item in whole))
    match depth:
        case Depth.QUICK:
            run.open_as_reader(trusted_keys, load=False)
        case Depth.BUDGET:
            first = [item for item in whole if item.urgency < _BLOCK]
            blocks = [item for item in whole if item.urgency == _BLOCK]
            random.Random(seed).shuffle(blocks)  # noqa: S311 - a sample, not a secret
            run.hash(sorted(first, key=lambda item: item.urgency), until=lambda: False)
            deadline = monotonic() + budget_s
            run.hash(blocks, until=lambda: monotonic() >= deadline)
            run.open_as_reader(trusted_keys, load=False)
        case Depth.FULL:
            run.hash_together(whole)
            run.look_for_strangers()
            run.look_into_tables()
            run.look_at_stand_in()
            run.open_as_reader(trusted_keys, load=True)
        case _:
            assert_never(depth)
    return run.result(depth, seed=seed if depth is Depth.BUDGET else None)


_ENGINE, _INDEX, _TABLE, _BLOCK = range(4)


@dataclass(frozen=True, slots=True)
class _Item:
    """An artifact to look at; the lower its urgency, the earlier."""

    digest: str
    role: str
    size: int

    @property
    def urgency(self) -> int:
        if self.role.startswith("engine "):
            return _ENGINE
        if self.role.startswith("block ") and self.role != "block table":
            return _BLOCK
        return _INDEX if self.role in {WHOLE, DELTA} else _TABLE


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run under way."""

    view: View
    head: Generation
    artifacts: Artifacts
    on_bytes: Callable[[int], None] | None
    manifests: dict[int, Manifest] = field(default_factory=dict)
    named: dict[str, tuple[str, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    hashed_files: int = 0
    hashed_size: int = 0
    unreferenced: int = 0
    unreferenced_size: int = 0
    signed_by: str | None = None

    def name(self, generation: Generation) -> None:
        """Gather what a generation names; a block table that cannot be read leaves its blocks unnamed."""
        manifest = parse(project(self.view.state, generation))
        self.manifests[generation.origin] = manifest
        try:
            self.named.update(named_by(manifest, self.artifacts))
        except ArtifactError:
            self.named.update({ref.sha256: (role, ref.size) for role, ref in manifest.artifacts()})
            self.notes.append(
                f"the blocks of build {generation.origin} were not looked at: their table is not readable"
            )
            self._hash_one(_Item(manifest.index.blocks.sha256, "block table", manifest.index.blocks.size))

    def items(self) -> list[_Item]:
        """What there is to look at, most urgent first."""
        found = [_Item(digest, role, size) for digest, (role, size) in self.named.items()]
        return sorted(found, key=lambda item: (item.urgency, item.role, item.digest))

    def look_at_shapes(self) -> None:
        """Hold type and size of everything named against what is expected."""
        for item in self.items():
            if item.digest not in self.bad and self.artifacts.size(item.digest) != item.size:
                self._hash_one(item)

    def hash(self, items: Sequence[_Item], *, until: Callable[[], bool]) -> None:
        """Hash in parallel, a few at a time, until told to stop."""
        for start in range(0, len(items), _AT_ONCE):
            if until():
                return
            self.hash_together(items[start : start + _AT_ONCE])

    def hash_together(self, items: Sequence[_Item]) -> None:
        """Hash in parallel, the largest first: an index that comes last would keep one processor busy, and one alone."""

        def open_view(item: _Item) -> str | None:
            wrong = self.artifacts.damage(ArtifactRef(sha256=item.digest, size=item.size))
            if self.on_bytes is not None:
                self.on_bytes(item.size)
            return wrong

        size = sum(item.size for item in items)
        by_size = sorted(items, key=lambda item: -item.size)
        found = dict(zip((item.digest for item in by_size), each(open_view, by_size, size), strict=True))
        self.hashed_files += len(items)
        self.hashed_size += size
        for item in items:
            wrong = found[item.digest]
            if wrong is not None:
                self._artifact(item, wrong)

    def look_for_strangers(self) -> None:
        """Find what nothing of C10's could have put into the tree, and what nothing names any more."""
        referenced = referenced_by(self.view.state) | frozenset(self.named)
        try:
            found = walk(self.artifacts, {}, referenced=referenced, full=False)
        except CacheUnusableError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or is_shortage(cause):
                raise
            path = os.path.relpath(str(cause.filename or "."), self.view.layout.root)
            text = f"{UNREADABLE} ({cause.strerror}): nobody knows what is in it"
            self.findings.append(Finding(kind=ProblemKind.STRANGER, subject=path, found=text, path=path))
            return
        self.unreferenced, self.unreferenced_size = len(found.unreferenced), found.unreferenced_size
        for stranger in found.foreign_files:
            path, _, text = stranger.partition(": ")
            self.findings.append(Finding(kind=ProblemKind.STRANGER, subject=path, found=text, path=path))

    def look_into_tables(self) -> None:
        """Hold the head's tables against its manifest."""
        manifest = self.manifests[self.head.origin]
        delta = manifest.index.delta
        named = (manifest.tiles, manifest.index.blocks, *((delta.artifact,) if delta else ()))
        if not self.bad.isdisjoint(ref.sha256 for ref in named):
            return
        for wrong in _table_problems(manifest, self.artifacts):
            self._content("tables", wrong)

    def look_at_stand_in(self) -> None:
        """Note what is wrong with the engine that embedded the head's tiles and does not fly."""
        event = self.view.state.builds[self.head.origin].stand_in
        wrong = None if event is None else self.artifacts.damage(event.artifact)
        if event is not None and wrong is not None:
            self.notes.append(
                f"stand-in engine {event.model}: {wrong}; it does not fly, and c10 repair makes it again"
            )

    def open_as_reader(self, trusted_keys: TrustedKeys, *, load: bool) -> None:
        """Open the head as the aircraft would; with `load`, engine and index as well."""
        layout = self.view.layout
        if trusted_keys is ALLOW_UNSIGNED:
            self.notes.append(UNCHECKED)
        self.notes.extend(exposed_path(layout.root, to=stat.S_IWGRP))
        if any(finding.generation == self.head.number for finding in self.findings):
            return
        self.signed_by = None if trusted_keys is ALLOW_UNSIGNED else self._vouched_by(trusted_keys)
        try:
            with FlightCache.open(
                layout.root,
                trusted_keys=trusted_keys,
                generation=self.head.number,
                # Whoever embedded with a stand-in meant it for another device, and looks at it here all the same.
                flown=self.manifests[self.head.origin].stand_in is None,
            ) as cache:
                self.notes.extend(f"engine {name} was not run here: {why}" for name, why in _elsewhere(cache))
                if load and self._head_whole(cache.manifest):
                    self._load(cache)
        except NoGoError as error:
            self._note_refusal(error)

    def _vouched_by(self, keys: Sequence[TrustedKey | bytes]) -> str | None:
        """Return the key of the first signature of the head that holds."""
        try:
            known = trusted(keys)
        except ValueError:
            return None
        raw, number = project(self.view.state, self.head), self.head.number
        for key_id, signature in zip(signers_of(self.head), signatures_of(self.head), strict=True):
            if not reasons_against(raw, (signature,), generation=number, keys=known):
                return key_id
        return None

    def result(self, depth: Depth, *, seed: int | None) -> VerifyReport:
        """Judge what was found."""
        state, items = self.view.state, self.items()
        if state.unknown:
            self.notes.append(f"the journal holds events of a newer version: {state.unknown[0]}")
        if state.open_build is not None:
            self.notes.append(f"build {state.open_build} is under way, or its process died")
        named_in = {} if not self.bad else _named_in(state, self.artifacts)
        return VerifyReport(
            depth=depth,
            generation=self.head.number,
            origin=self.head.origin,
            identity=state.builds[self.head.origin].identity,
            manifest_sha256=self.head.manifest_sha256,
            body_sha256=self.head.body_sha256,
            looked_at=len(items),
            hashed=HashedAmount(
                files=self.hashed_files,
                size=self.hashed_size,
                files_total=len(items),
                size_total=sum(item.size for item in items),
            ),
            problems=diagnose(
                self.findings,
                root=self.view.layout.root,
                named_in=named_in,
                head=self.head.number,
                keep_without=partial(keep_without, state),
            ),
            notes=tuple(self.notes),
            unreferenced=self.unreferenced,
            unreferenced_size=self.unreferenced_size,
            seed=seed,
            signed_by=self.signed_by,
        )

    def _note_refusal(self, error: NoGoError) -> None:
        """Take in why the reader refuses the head."""
        kind = _OF_REFUSAL.get(error.kind)
        if kind is not None:
            self.signed_by = self.signed_by if kind is ProblemKind.DEVICE else None
            for reason in error.reasons:
                subject, _, text = reason.partition(": ")
                self._add(kind, subject, text)
        elif error.kind is not ErrorKind.ARTIFACT_DAMAGED:
            self._add(ProblemKind.MANIFEST, f"generation {self.head.number}", "; ".join(error.reasons))
        elif not self.bad:
            self._content(f"generation {self.head.number}", "; ".join(error.reasons))

    def _load(self, cache: FlightCache) -> None:
        name = cache.manifest.descriptor_engine.model
        engine = (f"engine {name}", lambda: cache.engine(name))
        index = ("descriptor index", cache.descriptor_index)
        for subject, load in (index,) if name in cache.elsewhere else (engine, index):
            try:
                load()
            except RuntimeUnavailableError as error:
                self.notes.append(f"{subject} was not loaded: {error.message}")
            except ExecutionError as error:
                self._content(subject, error.message)

    def _head_whole(self, manifest: Manifest) -> bool:
        return self.bad.isdisjoint(ref.sha256 for _, ref in manifest.artifacts())

    def _hash_one(self, item: _Item) -> None:
        wrong = self.artifacts.damage(ArtifactRef(sha256=item.digest, size=item.size))
        self._artifact(item, wrong or "changed while it was looked at")

    def _artifact(self, item: _Item, wrong: str) -> None:
        self.bad.add(item.digest)
        path = self.artifacts.layout.artifact(item.digest).relative_to(self.artifacts.layout.root)
        kind = ProblemKind.ABSENT if wrong == "missing" else ProblemKind.DAMAGED
        self.findings.append(
            Finding(kind=kind, subject=item.role, found=wrong, path=str(path), digest=item.digest)
        )

    def _content(self, subject: str, found: str) -> None:
        self._add(ProblemKind.CONTENT, subject, found)

    def _add(self, kind: ProblemKind, subject: str, found: str) -> None:
        self.findings.append(Finding(kind=kind, subject=subject, found=found, generation=self.head.number))


def _elsewhere(cache: FlightCache) -> Iterator[tuple[str, str]]:
    """Yield the models whose engines are for another device, and what holds them to account there."""
    for entry in cache.manifest.engines:
        if entry.model in cache.elsewhere:
            proof = "; on board its answers are held against those of its stand-in"
            described = entry is cache.manifest.descriptor_engine
            yield entry.model, f"it is for {entry.backend} {entry.target}{proof if described else ''}"


def _named_in(state: State, artifacts: Artifacts) -> dict[str, list[int]]:
    """Return digest to the generations that name it."""
    by_origin: dict[int, list[int]] = {}
    for number, generation in state.generations.items():
        if number not in state.collected_generations:
            by_origin.setdefault(generation.origin, []).append(number)
    named: dict[str, list[int]] = {}
    for numbers in by_origin.values():
        manifest = parse(project(state, state.generations[numbers[0]]))
        try:
            digests = set(named_by(manifest, artifacts))
        except ArtifactError:
            digests = {ref.sha256 for _, ref in manifest.artifacts()}
        for digest in digests:
            named.setdefault(digest, []).extend(numbers)
    return named


def _table_problems(manifest: Manifest, artifacts: Artifacts) -> Iterator[str]:
    delta = manifest.index.delta
    tables: list[tuple[ArtifactRef, Callable[[Manifest, bytes], object]]] = [
        (manifest.tiles, table_checks.tiles_of),
        (manifest.index.blocks, table_checks.blocks_of),
        *([(delta.artifact, table_checks.delta_of)] if delta else []),
    ]
    for ref, read in tables:
        try:
            read(manifest, artifacts.read(ref))
        except (ArtifactError, ValueError) as error:
            yield str(error)
