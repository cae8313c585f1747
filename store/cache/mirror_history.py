"""What the segments of a mirror say in place of a journal, and whether it is the history of what the mirror shows.

Whoever copies one mirror over another gets files of two caches, each of them whole. Only their links tell them apart: a
segment begins where the one before it ends, and a manifest names the record before its commit.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from journal import RecordError
from journal.record import EMPTY, Entry, Head
from store.cache import segment
from store.cache.event_mapper import to_recorded_event
from store.cache.segment import Segment
from store.disk.layout import Layout
from store.disk.manifest_files import ManifestFile, read_manifest_file, shown_generation
from store.disk.repair_commands import mirroring_without
from store.domain.events import BuildCommitted, CacheCreated
from store.domain.maintenance_events import GenerationSigned
from store.errors import (
    DamagedHistoryError,
    ErrorKind,
    NoGoError,
    describe_read_error,
    from_os_error,
    is_shortage,
)
from store.manifest.manifest import Manifest
from store.trust.signatures import Signature, signature_file

OTHER_BYTES: Final = "expected the manifest that was committed, found other bytes"
OTHER_CACHE: Final = "expected the cache of the newest manifest, found another cache's generation"

_MAX_GAP: Final = 100
"""So many missing segments between two that are there are told one by one."""


class Links(NamedTuple):
    """What a whole segment says of its place, with its commit and signatures; `cache_id` only in the first."""

    before: Head
    parent: Head
    end: Head
    commit: BuildCommitted
    cache_id: str
    signed: tuple[GenerationSigned, ...]


def numbers_to_read(names: Iterable[int], head: int = 0) -> Iterator[int]:
    """Yield the generations whose segments a mirror should have, in order: of a long gap only the first.

    A stray file may have any number in its name.

    Args:
        names: Those that have a segment.
        head: The newest generation, if it is known.
    """
    last = 0
    for number in sorted({*names, head} - {0}):
        yield from range(last + 1, min(number, last + 1 + _MAX_GAP))
        yield number
        last = number


def read_segment(layout: Layout, number: int, name: str | None) -> Segment | str:
    """Return the segment of a generation, or what is wrong with it.

    Args:
        layout: Where it is.
        number: The generation.
        name: Its name among `layout.segment_files()`; None if it has none.

    Raises:
        StoreError: There is too little memory, or no more files may be open.
    """
    if name is None:
        return "missing"
    try:
        found = segment.read(layout.segments / name)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, f"segments/{name}") from error
        return describe_read_error(error)
    except DamagedHistoryError as error:
        return error.message
    if found.generation != number:
        return f"expected the records of generation {number}, found those of {found.generation}"
    return found


def links_of(found: Segment) -> Links | str:
    """Return what a segment says of its place, or what is wrong with its records."""
    created, signed, last = "", list[GenerationSigned](), None
    try:
        for entry in found.entries:
            last = to_recorded_event(entry).event
            if isinstance(last, GenerationSigned):
                signed.append(last)
            elif isinstance(last, CacheCreated):
                created = last.cache_id
    except (DamagedHistoryError, RecordError) as error:
        return error.message
    if not isinstance(last, BuildCommitted) or last.generation != found.generation:
        return f"expected the commit of generation {found.generation} as its last record, found another"
    parent = found.entries[-2].head if len(found.entries) > 1 else found.before
    cache_id = created if found.before == EMPTY else ""
    return Links(found.before, parent, found.entries[-1].head, last, cache_id, tuple(signed))


def foreign_segments(links: Mapping[int, Links], shown: Manifest | None) -> list[int]:
    """Return the generations whose segments, though whole, are not of the history of a manifest.

    Args:
        links: Generation to what its segment says, of all that are whole.
        shown: The newest manifest; without one, the newest segment counts.
    """
    head = max(links, default=0) if shown is None else shown.envelope.generation
    same_cache = shown is None or 1 not in links or links[1].cache_id == shown.envelope.cache_id
    own = dict[int, bool]()
    for run in sorted(_linked_runs(links), key=lambda run: min(abs(number - head) for number in run)):
        fits = same_cache or 1 not in run
        # Where the neighbour towards the head is whole too, the run would go on if the two were one history.
        neighbour, end = (run[-1] + 1, run[-1]) if run[-1] < head else (run[0] - 1, run[0])
        apart = head not in run and own.get(neighbour, False)
        if apart:
            fits = fits and 1 in run  # what lies before its end may be common to both
        elif shown is not None and head in run:
            before = shown.envelope.before
            fits = (links[head].parent.seq, links[head].parent.chain.hex()) == (before.seq, before.chain)
        own.update(dict.fromkeys(run, fits))
        own[end] = fits and not apart
    return sorted(number for number, fits in own.items() if not fits)


def _linked_runs(links: Mapping[int, Links]) -> list[list[int]]:
    """Return the generations in groups of which each segment begins where the one before it ends."""
    runs = list[list[int]]()
    for number in sorted(links):
        if number - 1 in links and links[number].before == links[number - 1].end:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def recorded_signatures(links: Mapping[int, Links], generation: int) -> list[bytes]:
    """Return the signature files of a generation as far as the segments record them, in the order of their places."""
    commit = links[generation].commit
    found = [Signature(key_id=commit.key_id, signature=commit.signature)] if commit.signature else []
    for _, each in sorted(links.items()):
        found += [
            Signature(key_id=event.key_id, signature=event.signature)
            for event in each.signed
            if event.generation == generation
        ]
    return [signature_file(signature) for signature in found]


def read_shown(layout: Layout) -> ManifestFile:
    """Return the newest manifest of a mirror, which must be the one that its segment committed, if that is whole.

    Raises:
        NoGoError: There is none, it is none of its generation, or it is another one.
        CacheUnusableError: A file cannot be read.
    """
    file = read_manifest_file(layout, shown_generation(layout))
    number = file.manifest.envelope.generation
    found = read_segment(layout, number, layout.segment_files().get(number))
    links = found if isinstance(found, str) else links_of(found)
    if not isinstance(links, str) and links.commit.manifest_sha256 != file.manifest.sha256:
        where = f"manifests/{file.name}"
        raise NoGoError(
            (f"{where}: {OTHER_BYTES}",),
            kind=ErrorKind.MANIFEST_INVALID,
            hint=mirroring_without(layout, where),
        )
    return file


def read_records(layout: Layout) -> tuple[list[Entry], str]:
    """Return the records of all segments from the first on, and why there are no more of them; empty if there are.

    Raises:
        DamagedHistoryError: Segments are of another history than what the mirror shows.
        CacheUnusableError: A file cannot be read.
    """
    entries, links, problem = list[Entry](), dict[int, Links](), ""
    names = layout.segment_files()
    for number in numbers_to_read(names):
        found = read_segment(layout, number, names.get(number))
        of = found if isinstance(found, str) else links_of(found)
        if isinstance(found, str) or isinstance(of, str):
            problem = problem or f"segment {number}: {of}"
            continue
        links[number] = of
        if not problem:
            entries.extend(found.entries)
    foreign = foreign_segments(links, _shown(layout))
    if foreign:
        raise DamagedHistoryError(
            f"expected the segments of what {layout.root} shows, found those of another history:"
            f" {', '.join(f'segments/{names[number]}' for number in foreign)}",
            kind=ErrorKind.JOURNAL_REPLACED,
            hint=f"c10 verify --cache {shlex.quote(str(layout.root))} says what mends this mirror",
        )
    return entries, problem


def _shown(layout: Layout) -> Manifest | None:
    """Return the newest manifest; none where it cannot be told which one that is."""
    try:
        return read_manifest_file(layout, shown_generation(layout)).manifest
    except NoGoError:
        return None
