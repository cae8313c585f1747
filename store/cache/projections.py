"""Write the projections of committed generations: segment, signatures, and last the manifest.

Each file is written once, from the journal alone. The manifest is last, because its presence makes the generation
visible.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from journal.errors import HeadMovedError, JournalDamagedError
from journal.record import EMPTY, Entry, Head, decode_fields
from store.base import canonical_json
from store.cache import segment
from store.cache.event_mapper import to_recorded_event, without_collector
from store.cache.event_store import EventStore
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_manifest
from store.disk.layout import Layout
from store.disk.repair_commands import repairing
from store.disk.write_once import write_once
from store.domain.event_codec import TABLE
from store.domain.manifest_projection import head_projections, project
from store.domain.state import Generation, RecordedEvent, State
from store.errors import (
    ArtifactError,
    DamagedHistoryError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    from_os_error,
)
from store.manifest import manifest
from store.manifest.file_names import signature_name
from store.policy.vouching import (
    DECISIVE,
    Ranges,
    Unvouched,
    Vouching,
    find_unvouched,
    merged,
    own_records_of,
)
from store.trust.signatures import Signature, Signer, TrustedKey, signature_file, signature_problems

_TAGS_OF_RESULTS = frozenset(tag for tag, (_, cls) in TABLE.items() if cls in DECISIVE)


@dataclass(slots=True)
class Projections:
    """Writes projections; `written` counts new files."""

    layout: Layout
    written: int = 0

    def write(self, event_store: EventStore, generation: Generation) -> None:
        """Write the missing files of a generation; of a collected one, the segment alone.

        Raises:
            DamagedHistoryError: A name is taken by other bytes: the journal lost its tail or was replaced.
            StoreError: A file cannot be written.
        """
        raw = project(event_store.state, generation)
        if canonical_json.sha256(raw) != generation.manifest_sha256:
            raise DamagedHistoryError(
                f"expected generation {generation.number} to project to {generation.manifest_sha256[:12]}, found"
                f" {canonical_json.sha256(raw)[:12]}",
                kind=ErrorKind.IMPOSSIBLE_HISTORY,
                hint="use the C10 that committed it: c10 show names its version",
            )
        taken = self.layout.manifest_files().get(generation.number)
        name = taken or self.layout.manifest_name(generation.number)
        self.write_segment(event_store, generation)
        if generation.number in event_store.state.collected_generations:
            return
        for place, signed in enumerate(signatures_of(generation), start=1):
            self._put(self.layout.manifests, signature_name(name, place), signed)
        self._put(self.layout.manifests, name, raw)

    def write_segment(self, event_store: EventStore, generation: Generation) -> None:
        """Write the segment of a generation if it is missing; raises as `write` does."""
        name = self.layout.segment_name(generation.number)
        self._put(self.layout.segments, name, _segment(event_store, generation))

    def _put(self, folder: Path, name: str, data: bytes) -> None:
        try:
            self.written += write_once(folder, name, data, scratch=self.layout.scratch)
        except FileExistsError as error:
            raise DamagedHistoryError(
                f"expected {folder.name}/{name} to be free or the same, found something else: the file is a stranger or"
                " damaged, or the journal is another one",
                kind=ErrorKind.JOURNAL_REPLACED,
                hint=f"{repairing(self.layout)} (keeps it as evidence, or says that it is the journal that is wrong)",
            ) from error
        except OSError as error:
            raise from_os_error(error, f"{folder.name}/{name}") from error


def is_whole(state: State, generation: Generation, artifacts: Artifacts) -> bool:
    """Whether everything that a manifest names, blocks and packs included, is there by type and size."""
    shown = manifest.parse(project(state, generation))
    try:
        listed = [ref for table in tables_of_manifest(shown) for _, ref in table.files(artifacts)]
    except ArtifactError:
        return False
    return all(map(artifacts.present, (*(ref for _, ref in shown.artifacts()), *listed)))


def signatures_of(generation: Generation) -> tuple[bytes, ...]:
    """Return the signature files of a generation, in the order of their places; none for an unsigned one."""
    return tuple(
        signature_file(Signature(key_id=key_id, signature=signature))
        for key_id, signature in generation.signatures
    )


def signers_of(generation: Generation) -> tuple[str, ...]:
    """Return the ids of the keys that signed a generation; none for an unsigned one."""
    return tuple(key_id for key_id, _ in generation.signatures)


def vouching_of(state: State, keys: Sequence[TrustedKey], own_records: Ranges = ()) -> Vouching:
    """Return which records a builder with these keys relies on; without keys, or in a cache without signatures, all.

    `own_records` are those that its machine appended itself; see `store.cache.own_records`.
    """
    signed = [generation for generation in state.generations.values() if generation.signatures]
    if not keys or not signed:
        return Vouching(builds=frozenset(), unsigned_until=state.position.seq)
    valid, refused = list[Generation](), tuple[str, ...]()
    for generation in signed:
        raw, files = project(state, generation), signatures_of(generation)
        problems = signature_problems(raw, files, generation=generation.number, keys=keys)
        if problems:
            refused = tuple(f"generation {generation.number}, {problem}" for problem in problems)
        else:
            valid.append(generation)
    # The first valid signature takes over what was there: its manifest names the records before it by their chain.
    until = min((generation.seq for generation in valid), default=0)
    builds = frozenset(generation.origin for generation in valid)
    said = (found for number in builds for found in own_records_of(state.builds[number]))
    return Vouching(builds=builds, unsigned_until=until, own=merged((*own_records, *said)), refused=refused)


def find_unvouched_results(
    state: State,
    entries: Iterable[Entry],
    keys: Sequence[TrustedKey],
    *,
    own: int | None = None,
    own_records: Ranges = (),
) -> Unvouched:
    """Return the results that a builder with these keys must not reuse; `entries` are read if there can be any.

    `own` is the number of its running build, whose results it may reuse; `own_records` are as in `vouching_of`.
    """
    vouching = vouching_of(state, keys, own_records)
    if vouching.unsigned_until == state.position.seq:
        return Unvouched()
    if own is not None:
        vouching = replace(vouching, builds=vouching.builds | {own})
    with without_collector():
        return find_unvouched(state, _events_from_first_unvouched(entries, vouching), vouching)


def _events_from_first_unvouched(entries: Iterable[Entry], vouching: Vouching) -> Iterator[RecordedEvent]:
    """Yield the results and checks of a history from the first one on that is not vouched for: mostly, there is none."""
    found = False
    for entry in entries:
        tag, _, build, *_ = decode_fields(entry.raw, canonical=False)
        if tag in _TAGS_OF_RESULTS and (found := found or not vouching.covers(entry.seq, build)):
            yield to_recorded_event(entry, canonical=False)


def require_may_sign(number: int, signer: Signer, keys: Sequence[TrustedKey]) -> None:
    """Refuse to sign a generation that readers with these keys refuse, since the key was retired before.

    Raises:
        RequestRefusedError: The generation is beyond the limit of the key.
    """
    limits = [key.not_after for key in keys if key.public == signer.public and key.not_after is not None]
    if limits and number > min(limits):
        raise RequestRefusedError(
            f"signing_key: expected a key that may sign generation {number}, found {signer.key_id}, which trusted_keys"
            f" limits to generation {min(limits)} (not_after)",
            kind=ErrorKind.KEY,
            hint="name the new key as signing_key in c10.toml",
        )


def require_vouched(state: State, target: int, keys: Sequence[TrustedKey]) -> None:
    """Refuse to sign by a rollback what somebody without a key may have appended.

    Raises:
        NoGoError: None of the keys signed the build `target`.
    """
    if not vouching_of(state, keys).covers(state.builds[target].ended_seq or 0, target):
        signers = " or ".join(dict.fromkeys(key.key_id for key in keys))
        raise NoGoError(
            [
                f"signature: expected build {target} to be signed by {signers}, found that none of them signed it"
            ],
            kind=ErrorKind.SIGNATURE,
            hint="c10 sign GENERATION (to vouch for it), or c10 rollback --to GENERATION, with a signed one",
        )


def set_head_projections(event_store: EventStore) -> None:
    """Write the projections of the head in the journal again if they are missing, damaged or stale.

    Raises:
        journal.JournalError: They could not be set.
    """
    head = event_store.state.head
    expected = {} if head is None else head_projections(head.number, project(event_store.state, head))
    while any(_stored(event_store, name) != value for name, value in expected.items()):
        try:
            event_store.append_on(event_store.head, [], expected)
        except HeadMovedError:
            # Others accept generations and compile engines meanwhile; only the build lock's holder commits.
            event_store.refresh()


def _stored(event_store: EventStore, name: bytes) -> bytes | None:
    try:
        return event_store.journal.projection(name)
    except JournalDamagedError:
        return None


def _segment(event_store: EventStore, generation: Generation) -> bytes:
    previous = event_store.state.generations.get(generation.number - 1)
    before = EMPTY
    if previous is not None:
        (entry,) = event_store.journal.entries(previous.seq, previous.seq + 1)
        before = Head(entry.seq, entry.chain)
    entries = list(event_store.journal.entries(before.seq + 1, generation.seq + 1))
    return segment.encode(generation.number, before, entries)
