"""Verify a cache on the ground: its files against its journal, and its head as the aircraft would read it.

There are three depths. *Quick* checks type and size of every file that the head names, blocks included.
*Budget* does that and then hashes: engines, index and tables always, then blocks in a seeded random order
until the time is up. It says how much it hashed. *Full* hashes what any generation names, finds foreign
files, compares every manifest and segment with the journal, and loads engine and index.

One run reports everything that is wrong; only a journal that cannot be trusted ends it. `store.verify.report`
says how to fix each problem. A verification never writes.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from store.base.cache_warning import CacheWarning
from store.cache.projections import signatures_of
from store.cache.view import HistoryView, View, open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import MIRROR_MARK, Layout
from store.domain.attachments import NETWORK, attached
from store.domain.manifest_projection import project
from store.domain.state import Generation, State
from store.errors import ErrorKind, NoGoError
from store.manifest.manifest import Manifest, parse
from store.policy.retention import keep_without
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.verify.artifact_check import ArtifactCheck, Options
from store.verify.coverage import known_digests, referenced_by
from store.verify.head_check import check_files
from store.verify.projections import projection_findings
from store.verify.read_once import ReadOnce
from store.verify.reader_check import ReaderCheck
from store.verify.report import Depth, ProblemKind, VerifyReport, diagnose
from store.verify.stable_view import stable_view
from store.verify.verify_mirror import verify_mirror

_LASTING: Final = frozenset({ProblemKind.DAMAGED, ProblemKind.DEVICE})
"""Problems that no concurrent writer can cause; others may be files that it is writing or collecting."""

_ATTEMPTS = 3


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
    """Verify a cache, or a mirror of one.

    Args:
        layout: The cache.
        depth: How closely to check.
        budget_s: How long to hash blocks, seconds; for `Depth.BUDGET`.
        seed: Seed of the order of the blocks; for `Depth.BUDGET`.
        trusted_keys: Keys that may have signed it, or `ALLOW_UNSIGNED`, which is a warning.
        monotonic: A clock, seconds.
        on_total: Called with the bytes that may be hashed.
        on_bytes: Called with the bytes of each artifact that was hashed.

    Raises:
        NoGoError: There is no committed generation.
        RequestRefusedError: There is no cache.
        ArtifactsBusyError: A writer committed and did not write the files in time.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
    """
    options = Options(depth, budget_s, seed, trusted_keys, monotonic, on_total, on_bytes)
    if layout.is_mirror():
        return verify_mirror(layout, options)
    attempt, seen_before = 1, frozenset[str]()
    while True:
        view = stable_view(layout, whole=depth is Depth.FULL)
        report = _verify(view, options)
        if all(problem.kind in _LASTING for problem in report.problems):
            return report
        now = open_view(layout, strict=False)
        if now.head == view.head:
            return report
        if attempt == _ATTEMPTS:
            return report.without(now.state.collected_generations, report.foreign_files - seen_before)
        seen_before = report.foreign_files
        options = replace(options, on_total=None, on_bytes=None)
        attempt += 1


def _verify(view: View, options: Options) -> VerifyReport:
    head, artifacts, full = _require_head(view), ReadOnce(view.layout), options.depth is Depth.FULL
    findings = [*projection_findings(view, view.chains if isinstance(view, HistoryView) else None)]
    manifests = _manifests(view.state, head, every=full)
    check = ArtifactCheck(artifacts=artifacts, on_bytes=options.on_bytes)
    artifacts.keep_tables(manifests[head.origin])
    for origin, manifest in manifests.items():
        check.add(origin, manifest)
    reader = ReaderCheck(
        root=view.layout.root,
        manifest=manifests[head.origin],
        signatures=signatures_of(head),
        artifacts=artifacts,
        damaged=check.damaged,
    )
    referenced = referenced_by(view.state).union(check.named) if full else frozenset[str]()
    unreferenced = check_files(check, reader, options, referenced=referenced, findings=findings)
    problems = diagnose(
        [*findings, *reader.findings],
        root=view.layout.root,
        named_in=_naming_generations(view.state, artifacts) if check.damaged else {},
        head=head.number,
        keep_without=partial(keep_without, view.state),
    )
    return VerifyReport(
        depth=options.depth,
        generation=head.number,
        origin=head.origin,
        identity=view.state.builds[head.origin].identity,
        manifest_sha256=head.manifest_sha256,
        body_sha256=head.body_sha256,
        looked_at=len(check.named),
        hashed=check.hashed(),
        problems=problems,
        notes=(*check.notes, *_state_notes(view.state), *_mark_notes(view.layout)),
        unreferenced=unreferenced[0],
        unreferenced_size=unreferenced[1],
        seed=options.seed if options.depth is Depth.BUDGET else None,
        facts=reader.facts(check, options),
        warnings=(
            *reader.group_writable(),
            *(_stand_in_warnings(view.state, head, artifacts) if full else ()),
            *(_fitted_network_warnings(view.state, head, artifacts) if full else ()),
            *_newer_events(view.state),
        ),
    )


def _require_head(view: View) -> Generation:
    if view.state.head is None:
        raise NoGoError(
            ("expected a committed generation, found none",),
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 build REQUEST --cache {shlex.quote(str(view.layout.root))}",
        )
    return view.state.head


def _manifests(state: State, head: Generation, *, every: bool) -> dict[int, Manifest]:
    """Return build to manifest, of the head or of every kept generation.

    The head is last, so that a finding names an artifact of many generations by its role in the head.
    """
    collected = state.collected
    shown = {head.origin: head}
    if every:
        kept = (each for each in state.generations.values() if each.origin not in collected)
        shown = {generation.origin: generation for generation in kept}
        shown[head.origin] = shown.pop(head.origin)
    return {origin: parse(project(state, generation)) for origin, generation in shown.items()}


def _stand_in_warnings(state: State, head: Generation, artifacts: Artifacts) -> Iterator[CacheWarning]:
    """Warn of a damaged stand-in engine: it embedded the tiles, and does not fly."""
    for _, event in state.builds[head.origin].stand_ins:
        if (wrong := artifacts.damage(event.artifact)) is not None:
            yield CacheWarning(
                kind="stand-in-damaged",
                message=f"stand-in engine {event.model}, which does not fly: {wrong}",
                hint="c10 repair makes it again",
            )


def _newer_events(state: State) -> Iterator[CacheWarning]:
    if state.unknown:
        yield CacheWarning(
            kind="newer-events",
            message=f"the journal holds events of a newer version: {state.unknown[0]}",
            hint="use the newer C10 that wrote them",
        )


def _fitted_network_warnings(state: State, head: Generation, artifacts: Artifacts) -> Iterator[CacheWarning]:
    """Warn of a damaged file of a network with a fitted head: without it the next build fits anew."""
    for name, event in state.builds[head.origin].engines:
        ref = attached(event).get(NETWORK)
        if ref is not None and (wrong := artifacts.damage(ref)) is not None:
            yield CacheWarning(
                kind="fitted-network-damaged",
                message=f"network with fitted head {name}, which does not fly: {wrong}",
                hint="c10 repair fits it again",
            )


def _state_notes(state: State) -> Iterator[str]:
    if state.open_build is not None:
        yield f"build {state.open_build} is under way, or its process died"


def _mark_notes(layout: Layout) -> Iterator[str]:
    if layout.is_marked():
        yield (
            f"{MIRROR_MARK} is the mark of a mirror, and this cache has a journal: remove it, since with it a cache that"
            " lost its journal is taken for a mirror"
        )


def _naming_generations(state: State, artifacts: Artifacts) -> dict[str, list[int]]:
    """Return digest to the generations that name the artifact."""
    by_origin: dict[int, list[int]] = {}
    for number, generation in state.generations.items():
        if number not in state.collected_generations:
            by_origin.setdefault(generation.origin, []).append(number)
    named: dict[str, list[int]] = {}
    for numbers in by_origin.values():
        manifest = parse(project(state, state.generations[numbers[0]]))
        for digest in known_digests(manifest, artifacts):
            named.setdefault(digest, []).extend(numbers)
    return named
