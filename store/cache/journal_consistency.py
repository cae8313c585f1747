"""Decide which side is wrong when files and journal disagree, before anything is repaired.

A manifest or segment that differs from what the journal projects has one of two causes. Either the file is damaged
or was replaced: then it is written again from the journal. Or the journal lost its newest records, or belongs to
another cache: then it is rebuilt from the segments. A damaged file proves nothing. An intact file proves something:
that another cache wrote it (which counts only if no file at all fits the journal), or that this cache once had
records which the journal no longer holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from store.backports import StrEnum
from store.base.canonical_json import sha256
from store.base.valueclass import valueclass
from store.base.values import GENESIS_CHAIN
from store.cache import segment
from store.cache.segment import ChainPart
from store.disk.layout import Layout
from store.disk.repair_commands import rebuilding, repairing
from store.domain.state import Generation, State
from store.errors import DamagedHistoryError, ErrorKind, NoGoError, from_os_error
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.manifest.manifest import parse

_Content = TypeVar("_Content")


class Match(StrEnum):
    """How a file compares with the journal."""

    FITS = "fits"
    BROKEN = "broken"
    FOREIGN = "foreign"
    CONTRADICTS = "contradicts"


@valueclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """A manifest or segment: its path, the generation in its name, how it compares with the journal, what was found."""

    path: Path
    generation: int
    match: Match
    found: str = ""


@valueclass(frozen=True, slots=True, kw_only=True)
class JournalConsistency:
    """How all manifests and segments of a cache compare with its journal."""

    files: tuple[FileStatus, ...]

    @property
    def contradiction(self) -> str:
        """Why the journal cannot be the one that these files came from; empty if it can."""
        for status in self.files:
            if status.match is Match.CONTRADICTS:
                return f"{status.path.parent.name}/{status.path.name}: {status.found}"
        matches = {status.match for status in self.files}
        if Match.FOREIGN in matches and Match.FITS not in matches:
            return "every whole manifest and segment beside the journal is another cache's"
        return ""

    @property
    def mismatches(self) -> tuple[FileStatus, ...]:
        """The files that differ from what the journal projects."""
        return tuple(status for status in self.files if status.match is not Match.FITS)


def compare_files(
    layout: Layout, state: State, chains: Sequence[str], *, segments: bool = True
) -> JournalConsistency:
    """Compare every manifest and segment with a journal.

    Args:
        layout: Where they are.
        state: What the journal folds to.
        chains: Chain digest of every record, hexadecimal, from the first.
        segments: Whether segments count; off for a journal that was just rebuilt from them.

    Raises:
        CacheUnusableError: A file cannot be read.
    """
    seen = list(_segments(layout, state, chains)) if segments else []
    fitting = {status.generation for status in seen if status.match is Match.FITS}
    manifests = list(_manifests(layout, state, fitting))
    confirmed = {status.generation for status in manifests if status.match is Match.FITS}
    return JournalConsistency(
        files=(*(_with_manifest_confirmation(status, confirmed) for status in seen), *manifests)
    )


def require_consistent_journal(layout: Layout, state: State, chains: Sequence[str]) -> JournalConsistency:
    """Compare the files with the journal, and refuse a journal that they cannot have come from.

    Raises:
        DamagedHistoryError: The journal lost its newest records or belongs to another cache.
        CacheUnusableError: A file cannot be read.
    """
    found = compare_files(layout, state, chains)
    if found.contradiction:
        raise _lost_journal_error(layout, found)
    return found


def explain_disagreement(
    layout: Layout, state: State, chains: Sequence[str], error: DamagedHistoryError
) -> DamagedHistoryError:
    """Return an error that says which side is wrong, and what repairs it, after a quick check found a disagreement.

    Args:
        layout: Where the cache is.
        state: What the journal folds to.
        chains: Chain digest of every record, hexadecimal, from the first.
        error: What the quick check found.

    Raises:
        CacheUnusableError: A file cannot be read.
    """
    if error.kind is not ErrorKind.JOURNAL_REPLACED:
        return error
    found = compare_files(layout, state, chains)
    if found.contradiction:
        return _lost_journal_error(layout, found)
    if not found.mismatches:
        return error
    wrong = max(found.mismatches, key=lambda status: status.generation)
    more = f" (and {len(found.mismatches) - 1} more)" if len(found.mismatches) > 1 else ""
    return DamagedHistoryError(
        f"expected what the journal projects as {wrong.path.parent.name}/{wrong.path.name}, found a file that is"
        f" damaged or not this cache's: {wrong.found}{more}",
        kind=ErrorKind.JOURNAL_REPLACED,
        hint=f"{repairing(layout)} (keeps it as evidence; the journal is sound)",
    )


def _lost_journal_error(layout: Layout, found: JournalConsistency) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"expected the journal that made these files, found one that lost its newest records or is another's:"
        f" {found.contradiction}",
        kind=ErrorKind.JOURNAL_REPLACED,
        hint=rebuilding(layout),
    )


def segment_fits(found: ChainPart, generation: Generation, chains: Sequence[str], first: int) -> bool:
    """Return whether a segment, checked link by link, holds the records of a generation.

    The digest of its last record stands for all before it: equal chain digests mean equal records.

    Args:
        found: What the file holds.
        generation: The generation it should hold.
        chains: Chain digest of every record, hexadecimal, from the first.
        first: Seq of the commit before, 0 if there is none.
    """
    return (
        found.generation == generation.number
        and (found.before.seq, found.last.seq) == (first, generation.seq)
        and found.before.chain.hex() == _chain_at(chains, first)
        and found.last.chain.hex() == _chain_at(chains, generation.seq)
    )


def _chain_at(chains: Sequence[str], seq: int) -> str | None:
    return GENESIS_CHAIN if seq == 0 else chains[seq - 1] if seq <= len(chains) else None


def _with_manifest_confirmation(status: FileStatus, confirmed: set[int]) -> FileStatus:
    """Count a segment that contradicts the journal as foreign if the manifest confirms the journal."""
    if status.match is Match.CONTRADICTS and status.generation in confirmed:
        return FileStatus(
            path=status.path,
            generation=status.generation,
            match=Match.FOREIGN,
            found="holds other records than the generation that the manifest confirms",
        )
    return status


def _segments(layout: Layout, state: State, chains: Sequence[str]) -> Iterator[FileStatus]:
    for number, path, part in _files(layout.segments, layout.segment_files(), _check_segment):
        match, found = _segment(number, part, state, chains)
        yield FileStatus(path=path, generation=number, match=match, found=found)


def _check_segment(path: Path) -> ChainPart | str:
    """Return what a segment holds, or what is wrong with it."""
    try:
        with segment.opened(path) as file:
            return segment.check(file)
    except DamagedHistoryError as error:
        return error.message


def _segment(number: int, part: ChainPart | str, state: State, chains: Sequence[str]) -> tuple[Match, str]:
    generation, previous = state.generations.get(number), state.generations.get(number - 1)
    if isinstance(part, str):
        return Match.BROKEN, part
    if generation is not None and segment_fits(part, generation, chains, previous.seq if previous else 0):
        return Match.FITS, ""
    if part.generation != number or part.last == part.before:
        return Match.BROKEN, f"expected the records of generation {number}, found other ones"
    # Every history begins empty: there only the genesis event differs from cache to cache.
    shared = part.before if part.before.seq else part.first
    if shared.chain.hex() == _chain_at(chains, shared.seq):
        return (
            Match.CONTRADICTS,
            f"continues the journal with records of generation {number} that it does not hold",
        )
    return Match.FOREIGN, "holds records of another history"


def _manifests(layout: Layout, state: State, fitting: set[int]) -> Iterator[FileStatus]:
    read = partial(read_regular, limit=MAX_MANIFEST_BYTES)
    for number, path, data in _files(layout.manifests, layout.manifest_files(), read):
        match, found = _manifest(number, data, state, confirmed=number in fitting)
        yield FileStatus(path=path, generation=number, match=match, found=found)


def _manifest(number: int, data: bytes | None, state: State, *, confirmed: bool) -> tuple[Match, str]:
    generation = state.generations.get(number)
    if data is None:
        return (
            Match.BROKEN,
            f"expected a regular file of at most {MAX_MANIFEST_BYTES:,} bytes, found something else",
        )
    if generation is not None and sha256(data) == generation.manifest_sha256:
        return Match.FITS, ""
    try:
        manifest = parse(data)
    except NoGoError as error:
        return Match.BROKEN, error.reasons[0]
    if manifest.envelope.generation != number:
        return Match.BROKEN, f"expected generation {number}, found {manifest.envelope.generation}"
    if manifest.envelope.cache_id != state.cache_id:
        return Match.FOREIGN, f"belongs to cache {manifest.envelope.cache_id:.12}"
    # A manifest names its place in the chain, and that digest stands for everything before it.
    if confirmed or (generation is not None and manifest.envelope.before == generation.before):
        return Match.BROKEN, "expected what the journal projects, found other bytes"
    return Match.CONTRADICTS, f"is generation {number} of this cache, which the journal does not hold so"


def _files(
    folder: Path, names: Mapping[int, str], read: Callable[[Path], _Content]
) -> Iterator[tuple[int, Path, _Content]]:
    for number, name in sorted(names.items()):
        path = folder / name
        try:
            yield number, path, read(path)
        except FileNotFoundError:
            continue  # removed since the folder was listed: proves nothing
        except OSError as error:
            raise from_os_error(error, f"{folder.name}/{name}") from error
