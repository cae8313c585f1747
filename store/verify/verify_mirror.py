"""Verify a mirror: what it shows, from its manifests, since its journal is elsewhere.

The files of the newest generation are checked, and the aircraft's own reader opens it, as in a cache. In place of
the journal, the last record of a segment says what was committed: a manifest that changed since is found by it. A
folder without segments flies as well, and is a note. Full verification also looks at the earlier generations that
the mirror has kept.
"""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from journal import RecordError
from store.base.canonical_json import sha256
from store.cache import segment
from store.cache.event_mapper import to_recorded_event
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.manifest_files import ManifestFile, read_manifest_file, shown_generation
from store.domain.events import BuildCommitted
from store.errors import (
    UNREADABLE,
    ArtifactError,
    DamagedHistoryError,
    NoGoError,
    describe_read_error,
    from_os_error,
    is_shortage,
)
from store.files.permissions import revoke_writing
from store.files.regular_file import read_regular
from store.manifest.manifest import Manifest, parse
from store.verify.artifact_check import (
    ArtifactCheck,
    Options,
    check_artifacts,
    find_unnamed_files,
    table_findings,
)
from store.verify.coverage import named_by
from store.verify.reader_check import ReaderCheck
from store.verify.report import CacheProblem, Depth, Finding, ProblemKind, VerifyReport

_MAX_SEGMENT: Final = 1 << 32
_ELSEWHERE: Final = "this is a mirror: its journal is in the cache that it was made of"

_MIRROR_AGAIN: Final = "c10 mirror {mirror} --full, in the cache that this is a mirror of"
_FIXES: Final = {
    ProblemKind.PROJECTION_DAMAGED: "rm {path}, then c10 mirror {mirror}, in the cache that this is a mirror of",
    ProblemKind.STRANGER: "move {path} out of the mirror",
    ProblemKind.CONTENT: "c10 build REQUEST --again in the cache that this is a mirror of, then c10 mirror {mirror}",
    ProblemKind.MANIFEST: "c10 build REQUEST --again in the cache that this is a mirror of, then c10 mirror {mirror}",
    ProblemKind.DEVICE: "c10 build REQUEST on that device, with its libraries, then c10 mirror {mirror}",
    ProblemKind.SIGNATURE: "c10 sign in the cache that this is a mirror of, with a key that is trusted here, then"
    " c10 mirror {mirror}",
}
"""How to fix problems of a mirror; everything else comes anew from its cache."""


def verify_mirror(layout: Layout, options: Options) -> VerifyReport:
    """Verify a mirror; see `store.verify.verify.verify`.

    Raises:
        NoGoError: It shows no generation yet, or its manifest is none.
        CacheUnusableError: A file cannot be read.
    """
    head, artifacts, full = shown_generation(layout), Artifacts(layout), options.depth is Depth.FULL
    file, findings = read_manifest_file(layout, head), list[Finding]()
    manifest = _parse_head(file, layout)
    shown = {**_earlier(layout, head, findings), head: manifest} if full else {head: manifest}
    check = ArtifactCheck(artifacts=artifacts, on_bytes=options.on_bytes)
    for each in shown.values():
        check.add(each.envelope.origin, each)
    check_artifacts(check, options)
    notes = [_ELSEWHERE, *check.notes, *_compare_with_segments(layout, shown, findings)]
    reader = ReaderCheck(
        root=layout.root, manifest=manifest, signatures=file.signatures, damaged=check.damaged
    )
    findings += check.findings
    unreferenced = (0, 0)
    if full:
        unreferenced = find_unnamed_files(artifacts, frozenset(check.named), findings)
        findings += table_findings(manifest, artifacts, check.damaged)
    if all(finding.generation != head for finding in findings):
        reader.open(options.trusted_keys, load=full)
    named_in = _naming_generations(shown, artifacts) if check.damaged else {}
    return VerifyReport(
        depth=options.depth,
        generation=head,
        origin=manifest.envelope.origin,
        identity=manifest.identity,
        manifest_sha256=sha256(file.raw),
        body_sha256=manifest.body_sha256,
        looked_at=len(check.named),
        hashed=check.hashed(),
        problems=tuple(_problem(each, layout, named_in) for each in (*findings, *reader.findings)),
        notes=tuple(notes),
        unreferenced=unreferenced[0],
        unreferenced_size=unreferenced[1],
        seed=options.seed if options.depth is Depth.BUDGET else None,
        facts=reader.facts(check, options),
        warnings=tuple(reader.group_writable()),
    )


