"""Write the projections of committed generations: segment, signatures, and last the manifest.

Each file is written once, from the journal alone. The manifest is last, because its presence makes the generation
visible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from journal.errors import JournalDamagedError
from journal.record import EMPTY, Entry, Head
from store.base import canonical_json
from store.cache import segment
from store.cache.event_mapper import to_recorded_events
from store.cache.event_store import EventStore
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_manifest
from store.disk.layout import Layout
from store.disk.repair_commands import repairing
from store.disk.write_once import write_once
from store.domain.manifest_projection import head_projections, project
from store.domain.state import Generation, State
from store.errors import ArtifactError, DamagedHistoryError, ErrorKind, NoGoError, from_os_error
from store.manifest import manifest
from store.manifest.file_names import signature_name
from store.policy.vouching import Unvouched, Vouching, find_unvouched
from store.trust.signatures import Signature, TrustedKey, signature_file, signature_problems


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
        self._put(
            self.layout.segments,
            self.layout.segment_name(generation.number),
            _segment(event_store, generation),
        )
        if generation.number in event_store.state.collected_generations:
            return
        for place, signed in enumerate(signatures_of(generation), start=1):
            self._put(self.layout.manifests, signature_name(name, place), signed)
        self._put(self.layout.manifests, name, raw)

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


def vouching_of(state: State, keys: Sequence[TrustedKey]) -> Vouching:
    """Return which records a builder with these keys relies on; without keys, or in a cache without signatures, all."""
    signed = [generation for generation in state.generations.values() if generation.signatures]
    if not keys or not signed:
        return Vouching(builds=frozenset(), unsigned_until=state.position.seq)
    valid = [
        generation
        for generation in signed
        if not signature_problems(
            project(state, generation), signatures_of(generation), generation=generation.number, keys=keys
        )
    ]
    # The first valid signature takes over what was there: its manifest names the records before it by their chain.
    until = min((generation.seq for generation in valid), default=0)
    return Vouching(builds=frozenset(generation.origin for generation in valid), unsigned_until=until)


def find_unvouched_results(
    state: State, entries: Iterable[Entry], keys: Sequence[TrustedKey], *, own: int | None = None
) -> Unvouched:
    """Return the results that a builder with these keys must not reuse; `entries` are read if there can be any.

    `own` is the number of its running build, whose results it may reuse.
    """
    vouching = vouching_of(state, keys)
    if vouching.unsigned_until == state.position.seq:
        return Unvouched()
    if own is not None:
        vouching = replace(vouching, builds=vouching.builds | {own})
    return find_unvouched(state, to_recorded_events(entries), vouching)


def require_vouched(state: State, target: int, keys: Sequence[TrustedKey]) -> None:
    """Refuse to sign by a rollback what somebody without a key may have appended.

    Raises:
        NoGoError: None of the keys signed the build `target`.
    """
    if not vouching_of(state, keys).covers(state.builds[target].ended_seq or 0, target):
        signers = " or ".join(key.key_id for key in keys)
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
    if head is None:
        return
    expected = head_projections(head.number, project(event_store.state, head))
    if any(_stored(event_store, name) != value for name, value in expected.items()):
        event_store.append_on(event_store.head, [], expected)


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
