"""Compare manifests, signatures and segments with the journal that they are projected from."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from store.base.canonical_json import sha256
from store.cache import segment
from store.cache.journal_consistency import segment_fits
from store.cache.projections import signatures_of
from store.cache.view import View
from store.domain.state import Generation
from store.errors import DamagedHistoryError, describe_read_error, from_os_error, is_shortage
from store.files.regular_file import is_wrong_file_type, open_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, signature_name
from store.verify.report import Finding, ProblemKind


def projection_findings(view: View, chains: Sequence[str] | None) -> Iterator[Finding]:
    """Yield missing, damaged and foreign projections. A collected generation has only its segment.

    Args:
        view: The cache.
        chains: Chain digest of every record, hexadecimal, from the first. Without them only signatures are
            read, and of all other files only the names are checked.
    """
    layout, observed, known, first = view.layout, view.observed, chains or (), 0
    for number, generation in view.state.generations.items():
        manifest = observed.manifests.get(number)
        name = manifest or layout.manifest_name(number)
        expected: list[tuple[Path, bool, Callable[[BinaryIO], bool]]] = [
            (
                layout.segments / layout.segment_name(number),
                number in observed.segments,
                partial(_is_segment_of, generation, known, first),
            ),
            (
                layout.manifests / name,
                manifest is not None,
                lambda file, of=generation: sha256(file.read(MAX_MANIFEST_BYTES + 1)) == of.manifest_sha256,  # type: ignore[misc]
            ),
        ]
        signed = signatures_of(generation)
        expected.extend(
            (
                layout.manifests / signature_name(name, place),
                (number, place) in observed.signatures,
                lambda file, of=signature: file.read(len(of) + 1) == of,  # type: ignore[misc]
            )
            for place, signature in enumerate(signed, start=1)
        )
        if number not in view.state.collected_generations:
            yield from _foreign_signatures(name, number, len(signed), view)
        first = generation.seq
        for path, seen, is_right in expected[:1] if number in view.state.collected_generations else expected:
            # The folders were listed before the journal was read: a commit since then wrote files after that.
            present = seen or path.exists()
            # A signature is short, and nothing else would explain the NO-GO of a damaged one.
            reads_it = chains is not None or path.suffix.startswith(".sig")
            wrong = "missing" if not present else _content_problem(path, is_right) if reads_it else ""
            if wrong:
                kind = ProblemKind.PROJECTION_DAMAGED if present else ProblemKind.PROJECTION_ABSENT
                where = str(path.relative_to(layout.root))
                yield Finding(kind=kind, subject=where, found=wrong, path=where, generation=number)
    for folder, files in ((layout.manifests, observed.manifests), (layout.segments, observed.segments)):
        for number, name in files.items():
            if number not in view.state.generations:
                where = f"{folder.name}/{name}"
                found = (
                    f"expected no file of a generation that the journal does not hold, found number {number}"
                )
                yield Finding(kind=ProblemKind.STRANGER, subject=where, found=found, path=where)


def _foreign_signatures(name: str, number: int, signed: int, view: View) -> Iterator[Finding]:
    """Yield the signature files of a generation that the journal does not hold."""
    for of, place in sorted(view.observed.signatures):
        if of == number and place > signed:
            found = f"expected no signature beside the {signed} of this generation, found one"
            if not signed:
                found = "expected no signature of an unsigned generation, found one"
            stranger = f"manifests/{signature_name(name, place)}"
            yield Finding(kind=ProblemKind.STRANGER, subject=stranger, found=found, path=stranger)


def _is_segment_of(generation: Generation, chains: Sequence[str], first: int, file: BinaryIO) -> bool:
    try:
        return segment_fits(segment.check(file), generation, chains, first)
    except DamagedHistoryError:
        return False


def _content_problem(path: Path, is_right: Callable[[BinaryIO], bool]) -> str:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            right = is_right(file)
    except OSError as error:
        if is_wrong_file_type(error):
            return "expected a regular file, found something else"
        if is_shortage(error):
            raise from_os_error(error, f"{path.parent.name}/{path.name}") from error
        return describe_read_error(error)
    return "" if right else "expected what the journal projects, found other bytes"
