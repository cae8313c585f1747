"""Verify a mirror: what it shows, from its manifests, since its journal is elsewhere.

The files of the newest generation are checked, and the aircraft's own reader opens it, as in a cache. In place of
the journal, all segments are read as one chain, which must lead to the newest manifest; they say which manifests and
signatures there were (`store.verify.mirror_segments`). A folder without segments flies as well, and is a note. Full
verification also looks at the earlier generations that the mirror has kept.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from store.cache.mirror_history import OTHER_CACHE
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.manifest_files import ManifestFile, read_manifest_file, shown_generation
from store.errors import (
    UNREADABLE,
    NoGoError,
)
from store.files.permissions import revoke_writing
from store.manifest.manifest import Manifest
from store.verify.artifact_check import ArtifactCheck, Options
from store.verify.coverage import known_digests
from store.verify.head_check import check_files
from store.verify.mirror_segments import changed, segment_findings
from store.verify.read_once import ReadOnce
from store.verify.reader_check import ReaderCheck
from store.verify.report import CacheProblem, Depth, Finding, ProblemKind, VerifyReport

_ELSEWHERE: Final = "this is a mirror: its journal is in the cache that it was made of"

_LEFT_BY_DESKTOPS: Final = frozenset(
    {"System Volume Information", "$RECYCLE.BIN", ".Trashes", ".fseventsd", ".Spotlight-V100", ".DS_Store"}
)
"""What Windows and macOS put into the root of a card; macOS also puts `._NAME` beside files."""

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
    head, artifacts, full = shown_generation(layout), ReadOnce(layout), options.depth is Depth.FULL
    file, findings = read_manifest_file(layout, head), list[Finding]()
    manifest = file.manifest
    files = {**_earlier(layout, file, findings), head: file} if full else {head: file}
    shown = {number: each.manifest for number, each in files.items()}
    check = ArtifactCheck(artifacts=artifacts, on_bytes=options.on_bytes)
    artifacts.keep_tables(manifest)
    for each in shown.values():
        check.add(each.envelope.origin, each)
    notes = [_ELSEWHERE, *check.notes]
    findings += segment_findings(layout, files, head)
    if not layout.segment_files():
        notes.append(
            "there are no segments, which say what was committed: no manifest was compared with that"
        )
    reader = ReaderCheck(
        root=layout.root,
        manifest=manifest,
        signatures=file.signatures,
        artifacts=artifacts,
        damaged=check.damaged,
    )
    referenced = frozenset(check.named)
    unreferenced = check_files(check, reader, options, referenced=referenced, findings=findings)
    left = [each for each in findings if _is_left_by_desktop(each)]
    if left:
        notes.append(
            f"left by the desktop of another computer, and harmless: {', '.join(each.path for each in left)}"
        )
        findings = [each for each in findings if each not in left]
    named_in = _naming_generations(shown, artifacts) if check.damaged else {}
    return VerifyReport(
        depth=options.depth,
        generation=head,
        origin=manifest.envelope.origin,
        identity=manifest.identity,
        manifest_sha256=manifest.sha256,
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
        of_mirror=True,
    )


def _earlier(layout: Layout, head: ManifestFile, findings: list[Finding]) -> dict[int, ManifestFile]:
    """Return the manifests of the generations before the head that are here; report those that are none."""
    found, cache_id = dict[int, ManifestFile](), head.manifest.envelope.cache_id
    for number, name in sorted(layout.manifest_files().items()):
        if name == head.name:
            continue
        try:
            file = read_manifest_file(layout, number)
        except NoGoError as error:
            findings.append(changed(f"manifests/{name}", "; ".join(error.reasons), number))
            continue
        if file.manifest.envelope.cache_id != cache_id:
            findings.append(changed(f"manifests/{name}", OTHER_CACHE, number))
            continue
        found[number] = file
    return found


def _is_left_by_desktop(finding: Finding) -> bool:
    first, name = finding.path.split("/")[0], Path(finding.path).name
    return finding.kind is ProblemKind.STRANGER and (first in _LEFT_BY_DESKTOPS or name.startswith("._"))


def _naming_generations(shown: Mapping[int, Manifest], artifacts: Artifacts) -> dict[str, list[int]]:
    """Return digest to the generations here that name the artifact."""
    found: dict[str, list[int]] = {}
    for number, manifest in sorted(shown.items()):
        for digest in known_digests(manifest, artifacts):
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
