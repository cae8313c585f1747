"""A folded state as bytes, and back, so that what was folded once need not be folded again. Pure.

The bytes are MessagePack of one map, its keys the names of the fields of `store.domain.state.State`; events stand in them as
tag, version and payload, as they do in the journal. Of the cells, which are many, there are columns: their names, and
their events as bytes that nobody takes apart before somebody asks. They are no format of the cache: who cannot read them folds the
journal, which says the same. They may hold more than a record can, so the limits of records do not bind them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from types import NoneType
from typing import Any

import msgpack

from store.base.canonical_json import is_digest
from store.base.values import ArtifactRef, Position
from store.domain import event_codec
from store.domain.events import CellEmbedded, Event
from store.domain.state import Build, BuildStatus, Generation, State
from store.domain.step_cache import CellName, Made, Memo
from store.errors import StoreError
from store.snapshots.cell_codec import pack, unpack

LAW = 3
"""Number of the law by which facts fold to a state, and of this form of it. Raised by hand when either changes."""

_INT, _OPTIONAL = frozenset({int}), frozenset({int, NoneType})
_BLOCKS = {"space": _INT, "zoom": _INT, "cell_x": _INT, "cell_y": _INT, "block": frozenset({bytes})}
_MADE = {"made": frozenset({str}), "made_seq": _INT, "made_build": _OPTIONAL}
"""Columns of the blocks, `space` being a place in `spaces`, and of who made what; with the types they are of."""

_EVENTS = ("tiles", "stand_in", "index", "coverage", "failure")
"""Fields of a build that hold an event or nothing."""


def encode(state: State) -> bytes:
    """Return the bytes of a state that holds no event of a newer version."""
    tree: dict[str, Any] = {
        "position": [state.position.seq, state.position.chain],
        "cache_id": state.cache_id,
        "created_ns": state.created_ns,
        "builds": [_build(build) for build in state.builds.values()],
        "generations": [_generation(generation) for generation in state.generations.values()],
        "memo": _memo(state.memo),
        "undone": state.undone,
        "accepted": sorted(state.accepted),
        "retired": sorted(state.retired),
        "open_build": state.open_build,
        "pending_rollback": _event(state.pending_rollback),
        "denied": [[seq, _event(event)] for seq, event in state.denied.items()],
    }
    packed: bytes = msgpack.packb(tree)
    return packed


def decode(data: bytes) -> State:
    """Return the state whose bytes these are.

    Raises:
        ValueError: They are no state, or one of another release.
    """
    try:
        tree = msgpack.unpackb(data, max_str_len=len(data), max_array_len=len(data), max_map_len=len(data))
        return _read(tree)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, StoreError) as error:
        raise ValueError(f"expected a folded state, found {error!r:.200}") from error


def _read(tree: Mapping[str, Any]) -> State:
    builds = [_read_build(found) for found in tree["builds"]]
    generations = [_read_generation(found) for found in tree["generations"]]
    seq, chain = tree["position"]
    open_build, numbers = tree["open_build"], [each.number for each in generations]
    if not (
        type(seq) is int
        and seq >= 0
        and is_digest(chain)
        and (open_build is None or open_build in {build.number for build in builds})
        and {each.origin for each in generations} <= {build.number for build in builds}
        and numbers == [*range(1, len(numbers) + 1)]
        and isinstance(tree["undone"], dict)
    ):
        raise ValueError("a state that no facts fold to")
    return State(
        position=Position(seq, chain),
        cache_id=tree["cache_id"],
        created_ns=tree["created_ns"],
        builds={build.number: build for build in builds},
        generations={generation.number: generation for generation in generations},
        memo=_read_memo(tree["memo"]),
        undone=tree["undone"],
        accepted=frozenset(tree["accepted"]),
        retired=frozenset(tree["retired"]),
        open_build=open_build,
        pending_rollback=_read_event(tree["pending_rollback"]),
        denied={seq: _read_event(found) for seq, found in tree["denied"]},
    )


def _event(event: Event | None) -> tuple[str, int, dict[str, Any]] | None:
    return None if event is None else event_codec.encode(event)


def _read_event(found: list[Any] | None) -> Any:  # noqa: ANN401 - the tag says which event it is
    return None if found is None else event_codec.decode(*found)


def _build(build: Build) -> dict[str, Any]:
    plain = {field.name: getattr(build, field.name) for field in fields(build)}
    return plain | {
        "calibration": None if build.calibration is None else asdict(build.calibration),
        "status": str(build.status),
        "engines": [[model, _event(event)] for model, event in build.engines],
        "checks": [_event(check) for check in build.checks],
        **{name: _event(plain[name]) for name in _EVENTS},
    }


def _read_build(found: Mapping[str, Any]) -> Build:
    calibration = found["calibration"]
    told = {
        **found,
        "calibration": None if calibration is None else ArtifactRef(**calibration),
        "status": BuildStatus(found["status"]),
        "plan": tuple(found["plan"]),
        "engines": tuple((model, _read_event(event)) for model, event in found["engines"]),
        "checks": tuple(_read_event(check) for check in found["checks"]),
        **{name: _read_event(found[name]) for name in _EVENTS},
    }
    if told.keys() != {field.name for field in fields(Build)}:
        raise ValueError("a build of another release")
    return Build(**told)


def _generation(generation: Generation) -> dict[str, Any]:
    plain = {field.name: getattr(generation, field.name) for field in fields(generation)}
    before = generation.before
    return plain | {
        "before": [before.seq, before.chain],
        "rolled_back": _event(generation.rolled_back),
    }


def _read_generation(found: Mapping[str, Any]) -> Generation:
    told = {
        **found,
        "before": Position(*found["before"]),
        "signatures": tuple((key_id, signature) for key_id, signature in found["signatures"]),
        "rolled_back": _read_event(found["rolled_back"]),
    }
    return Generation(**told)


def _memo(memo: Memo) -> dict[str, Any]:
    return {
        "engines": [[key, _event(event)] for key, event in memo.engines.items()],
        "indexes": [[key, _event(event)] for key, event in memo.indexes.items()],
        "passed": [_event(event) for event in memo.passed.values()],
        "earlier": [[pack(event) for event in events] for events in memo.earlier.values()],
        **_blocks(memo.blocks.stored()),
        **_columns(_MADE, ((digest, *made) for digest, made in memo.made.items())),
    }


def _blocks(stored: Mapping[CellName, CellEmbedded | bytes]) -> dict[str, Any]:
    """Columns, since there is a block for every cell of the area; and events as bytes, which few will ask for."""
    spaces = {space: number for number, space in enumerate(dict.fromkeys(name[0] for name in stored))}
    rows = (
        (spaces[space], *place, found if isinstance(found, bytes) else pack(found))
        for (space, *place), found in stored.items()
    )
    return {"spaces": [*spaces], **_columns(_BLOCKS, rows)}


def _read_memo(found: Mapping[str, Any]) -> Memo:
    passed = [_read_event(event) for event in found["passed"]]
    earlier = [tuple(unpack(payload) for payload in payloads) for payloads in found["earlier"]]
    memo = Memo(
        engines={key: _read_event(event) for key, event in found["engines"]},
        indexes={key: _read_event(event) for key, event in found["indexes"]},
        passed={(check.check, check.key): check for check in passed},
        earlier={_cell(events[0]): events for events in earlier},
    )
    spaces, (space, *place, payloads) = found["spaces"], _read_columns(_BLOCKS, found)
    if not {*range(len(spaces))}.issuperset(space):
        raise ValueError("blocks of a space that is not named")

    def blocks() -> Iterable[tuple[CellName, bytes]]:
        return zip(zip(map(spaces.__getitem__, space), *place, strict=True), payloads, strict=True)

    memo.blocks.add(blocks, make=unpack)
    digests, *made = _read_columns(_MADE, found)
    memo.made.add(lambda: zip(digests, map(Made, *made), strict=True))
    return memo


def _columns(kinds: Mapping[str, frozenset[type]], rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows as a list for each of their fields: such are read at once, and hold nothing else that has to be made."""
    columns = [*zip(*rows, strict=True)] or [()] * len(kinds)
    return dict(zip(kinds, columns, strict=True))


def _read_columns(kinds: Mapping[str, frozenset[type]], found: Mapping[str, Any]) -> list[list[Any]]:
    columns = [found[name] for name in kinds]
    for column, allowed in zip(columns, kinds.values(), strict=True):
        if (
            type(column) is not list
            or len(column) != len(columns[0])
            or not allowed.issuperset(map(type, column))
        ):
            raise ValueError("columns that do not fit together")
    return columns


def _cell(event: CellEmbedded) -> CellName:
    return event.space, event.zoom, event.cell_x, event.cell_y
