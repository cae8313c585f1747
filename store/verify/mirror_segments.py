"""Compare a mirror with its segments: all of them as one chain, and with manifests and signatures what they record."""

from collections.abc import Iterator, Mapping

from store.cache.mirror_history import (
    OTHER_BYTES,
    Links,
    foreign_segments,
    links_of,
    numbers_to_read,
    read_segment,
    recorded_signatures,
)
from store.disk.layout import Layout
from store.disk.manifest_files import ManifestFile
from store.manifest.file_names import MAX_SIGNATURES, signature_name
from store.trust.signatures import parse_signature
from store.verify.report import Finding, ProblemKind


def segment_findings(layout: Layout, files: Mapping[int, ManifestFile], head: int) -> Iterator[Finding]:
    """Yield segments that are missing, damaged or of another history, and files that are not what they record.

    Where there is no segment at all, only the form of signatures is checked.

    Args:
        layout: The mirror.
        files: Generation to manifest, of those to compare.
        head: The newest generation.

    Raises:
        CacheUnusableError: A file cannot be read.
    """
    links, names, whole = dict[int, Links](), layout.segment_files(), True
    for number in numbers_to_read(names, head) if names else ():
        # One at a time, so that not all records are in memory.
        found = read_segment(layout, number, names.get(number))
        of = found if isinstance(found, str) else links_of(found)
        if isinstance(of, Links):
            links[number] = of
            continue
        whole = False
        where = f"segments/{names.get(number) or layout.segment_name(number)}"
        yield changed(where, of, number) if number in names else _absent(where, of, number)
    foreign = foreign_segments(links, files[head].manifest)
    if head in foreign:
        # One of the two is another's: the manifest is what flies, so it is to come from the cache anew.
        where = f"manifests/{files[head].name}"
        yield changed(where, OTHER_BYTES, head)
        return
    for number in foreign:
        text = f"expected the history of generation {head}, found the records of another one"
        yield changed(f"segments/{names[number]}", text, number)
    whole = whole and not foreign
    for number, file in files.items():
        if number in foreign:
            continue
        if number in links and links[number].commit.manifest_sha256 != file.manifest.sha256:
            yield changed(f"manifests/{file.name}", OTHER_BYTES, number)
        recorded = recorded_signatures(links, number) if number in links and whole else []
        yield from _signature_findings(file, recorded)


def _signature_findings(file: ManifestFile, recorded: list[bytes]) -> Iterator[Finding]:
    """Yield signatures that are not as recorded; those that were made after the last commit need only be some."""
    number = file.manifest.envelope.generation
    for place in range(1, MAX_SIGNATURES + 1):
        where, data = f"manifests/{signature_name(file.name, place)}", file.signed.get(place)
        if data is None and place <= len(recorded):
            yield _absent(where, "missing", number)
        elif data is not None and place <= len(recorded) and data != recorded[place - 1]:
            yield changed(where, "expected the signature that was recorded, found other bytes", number)
        elif data is not None and parse_signature(data) is None:
            yield changed(where, "expected a signature, found something else", number)


def changed(where: str, found: str, generation: int) -> Finding:
    """Return the finding of a file that is not what the cache wrote."""
    kind = ProblemKind.PROJECTION_DAMAGED
    return Finding(kind=kind, subject=where, found=found, path=where, generation=generation)


def _absent(where: str, found: str, generation: int) -> Finding:
    kind = ProblemKind.PROJECTION_ABSENT
    return Finding(kind=kind, subject=where, found=found, path=where, generation=generation)