def _parse_head(file: ManifestFile, layout: Layout) -> Manifest:
    try:
        return parse(file.raw)
    except NoGoError as error:
        error.hint = _fix(ProblemKind.PROJECTION_DAMAGED, layout, f"manifests/{file.name}")
        raise


def _earlier(layout: Layout, head: int, findings: list[Finding]) -> dict[int, Manifest]:
    """Return the manifests of the generations before the head that are here; report those that are none."""
    found = {}
    for number, name in sorted(layout.manifest_files().items()):
        if number == head:
            continue
        try:
            found[number] = parse(read_manifest_file(layout, number).raw)
        except NoGoError as error:
            findings.append(_changed(f"manifests/{name}", "; ".join(error.reasons), number))
    return found


def _compare_with_segments(
    layout: Layout, shown: Mapping[int, Manifest], findings: list[Finding]
) -> Iterator[str]:
    """Report manifests and segments that are not what was committed; yield a note where no segment tells it."""
    segments, names = layout.segment_files(), layout.manifest_files()
    for number, manifest in shown.items():
        if (named := manifest.envelope.generation) != number:
            text = f"expected generation {number} as its name says, found {named}"
            findings.append(_changed(f"manifests/{names[number]}", text, number))
            continue
        if number not in segments:
            yield f"no segment says what generation {number} committed: its manifest was not compared with it"
            continue
        where = f"segments/{segments[number]}"
        committed = _committed(layout.root / where)
        if isinstance(committed, str):
            findings.append(_changed(where, committed, number))
        elif committed.generation != number:
            text = f"expected the records of generation {number}, found those of {committed.generation}"
            findings.append(_changed(where, text, number))
        elif committed.manifest_sha256 != sha256(manifest.raw):
            text = "expected the manifest that was committed, found other bytes"
            findings.append(_changed(f"manifests/{names[number]}", text, number))


def _committed(path: Path) -> BuildCommitted | str:
    """Return the commit that a segment ends with, or what is wrong with the segment."""
    try:
        data = read_regular(path, limit=_MAX_SEGMENT)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, f"{path.parent.name}/{path.name}") from error
        return describe_read_error(error)
    if data is None:
        return "expected a regular file, found something else"
    try:
        entries = segment.decode(data).entries
        last = to_recorded_event(entries[-1]).event if entries else None
    except (DamagedHistoryError, RecordError) as error:
        return error.message
    return last if isinstance(last, BuildCommitted) else "expected a commit as its last record, found another"


def _changed(where: str, found: str, generation: int) -> Finding:
    return Finding(
        kind=ProblemKind.PROJECTION_DAMAGED, subject=where, found=found, path=where, generation=generation
    )


def _naming_generations(shown: Mapping[int, Manifest], artifacts: Artifacts) -> dict[str, list[int]]:
    """Return digest to the generations here that name the artifact."""
    found: dict[str, list[int]] = {}
    for number, manifest in sorted(shown.items()):
        try:
            digests = set(named_by(manifest, artifacts))
        except ArtifactError:
            digests = {ref.sha256 for _, ref in manifest.artifacts()}
        for digest in digests:
            found.setdefault(digest, []).append(number)
    return found


def _problem(finding: Finding, layout: Layout, named_in: Mapping[str, list[int]]) -> CacheProblem:
    own = () if finding.generation is None else (finding.generation,)
    return CacheProblem(
        kind=finding.kind,
        subject=finding.subject,
        found=finding.found,
        path=finding.path,
        generations=tuple(named_in.get(finding.digest, own)),
        fix=f"fix the permissions of {layout.root / finding.path}, or the card, then verify again"
        if finding.found.startswith(UNREADABLE)
        else _fix(finding.kind, layout, finding.path),
    )


def _fix(kind: ProblemKind, layout: Layout, path: str) -> str:
    if kind is ProblemKind.EXPOSED:
        return revoke_writing(layout.root)
    fix = _FIXES.get(kind, _MIRROR_AGAIN)
    return fix.format(mirror=shlex.quote(str(layout.root)), path=shlex.quote(str(layout.root / path)))
