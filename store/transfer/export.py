"""Export the records of a cache, and chosen artifacts, to one file or stream.

An export neither writes to the cache nor locks it; what a collection removes meanwhile is left out. Artifacts
are hashed while they are copied. If one is damaged, all are hashed, and the bundle is written again without
the damaged ones; the result names them. A stream cannot be written again: it ends before its trailer.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from journal import Entry
from journal.fsync import fsync_dir
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.view import HistoryView, died_build, read_history
from store.disk.artifacts import Artifacts, counted
from store.disk.cell_tables import tables_of_build
from store.disk.layout import Layout, lies_within
from store.disk.repair_commands import cache_option, listing, repairing
from store.disk.write_once import Draft
from store.domain.events import BuildAbandoned, BuildCommitted, BuildFailed, BuildRefused
from store.domain.fold import fold
from store.domain.state import BuildStatus, State
from store.errors import (
    ArtifactError,
    CacheUnusableError,
    ErrorKind,
    RequestRefusedError,
    StoreError,
    from_os_error,
)
from store.policy.recovery import check as check_history
from store.transfer.bundle_format import MAX_ARTIFACTS, BundleHeader, Choice, write_bundle
from store.transfer.have import Have, artifacts_held
from store.transfer.selection import artifacts_named, artifacts_of_failing_step, digests_collected
from store.verify.coverage import intact_artifacts, referenced_by

_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EPERM, errno.ENOSYS})
_RETRIES = 10
"""How often the records are read again while artifacts are missing and the cache changes."""

_BUILD_ENDS = (BuildCommitted, BuildFailed, BuildAbandoned, BuildRefused)


@valueclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """The bundle that was written, to a file or to a stream, which has no path.

    `missing` holds the digests of artifacts that the records need and the cache lacks, or holds damaged. `held` counts
    those that were left out because the other side has them.
    """

    path: Path | None
    header: BundleHeader
    file: ArtifactRef
    missing: tuple[str, ...]
    held: int


@valueclass(frozen=True, slots=True, kw_only=True)
class _Content:
    header: BundleHeader
    entries: Sequence[Entry]
    refs: Sequence[ArtifactRef]
    missing: tuple[str, ...]
    held: int


def export(
    layout: Layout,
    target: Path | Callable[[bytes], object],
    *,
    build: int | None = None,
    choice: Choice | None = None,
    have: Have | None = None,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> ExportResult:
    """Write a bundle to a file or a stream.

    Args:
        layout: The cache.
        target: The file to write, outside of the cache; it must not exist. Or what takes the bytes of a stream, in order.
        build: Only the records up to the end of this build; all of them if absent.
        choice: Which artifacts; by default all, or what the failing step worked on if `build` did not commit.
        have: What the other side has; it is left out.
        on_total: Called with the bytes of all artifacts before they are copied.
        on_bytes: Called with the bytes of each piece.

    Raises:
        RequestRefusedError: There is no cache or no such build, or it was collected; the file exists; or the other side
            has other records.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
        UnknownEventError: All artifacts are wanted, and events of a newer version may name some.
        ArtifactError: One that goes to a stream is damaged, or was collected. The stream then ends without a trailer.
        StoreError: The file cannot be written.
    """
    if isinstance(target, Path):
        _require_new(layout, target)
    artifacts, damaged = Artifacts(layout), frozenset[str]()
    while True:
        content = _stable_content(
            layout,
            partial(_content, artifacts=artifacts, build=build, choice=choice, have=have, damaged=damaged),
        )
        if on_total is not None:
            on_total(content.header.size)
        try:
            with _writing(target) if isinstance(target, Path) else nullcontext(target) as put:
                pieces = ((ref, counted(artifacts.pieces(ref), on_bytes)) for ref in content.refs)
                file = write_bundle(put, content.header, content.entries, pieces)
        except ArtifactError as error:
            if not isinstance(target, Path):
                raise _cut_short_error(layout, error) from error
            intact = intact_artifacts(artifacts, content.refs)
            present = {ref.sha256 for ref in content.refs if artifacts.present(ref)}
            if present == intact.keys() and len(present) == len(content.refs):
                raise
            # An artifact that is absent was collected, or is reported as missing after the next reading.
            damaged |= present - intact.keys()
        else:
            return ExportResult(
                path=target if isinstance(target, Path) else None,
                header=content.header,
                file=file,
                missing=content.missing,
                held=content.held,
            )


def _stable_content(layout: Layout, select: Callable[[HistoryView], _Content]) -> _Content:
    """Select the content; read again if artifacts are missing that a collection may have just removed."""
    view = read_history(layout, strict=False)
    content = select(view)
    for _ in range(_RETRIES):
        if not content.missing:
            break
        later = read_history(layout, strict=False)
        if later.head == view.head:
            break
        view = later
        content = select(view)
    return content


def _content(
    view: HistoryView,
    *,
    artifacts: Artifacts,
    build: int | None,
    choice: Choice | None,
    have: Have | None,
    damaged: frozenset[str],
) -> _Content:
    entries = view.entries
    if not entries:
        raise RequestRefusedError(
            f"expected the records of a cache in {view.layout.root}, found an empty journal",
            kind=ErrorKind.NO_CACHE,
            hint="c10 build REQUEST --cache DIR",
        )
    end = len(entries) if build is None else _last_record(view, build)
    facts, state = view.facts[:end], view.state
    if end < len(entries):
        state = fold(facts)
    if choice is None:
        committed = build is None or state.builds[build].status is BuildStatus.COMMITTED
        choice = Choice.ALL if committed else Choice.FAILING
    wanted: dict[str, ArtifactRef] = {}
    needed = frozenset[str]()
    match choice:
        case Choice.NONE:
            pass
        case Choice.FAILING:
            wanted = artifacts_of_failing_step(
                state, _newest_failed(state) if build is None else build, facts
            )
            needed = frozenset(wanted)
        case Choice.ALL:
            _require_all_artifacts(view, state)
            wanted = artifacts_named(facts)
            needed = referenced_by(state, _listed(state, artifacts))
    there = {} if have is None else artifacts_held(have, state.cache_id, entries[:end], facts)
    held = {digest for digest, ref in wanted.items() if there.get(digest) == ref.size}
    rest = [ref for digest, ref in sorted(wanted.items()) if digest not in held]
    refs = [ref for ref in rest if ref.sha256 not in damaged and artifacts.present(ref)]
    if len(refs) > MAX_ARTIFACTS:
        raise RequestRefusedError(
            f"expected at most {MAX_ARTIFACTS} artifacts for one bundle, found {len(refs)}",
            kind=ErrorKind.BUNDLE,
            hint=f"c10 gc --yes{cache_option(view.layout)}, or c10 mirror",
        )
    carried = held | {ref.sha256 for ref in refs}
    header = BundleHeader(
        cache_id=state.cache_id,
        records=end,
        chain=entries[end - 1].chain.hex(),
        choice=choice,
        artifacts=len(refs),
        size=sum(ref.size for ref in refs),
        build=_ended_build(view, state, build),
    )
    missing = needed - carried - (digests_collected(view.facts) - damaged)
    return _Content(
        header=header, entries=entries[:end], refs=refs, missing=tuple(sorted(missing)), held=len(held)
    )


def _last_record(view: HistoryView, number: int) -> int:
    """Return the record with which a build ended; the last one of all if it did not end."""
    if number not in view.state.builds:
        raise RequestRefusedError(
            f"expected a build from 1 to {len(view.state.builds)}, found {number}",
            kind=ErrorKind.UNKNOWN_BUILD,
            hint=listing(view.layout),
        )
    # A rollback commits a build once more; its first end counts.
    ends = (fact.seq for fact in view.facts if fact.build == number and isinstance(fact.event, _BUILD_ENDS))
    return next(ends, len(view.facts))


def _ended_build(view: HistoryView, state: State, number: int | None) -> int | None:
    """Return the build that ends with the last record that is exported, since it ended or died; None if none does."""
    if state.open_build is None or number not in {None, state.open_build}:
        return number
    return died_build(view)


def _newest_failed(state: State) -> int:
    """Return the newest build that did not commit; else the newest."""
    if not state.builds:
        raise RequestRefusedError(
            "expected a build to export, found none",
            kind=ErrorKind.NO_GENERATION,
            hint="c10 export --artifacts none (the records alone)",
        )
    failed = (each.number for each in state.builds.values() if each.status is not BuildStatus.COMMITTED)
    return max(failed, default=max(state.builds))


def _require_all_artifacts(view: HistoryView, state: State) -> None:
    """Make sure that all artifacts are known and not collected; exports of fewer artifacts need less."""
    state.require_known(
        "which artifacts it names is not known", "use the newer C10, or c10 export --artifacts none"
    )
    check_history(view.state, view.observed)
    if state.head is not None and state.head.origin in view.state.collected:
        raise RequestRefusedError(
            f"expected build {state.head.origin} with its artifacts, found that they were collected",
            kind=ErrorKind.COLLECTED,
            hint="c10 export BUILD --artifacts none (the records alone)",
        )


def _listed(state: State, artifacts: Artifacts) -> Iterator[ArtifactRef]:
    """Yield what the readable tables of all builds list that were committed and not collected."""
    collected = state.collected
    for build in state.builds.values():
        if build.status is BuildStatus.COMMITTED and build.number not in collected:
            for table in tables_of_build(build):
                with suppress(StoreError):
                    yield from (ref for _, ref in table.files(artifacts))


def _cut_short_error(layout: Layout, error: ArtifactError) -> ArtifactError:
    return ArtifactError(
        f"{error.message}; the bundle was cut short there, so that its reader refuses it",
        kind=error.kind,
        hint=f"{repairing(layout)}, then run it again; or c10 export -o FILE, which leaves out what is damaged",
    )


def _require_new(layout: Layout, target: Path) -> None:
    if lies_within(target, layout.root):
        raise _target_error(target, "one inside of the cache")
    if os.path.lexists(target):
        raise _target_error(target, "that it exists")
    if not target.parent.is_dir():
        raise _target_error(target, "that there is no folder for it")


def _target_error(target: Path, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected a new file for the bundle, outside of the cache, found {found}: {target}",
        kind=ErrorKind.FILE_SYSTEM,
        hint="choose another -o FILE",
    )


@contextmanager
def _writing(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Write a file that gets its name only when it is complete, where the file system can do that.

    Where it cannot, as on many sticks and cards, the file is written under its name and removed after an
    error. A killed process then leaves a file that is cut short, which every reader refuses.
    """
    try:
        fd, named = _create_file(target)
        # Its permissions are those that the umask leaves: it is in no folder of a cache.
        new = Draft(fd, mode=stat.S_IMODE(os.fstat(fd).st_mode) & 0o444)
        try:
            yield new.write
            if named:
                os.fsync(fd)
                fsync_dir(target.parent)
            else:
                new.publish(target.parent.resolve(), target.name)
        except BaseException:
            if named:
                with suppress(OSError):
                    target.unlink()
            raise
        finally:
            os.close(fd)
    except FileExistsError as error:
        raise _target_error(target, "that it exists") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise CacheUnusableError(
                f"bundle {target}: expected that one file may hold all of it, found: {error.strerror}",
                kind=ErrorKind.FILE_SYSTEM,
                hint="FAT32 takes 4 GiB a file: use exFAT or ext4, or c10 export -o - and a pipe; or raise ulimit -f",
            ) from error
        raise from_os_error(error, f"bundle {target}") from error


def _create_file(target: Path) -> tuple[int, bool]:
    """Create a file without a name, or, if that is impossible, with the name; return it and whether named."""
    try:
        return os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644), False
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    return os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644), True
