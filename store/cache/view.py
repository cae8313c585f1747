"""The read side of a cache on the ground: it never writes, and a damaged journal cannot kill the reading process.

The journal is read through `journal.safe_reader`, which survives a damaged file and a concurrent build. A view is the
state at one moment, compared with the files beside the journal.
"""

from collections.abc import Iterable, Mapping

from journal import JournalDamagedError, safe_reader
from journal.record import Entry, Head
from journal.safe_reader import Snapshot
from store.base.canonical_json import sha256
from store.base.valueclass import valueclass
from store.cache.event_mapper import fold_entries, to_recorded_events, without_collector
from store.disk.layout import Layout
from store.disk.repair_commands import rebuilding
from store.disk.scratch import holds_leftovers
from store.domain.fold import fold_into
from store.domain.state import RecordedEvent, State
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError, TranslateOSErrors
from store.files.regular_file import read_regular
from store.manifest.file_names import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_signature_name
from store.policy.recovery import CacheFiles
from store.policy.recovery import check as check_history


@valueclass(frozen=True, slots=True, kw_only=True)
class View:
    """The state that the journal folds to at one moment, and the files beside it."""

    layout: Layout
    head: Head
    state: State
    observed: CacheFiles


@valueclass(frozen=True, slots=True, kw_only=True)
class HistoryView(View):
    """A view with all records from the first: as stored, and as the events that they record."""

    entries: tuple[Entry, ...]
    facts: tuple[RecordedEvent, ...]

    @property
    def chains(self) -> tuple[str, ...]:
        """Chain digest of every record, hexadecimal, from the first."""
        return tuple(fact.chain for fact in self.facts)


def list_cache_files(layout: Layout) -> CacheFiles:
    """List the files beside the journal: manifests, signatures, segments.

    Raises:
        CacheUnusableError: A folder cannot be read.
    """
    with TranslateOSErrors(f"cache {layout.root}"):
        manifests, highest = layout.manifest_files(), None
        if manifests:
            raw = read_regular(layout.manifests / manifests[max(manifests)], limit=MAX_MANIFEST_BYTES)
            highest = None if raw is None else sha256(raw)
        names = {entry.name for entry in layout.manifests.iterdir()} if layout.manifests.is_dir() else set()
        signed, loose = _signatures(names, manifests)
        scratch = holds_leftovers(layout)
        segments = layout.segment_files()
    return CacheFiles(
        manifests=manifests,
        segments=segments,
        signatures=signed,
        loose=loose,
        highest_sha256=highest,
        scratch=scratch,
    )


def _signatures(
    names: Iterable[str], manifests: Mapping[int, str]
) -> tuple[frozenset[tuple[int, int]], tuple[tuple[int, str], ...]]:
    """Return generation and place of the signature files of manifests, and generation and name of all others."""
    signed, loose = set[tuple[int, int]](), list[tuple[int, str]]()
    for name in sorted(names):
        found = parse_signature_name(name)
        match = found and MANIFEST_NAME.fullmatch(found[0])
        if not found or not match:
            continue
        number = int(match[1])
        if manifests.get(number) == found[0]:
            signed.add((number, found[1]))
        else:
            loose.append((number, name))
    return frozenset(signed), tuple(loose)


def require_cache(layout: Layout) -> None:
    """Refuse a folder that has no journal to read.

    Raises:
        RequestRefusedError: There is no cache, or this is a mirror of one.
        DamagedHistoryError: There are generations without a journal: it was lost.
    """
    if layout.journal.exists():
        return
    if layout.is_mirror():
        raise RequestRefusedError(
            f"expected {layout.journal.name} in {layout.root}, found a mirror, whose journal is in the cache that it was"
            " made of",
            kind=ErrorKind.MIRROR,
            hint="run this on that cache; a mirror answers c10 verify, status, manifest, query, log, show, replay, report,"
            " diff, why and doctor",
        )
    if layout.lost_journal():
        if layout.may_be_mirror():
            raise DamagedHistoryError(
                f"expected {layout.journal.name} in {layout.root}, found generations alone, as in a mirror",
                kind=ErrorKind.JOURNAL_REPLACED,
                hint=f"{rebuilding(layout)}, if its journal was lost; if it is a mirror of an earlier version,"
                " run c10 mirror again, which marks it",
            )
        raise DamagedHistoryError(
            f"expected {layout.journal.name} beside the generations in {layout.root}, found none",
            kind=ErrorKind.JOURNAL_REPLACED,
            hint=rebuilding(layout),
        )
    raise RequestRefusedError(
        f"expected a cache in {layout.root}, found none",
        kind=ErrorKind.NO_CACHE,
        hint="c10 build REQUEST --cache DIR",
    )


def open_view(layout: Layout, *, strict: bool = True) -> View:
    """Read the journal, check its whole chain and fold it, without keeping records; see `read_history` for the rest."""
    require_cache(layout)
    # The files are listed first, so that a generation which is committed meanwhile is not missed among them.
    observed = list_cache_files(layout)
    state = State()
    with without_collector():
        snapshot = _snapshot(layout)
        fold_entries(state, snapshot.entries)
    if strict:
        _require_consistent(layout, state, observed)
    return View(layout=layout, head=snapshot.head, state=state, observed=observed)


def read_history(layout: Layout, *, strict: bool = True) -> HistoryView:
    """Read the journal from its first record, check its whole chain, and fold it.

    Args:
        layout: Where the cache is.
        strict: Whether to compare the journal with the files beside it; forensics may leave that out.

    Raises:
        RequestRefusedError: There is no cache.
        DamagedHistoryError: The journal does not fit the files beside it, or itself.
        journal.JournalError: The journal cannot be read.
    """
    require_cache(layout)
    observed = list_cache_files(layout)
    state = State()
    with without_collector():
        snapshot = _snapshot(layout)
        facts = tuple(to_recorded_events(snapshot.entries))
        fold_into(state, facts)
    if strict:
        _require_consistent(layout, state, observed)
    return HistoryView(
        layout=layout,
        head=snapshot.head,
        state=state,
        observed=observed,
        entries=snapshot.entries,
        facts=facts,
    )


def died_build(view: View) -> int | None:
    """Return the build whose process ended without recording an end; None if there is none, or it may still run."""
    from journal.lock import lock_holder  # noqa: PLC0415 - slow, and rarely needed

    number = view.state.open_build
    if number is None or lock_holder(view.layout.build_lock) is not None:
        return None
    # It may have ended after the journal was read.
    return number if open_view(view.layout, strict=False).state.open_build == number else None


def _snapshot(layout: Layout) -> Snapshot:
    try:
        return safe_reader.snapshot(layout.journal)
    except JournalDamagedError as error:
        error.hint = rebuilding(layout)
        raise


def _require_consistent(layout: Layout, state: State, observed: CacheFiles) -> None:
    """Compare the journal with the files beside it, and say which side is wrong if they disagree."""
    try:
        check_history(state, observed)
    except DamagedHistoryError as error:
        from store.cache import journal_consistency  # noqa: PLC0415 - only a cache that does not fit needs it

        chains = [entry.chain.hex() for entry in _snapshot(layout).entries]
        raise journal_consistency.explain_disagreement(layout, state, chains, error) from error
