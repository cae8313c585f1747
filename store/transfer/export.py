"""Export: the records of a cache, and artifacts by choice, into one file.

Nothing of the cache is written, and nothing of it is locked: what a collection beside this one takes away is not carried.
Artifacts are hashed while they are copied. If one turns out to be damaged, all are hashed, and the bundle is made again
without those that are; the caller is told which.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from journal import Entry
from journal.fsync import fsync_dir
from store.base.values import ArtifactRef
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts, counted
from store.disk.layout import Layout
from store.disk.write_once import Draft
from store.domain.events import BuildAbandoned, BuildCommitted, BuildFailed, BuildRefused
from store.domain.fold import fold
from store.domain.state import BuildStatus, State
from store.errors import (
    ArtifactError,
    ErrorKind,
    RequestRefusedError,
    StoreError,
    UnknownEventError,
    from_os_error,
)
from store.formats.tables import BlockRow, decode_blocks
from store.policy.recovery import check as check_history
from store.transfer import bundle
from store.transfer.bundle import MAX_ARTIFACTS, BundleHeader, Choice
from store.transfer.selection import artifacts_named, artifacts_of_failing_step, digests_collected
from store.verify.coverage import referenced_by, sound

_NO_DRAFTS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.EPERM, errno.ENOSYS})
_LOOKS = 10
"""How often the records are looked at again while a cache that somebody writes lacks something."""

_ENDS = (BuildCommitted, BuildFailed, BuildAbandoned, BuildRefused)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: The file.
        header: What it says of itself.
        file: Its digest and size.
        missing: Digests of what the records need and the cache does not hold whole.
    """

    path: Path
    header: BundleHeader
    file: ArtifactRef
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What is to be written."""

    header: BundleHeader
    entries: Sequence[Entry]
    refs: Sequence[ArtifactRef]
    missing: tuple[str, ...]


def export(
    layout: Layout,
    target: Path,
    *,
    build: int | None = None,
    choice: Choice | None = None,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> ExportResult:
    """Write a bundle.

    Args:
        layout: The cache.
        target: The file to be made, outside of the cache; it does not exist.
        build: Only the records up to the end of this build; all of them if absent.
        choice: Which artifacts; by default all, or what the failing step worked on if `build` did not commit.
        on_total: Called with the bytes of all artifacts before they are copied.
        on_bytes: Called with the bytes of each piece.

    Raises:
        RequestRefusedError: There is no cache or no such build, or it was collected; or the file exists.
        DamagedHistoryError, journal.JournalError: The journal cannot be believed.
        UnknownEventError: A newer version's events are to be exported with all artifacts that they name.
        StoreError: The file cannot be written.
    """
    _require_free(layout, target)
    artifacts, without = Artifacts(layout), frozenset[str]()
    while True:
        content = _settled(layout, artifacts, build, choice, without)
        if on_total is not None:
            on_total(content.header.size)
        try:
            with _writing(target) as put:
                pieces = ((ref, counted(artifacts.pieces(ref), on_bytes)) for ref in content.refs)
                file = bundle.write(put, content.header, content.entries, pieces)
        except ArtifactError:
            whole = sound(artifacts, content.refs)
            there = {ref.sha256 for ref in content.refs if artifacts.present(ref)}
            if there == whole.keys() and len(there) == len(content.refs):
                raise
            # What is not even there any more was collected, or is missed when the records are looked at again.
            without |= there - whole.keys()
        else:
            return ExportResult(path=target, header=content.header, file=file, missing=content.missing)


def _settled(
    layout: Layout,
    artifacts: Artifacts,
    build: int | None,
    choice: Choice | None,
    without: frozenset[str],
) -> _Content:
    """Decide what is to be written; look again where a collection beside this export may have taken something away."""
    view = read_history(layout, strict=False)
    content = _content(view, artifacts, build, choice, without)
    for _ in range(_LOOKS):
        if not content.missing:
            break
        later = read_history(layout, strict=False)
        if later.head == view.head:
            break
        view = later
        content = _content(view, artifacts, build, choice, without)
    return content


def _content(
    view: HistoryView,
    artifacts: Artifacts,
    build: int | None,
    choice: Choice | None,
    without: frozenset[str],
) -> _Content:
    entries = view.entries
    if not entries:
        raise RequestRefusedError(
            f"expected the records of a cache in {view.layout.root}, found an empty journal",
            kind=ErrorKind.NO_CACHE,
            hint="c10 build REQUEST --cache DIR",
        )
    end = len(entries) if build is None else _end(view, build)
    facts, state = view.facts[:end], view.state
    if end < len(entries):
        state = fold(facts)
    if choice is None:
        done = build is None or state.builds[build].status is BuildStatus.COMMITTED
        choice = Choice.ALL if done else Choice.FAILING
    wanted: dict[str, ArtifactRef] = {}
    needed = frozenset[str]()
    match choice:
        case Choice.NONE:
            pass
        case Choice.FAILING:
            wanted = artifacts_of_failing_step(state, _newest(state) if build is None else build, facts)
            needed = frozenset(wanted)
        case Choice.ALL:
            _require_all(view, state)
            wanted = artifacts_named(facts)
            needed = referenced_by(state, _tables(state, artifacts))
    refs = [ref for _, ref in sorted(wanted.items()) if ref.sha256 not in without and artifacts.present(ref)]
    if len(refs) > MAX_ARTIFACTS:
        raise RequestRefusedError(
            f"expected at most {MAX_ARTIFACTS} artifacts for one bundle, found {len(refs)}",
            kind=ErrorKind.BUNDLE,
            hint="c10 gc --yes, or c10 mirror",
        )
    carried = {ref.sha256 for ref in refs}
    header = BundleHeader(
        cache_id=state.cache_id,
        records=end,
        chain=entries[end - 1].chain.hex(),
        choice=choice,
        artifacts=len(refs),
        size=sum(ref.size for ref in refs),
        build=build,
    )
    missing = needed - carried - (digests_collected(view.facts) - without)
    return _Content(header=header, entries=entries[:end], refs=refs, missing=tuple(sorted(missing)))


def _end(view: HistoryView, number: int) -> int:
    """The record with which a build ends; the last one of all if it did not."""
    if number not in view.state.builds:
        raise RequestRefusedError(
            f"expected a build from 1 to {len(view.state.builds)}, found {number}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint="c10 log",
        )
    # A rollback commits a build once more; what counts is the first time.
    ends = (fact.seq for fact in view.facts if fact.build == number and isinstance(fact.event, _ENDS))
    return next(ends, len(view.facts))


def _newest(state: State) -> int:
    """The newest build that did not commit; else the newest."""
    if not state.builds:
        raise RequestRefusedError(
            "expected a build to export, found none",
            kind=ErrorKind.NO_GENERATION,
            hint="c10 export --artifacts none (the records alone)",
        )
    failed = (each.number for each in state.builds.values() if each.status is not BuildStatus.COMMITTED)
    return max(failed, default=max(state.builds))


def _require_all(view: HistoryView, state: State) -> None:
    """Make sure that a cache can be made of all artifacts: they are known, and were not collected.

    Less is enough to look into a failure: there a journal that lost its newest records is no reason to refuse.

    Raises:
        DamagedHistoryError: The journal does not fit the files beside it.
        UnknownEventError: There are events of a newer version, which may name artifacts.
        RequestRefusedError: What the records show was collected.
    """
    if state.unknown:
        raise UnknownEventError(
            f"expected events this version knows, found {state.unknown[0]}: which artifacts it names is not known",
            kind=ErrorKind.UNKNOWN_EVENT,
            hint="use the newer C10 that wrote this cache, or c10 export --artifacts none",
        )
    check_history(view.state, view.observed)
    if state.head is not None and state.head.origin in view.state.collected:
        raise RequestRefusedError(
            f"expected build {state.head.origin} with its artifacts, found that they were collected",
            kind=ErrorKind.COLLECTED,
            hint="c10 export BUILD --artifacts none (the records alone)",
        )


def _tables(state: State, artifacts: Artifacts) -> Iterator[Sequence[BlockRow]]:
    """The block tables of all builds that were committed and are not collected, as far as they can be read."""
    collected = state.collected
    for build in state.builds.values():
        if (
            build.status is BuildStatus.COMMITTED
            and build.number not in collected
            and build.index is not None
        ):
            with suppress(StoreError):
                yield decode_blocks(artifacts.read(build.index.blocks))


def _require_free(layout: Layout, target: Path) -> None:
    if target.resolve().is_relative_to(layout.root.resolve()):
        raise _taken(target, "one inside of the cache")
    if os.path.lexists(target):
        raise _taken(target, "that it exists")
    if not target.parent.is_dir():
        raise _taken(target, "that there is no folder for it")


def _taken(target: Path, found: str) -> RequestRefusedError:
    return RequestRefusedError(
        f"expected a new file for the bundle, outside of the cache, found {found}: {target}",
        kind=ErrorKind.FILE_SYSTEM,
        hint="choose another -o FILE",
    )


@contextmanager
def _writing(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Write a file that has its name only when it is complete, where the file system can do that.

    Where it cannot, as on many sticks and cards, the file is written under its name and removed after an error. A kill then
    leaves one that was cut short, which every reader refuses.
    """
    try:
        fd, named = _open(target)
        new = Draft(fd)
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
        raise _taken(target, "that it exists") from error
    except OSError as error:
        raise from_os_error(error, f"bundle {target}") from error


def _open(target: Path) -> tuple[int, bool]:
    """Open a file without a name, or, where there is no such thing, the target itself; and say which."""
    try:
        return os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in _NO_DRAFTS:
            raise
    return os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644), True
