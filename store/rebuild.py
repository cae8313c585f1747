"""Make the journal again from its segments.

Segments 1 to n hold every record up to the last commit, framed and chained. What was appended after the last
commit exists in the journal alone and is lost with it. Segments must be complete: one that is missing or broken
ends the rebuilding, since nothing after it could be chained. The damaged LMDB file is kept in `quarantine/`.
"""

import os

from journal import Journal
from journal.durable import fsync_dir
from journal.record import EMPTY, Head, Record
from store import canonical, segment
from store.errors import DamagedHistoryError, ErrorKind, from_os_error
from store.facts import to_facts
from store.layout import Layout
from store.manifest import MAX_BYTES, head_projections, project
from store.state import State, absorb
from store.writeonce import read_regular


def rebuild(layout: Layout) -> State:
    """Replace the journal by one made from the segments; the caller holds the build lock.

    Returns:
        The state it folds to.

    Raises:
        DamagedHistoryError: The segments are incomplete, broken, or do not fit the manifests; the journal was
            not touched.
        StoreError, journal.JournalError: The folder cannot be written.
    """
    records, state = _read(layout)
    _check_manifests(layout, state)
    try:
        _set_aside(layout)
    except OSError as error:
        raise from_os_error(error, f"journal {layout.journal}") from error
    head = state.generations[len(state.generations)]
    projections = head_projections(head.number, project(state, head))
    Journal.create(layout.journal, records, scratch=layout.scratch, projections=projections)
    return state


def _read(layout: Layout) -> tuple[list[Record], State]:
    files = layout.segment_files()
    if sorted(files) != list(range(1, len(files) + 1)) or not files:
        missing = sorted(set(range(1, max(files, default=1) + 1)) - set(files))
        raise _broken(f"all segments from 1 to {max(files, default=1)}, found none for {missing[:3]}")
    records, state, head = list[Record](), State(), EMPTY
    for number in sorted(files):
        try:
            path = layout.segments / files[number]
            data = read_regular(path, limit=path.lstat().st_size)
        except OSError as error:
            raise from_os_error(error, f"segment {files[number]}") from error
        if data is None:
            raise _broken(f"segment {files[number]} to be a regular file, found something else")
        found = segment.decode(data)
        if found.generation != number or found.before != head or not found.entries:
            raise _broken(
                f"segment {files[number]} to continue at record {head.seq + 1}, found another place"
            )
        records.extend(entry.record for entry in found.entries)
        absorb(state, to_facts(found.entries))
        head = Head(found.entries[-1].seq, found.entries[-1].chain)
        if len(state.generations) != number:
            raise _broken(f"segment {files[number]} to end with the commit of generation {number}")
    return records, state


def _check_manifests(layout: Layout, state: State) -> None:
    for number, name in layout.manifest_files().items():
        generation = state.generations.get(number)
        if generation is None:
            raise _broken(f"a segment of generation {number}, whose manifest exists")
        if canonical.sha256(project(state, generation)) != generation.manifest_sha256:
            raise _broken(
                f"the records of generation {number} to project to the manifest they commit ({name})"
            )
        try:
            raw = read_regular(layout.manifests / name, limit=MAX_BYTES)
        except OSError as error:
            raise from_os_error(error, f"manifest {name}") from error
        if raw is None or canonical.sha256(raw) != generation.manifest_sha256:
            raise _broken(
                f"the segments of the cache that made {name}; they are another's, or that file is damaged"
            )


def _set_aside(layout: Layout) -> None:
    """Keep what is there as evidence; link and unlink, so that a crash leaves at least one name."""
    lock = layout.journal.with_name(layout.journal.name + "-lock")
    number = 0
    while os.path.lexists(layout.quarantine / f"{layout.journal.name}.{number}"):
        number += 1
    if os.path.lexists(layout.journal):
        os.link(layout.journal, layout.quarantine / f"{layout.journal.name}.{number}", follow_symlinks=False)
        fsync_dir(layout.quarantine)
        layout.journal.unlink()
    lock.unlink(missing_ok=True)
    fsync_dir(layout.root)


def _broken(expected: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        ErrorKind.JOURNAL_INCOMPLETE,
        f"expected {expected}",
        hint="restore the segments from a mirror of this cache",
    )
