"""Check the files of a cache or a mirror, and its head as the aircraft would read it: each file is read once."""

from contextlib import nullcontext

from store.verify.artifact_check import (
    ArtifactCheck,
    Options,
    find_unnamed_files,
    hash_artifacts,
    table_findings,
)
from store.verify.reader_check import ReaderCheck
from store.verify.report import Depth, Finding


def check_files(
    check: ArtifactCheck,
    reader: ReaderCheck,
    options: Options,
    *,
    referenced: frozenset[str],
    findings: list[Finding],
) -> tuple[int, int]:
    """Check artifacts as closely as the options say, and open the head unless it is known to be wrong.

    Args:
        check: Knows the artifacts.
        reader: Opens the head; it reports what it finds itself.
        options: How closely to check.
        referenced: Digests that are named, here or elsewhere.
        findings: What was found before; takes what is found.

    Returns:
        Number and bytes of artifacts that nothing refers to; none unless the check is a full one.
    """
    full, artifacts = options.depth is Depth.FULL, check.artifacts
    unnamed, unreferenced = list[Finding](), (0, 0)

    def look_around() -> None:
        nonlocal unreferenced
        unreferenced = find_unnamed_files(artifacts, referenced, unnamed)

    intact = check.check_sizes()
    sound = all(finding.generation != reader.generation for finding in findings)
    with reader.opened(options.trusted_keys, load=full) if sound else nullcontext():
        hash_artifacts(check, intact, options, meanwhile=look_around)
        findings += [*check.findings, *unnamed]
        if full:
            wrong = list(table_findings(reader.manifest, artifacts, check.damaged))
            findings += wrong
            if not wrong:
                reader.load()
    return unreferenced
