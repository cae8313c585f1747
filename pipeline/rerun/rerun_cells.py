"""Embed again: a refused tile, or the window in which workers died, bisected until one unit is left.

A unit is a tile, or a chunk of ground with the tiles under it.

Each try is a worker process of its own, the same as in a build, so that a crash ends nothing else.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, TypeGuard

import numpy as np

from pipeline.embed import batcher
from pipeline.embed.cells import CellKey, Window, cells_of
from pipeline.embed.worker_messages import (
    BadImage,
    EngineSpec,
    WindowResult,
    window_result,
    worker_request,
    worker_setup,
)
from pipeline.errors import EmbedError, ErrorKind
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Failed, Finished, Outcome
from pipeline.processes.pool import WorkerPool, WorkerStartError
from pipeline.rerun.bisection import bisect
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import InputStatus, StepFailure, Trial, UnitIdentity
from pipeline.stages.embed import embed_windows, engine_spec
from pipeline.tiles.chunks import ShownTiles, tile_ids_under
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile import Place, SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import descriptor_id
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass
from store.domain.events import BuildFailed, CellEmbedded, StepStarted
from store.errors import ArtifactError
from store.formats import tile_pack
from store.manifest.levels import parse_levels

_DECODE_ONLY: Final = "pipeline.rerun.decode_child"
_MAX_CELLS: Final = 256
_WINDOW_TIMEOUT_S: Final = 600.0
_NEED_NO_ENGINE: Final = frozenset({ErrorKind.BAD_TILE, ErrorKind.SOURCE_CHANGED})


def rerun_cells(inputs: RerunInputs) -> StepFailure | None:
    """Give a worker again what it failed on; return how that fails now, or None.

    Raises:
        UnavailableError: Tiles or engine are not available.
    """
    failure = inputs.failure
    if failure is None:
        return _bisect_window(inputs, _unfinished_window(inputs), str(ErrorKind.WORKER_DIED))
    if inputs.failure_input("window"):
        window = _recorded_window(inputs)
        if failure.kind == ErrorKind.BAD_VECTORS:
            return _embed_window(inputs, window, failure)
        return _bisect_window(inputs, window, failure.kind)
    if inputs.failure_input("tile"):
        return _rerun_tile(inputs, failure)
    raise UnavailableError(
        f"expected the tile or window that {failure.kind} concerns to be recorded, found none"
    )


class _WorkerEndedError(Exception):
    """A worker did not answer; `outcome` says how it ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(batcher.describe_outcome(outcome))
        self.outcome = outcome


@valueclass(frozen=True, slots=True)
class _Embedder:
    """Embeds with the engine of the build; every window goes once to a worker of its own."""

    engine: EngineSpec
    preprocessing: Preprocessing

    @classmethod
    def from_inputs(cls, inputs: RerunInputs) -> "_Embedder":
        """Load the recorded engine; raise `UnavailableError` if it does not lie with the records."""
        event = inputs.engine(inputs.failure_input("engine").get("sha256"))
        data = inputs.artifact("engine", event.model, event.artifact)
        engine = engine_spec(inputs.write("engine", data), event)
        name = str(inputs.failure_input("engine").get("model", event.model))
        return cls(engine, inputs.recorded_inputs.preprocessing(name=name))

    def bad_images(self, units: RetrievalUnits, shown: ShownTiles) -> tuple[BadImage, ...]:
        """Embed some units as one window; return the tiles and units that cannot be used.

        Raises:
            _WorkerEndedError: The worker did not answer.
            EmbedError: Its answer is invalid.
            UnavailableError: The engine does not start here.
        """
        window = _window(units, shown)
        answers = embed_windows([window], batcher=self, engine=self.engine, preprocessing=self.preprocessing)
        with closing(answers):
            return tuple(bad for answer in answers for bad in answer.bad)

    def embed(
        self, windows: Iterable[Window], *, engine: EngineSpec, preprocessing: Preprocessing, **_: object
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        setup = worker_setup(engine, preprocessing)
        for window in windows:
            value = _run_worker(batcher.WORKER, setup, window)
            yield window_result(window, value, engine.dimensions)


def _window(units: RetrievalUnits, shown: ShownTiles) -> Window:
    cells = dict.fromkeys(CellKey(*cell) for cell in cells_of(units.ids).tolist())
    return Window(
        number=0, cells=tuple(cells), units=units, tiles=shown.under(units.ids), tile_edges=shown.edges
    )


def _run_worker(module: str, setup: Payload, window: Window) -> Message:
    """Give a window to a process of its own, and return its answer."""
    with WorkerPool(module, 1, setup, timeout_s=_WINDOW_TIMEOUT_S) as pool:
        pool.submit(0, worker_request(window, [list(tile.locator) for tile in window.tiles]))
        try:
            outcome = next(outcome for _, outcome in pool.results())
        except WorkerStartError as error:
            outcome = error.outcome
            if isinstance(outcome, Failed):
                raise UnavailableError(f"the engine does not start here: {outcome.message}") from error
    if not isinstance(outcome, Finished):
        raise _WorkerEndedError(outcome)
    return outcome.value


def _rerun_tile(inputs: RerunInputs, failure: BuildFailed) -> StepFailure | None:
    recorded = inputs.failure_input("tile")
    name, sha256 = str(recorded["place"]), str(recorded["sha256"])
    kept = inputs.attached("tile")
    if kept is not None:
        found = hashlib.sha256(kept).hexdigest()
        inputs.note("tile", name, sha256, InputStatus.KEPT, "" if found == sha256 else found)
    # The source is read even if it is not needed, since the findings say whether it changed.
    at_source = inputs.tile(name, sha256, recorded.get("locator"), role="tile" if kept is None else "source")
    data = at_source if kept is None else kept
    if data is None:
        raise UnavailableError(f"tile {name}: its bytes were not kept, and are not where they were")
    changed = kept is None and not _is_intact(data, sha256)
    if changed and failure.kind != ErrorKind.SOURCE_CHANGED:
        raise UnavailableError(f"tile {name}: its bytes were not kept, and others are where it was")
    tile = _as_file(inputs, _place(name), sha256, data)
    return _embed_tile(inputs, tile, failure.kind)


def _embed_tile(inputs: RerunInputs, tile: SourceTile, kind: str) -> StepFailure | None:
    """Embed a tile again; return how that fails, or None."""
    name = str(tile.place)
    try:
        for found, message in _refusals(inputs, tile, kind):
            return StepFailure(kind=found, subject=name, message=message)
    except _WorkerEndedError as error:
        return StepFailure(kind=_kind_of(error.outcome), subject=name, message=str(error))
    except EmbedError as error:
        return StepFailure(kind=str(error.kind), subject=error.subject or name, message=error.message)
    return None


def _refusals(inputs: RerunInputs, tile: SourceTile, kind: str) -> list[tuple[str, str]]:
    """Return kind and message of why a tile gets no descriptor; without an engine it is only decoded."""
    shown = ShownTiles(TileColumns.of([tile]), {})
    try:
        embedder = _Embedder.from_inputs(inputs)
        return [
            (bad.kind, bad.message) for bad in embedder.bad_images(RetrievalUnits.of_tiles([tile]), shown)
        ]
    except UnavailableError as error:
        if kind not in _NEED_NO_ENGINE:
            raise
        inputs.findings.notes.append(f"the tile was decoded and not embedded: {error.reason}")
    answer = _run_worker(_DECODE_ONLY, None, _window(RetrievalUnits.of_tiles([tile]), shown))
    return [(str(found), str(message)) for _, found, message in answer["bad_tiles"]]


def _kind_of(outcome: Outcome) -> str:
    return str(ErrorKind.EMBED_FAILED if isinstance(outcome, Failed) else ErrorKind.WORKER_DIED)


@valueclass(frozen=True, slots=True, kw_only=True)
class _WindowAgain:
    """Units to embed again, and the tiles that they show, as files."""

    units: RetrievalUnits
    shown: ShownTiles


def _embed_window(inputs: RerunInputs, window: _WindowAgain, failure: BuildFailed) -> StepFailure | None:
    """Embed a window once; return what is wrong with the descriptors of its units, or None."""
    try:
        for bad in _Embedder.from_inputs(inputs).bad_images(window.units, window.shown):
            return StepFailure(kind=bad.kind, subject=bad.name, message=bad.message)
    except _WorkerEndedError as error:
        return StepFailure(kind=_kind_of(error.outcome), subject=failure.subject, message=str(error))
    except EmbedError as error:
        subject = error.subject or failure.subject
        return StepFailure(kind=str(error.kind), subject=subject, message=error.message)
    return None


def _bisect_window(inputs: RerunInputs, window: _WindowAgain, kind: str) -> StepFailure | None:
    """Try parts of a window until one unit is left; `kind` is how the window failed."""
    findings, embedder = inputs.findings, _Embedder.from_inputs(inputs)
    last: _WorkerEndedError | None = None
    identities = [
        UnitIdentity(identifier=identifier, sha256=digest)
        for identifier, digest in zip(window.units.ids.tolist(), window.units.hex_digests, strict=True)
    ]

    def ends_worker(part: Sequence[int]) -> bool:
        nonlocal last
        ended = None
        try:
            embedder.bad_images(window.units.take(np.array(part, np.intp)), window.shown)
        except _WorkerEndedError as error:
            ended = last = error
        except EmbedError:
            pass  # the worker did answer
        message = "" if ended is None else str(ended)
        first, final = identities[part[0]].name, identities[part[-1]].name
        findings.tries.append(Trial(tiles=len(part), first=first, last=final, ended=message))
        return ended is not None

    found = bisect(list(range(len(identities))), ends_worker)
    if last is None:
        return None
    ended_by, message = _kind_of(last.outcome), str(last)
    if found.culprit is not None:
        findings.culprit = identities[found.culprit]
        return StepFailure(kind=ended_by, subject=findings.culprit.name, message=message)
    findings.suspects = tuple(identities[row] for row in found.smallest)
    count, what = len(found.smallest), "chunk" if window.shown.edges else "tile"
    findings.notes.append(
        f"no {what} does it alone: at least these {count} together, or it happens now and then ({kind})"
    )
    return StepFailure(kind=ended_by, subject=f"{count} {what}s", message=message)


def _is_intact(data: bytes | None, sha256: str) -> TypeGuard[bytes]:
    return data is not None and hashlib.sha256(data).hexdigest() == sha256


def _recorded_window(inputs: RerunInputs) -> _WindowAgain:
    """Return the recorded window with the tiles stored with it or from their source; raise if there are none."""
    window = inputs.failure_input("window")
    entries, locators = window.get("tiles", ()), window.get("locators", ())
    stored = _stored_tiles(inputs)
    found: list[SourceTile] = []
    for number, (name, sha256, *_) in enumerate(entries):
        place = _place(str(name))
        data = stored.get(descriptor_id(*place))
        if not _is_intact(data, str(sha256)):
            data = inputs.tile(str(name), str(sha256), locators[number] if number < len(locators) else None)
        if _is_intact(data, str(sha256)):
            found.append(_as_file(inputs, place, str(sha256), data))
    if not found:
        raise UnavailableError(f"none of the {len(entries)} tiles of the window was kept or is where it was")
    name = f"window {window.get('number')}: {len(found)} of {len(entries)} tiles"
    inputs.note("cells", name, None, InputStatus.KEPT if stored else InputStatus.SAME)
    if len(found) < len(entries):
        inputs.findings.notes.append(
            f"{len(entries) - len(found)} tiles of the window cannot be had as they were"
        )
    return _window_again(inputs, found, window.get("chunks"))


def _window_again(
    inputs: RerunInputs, tiles: Sequence[SourceTile], chunks: Sequence[int] | None
) -> _WindowAgain:
    """Return the window of some tiles, or of the chunks of which all tiles are there; raise if there are none."""
    columns = TileColumns.joined([tiles])
    if chunks is None:
        return _WindowAgain(units=RetrievalUnits.of_tiles(tiles), shown=ShownTiles(columns, {}))
    edges = {each.level.zoom: each.tile_edge for each in parse_levels(inputs.build.inputs)}
    there = set(columns.ids.tolist())
    ids = [each for each in chunks if there.issuperset(tile_ids_under(np.array([each])).tolist())]
    if not ids:
        raise UnavailableError("of no chunk of the window all tiles can be had")
    units = RetrievalUnits(ids=np.array(ids, np.int64), digests=np.zeros((len(ids), 32), np.uint8))
    return _WindowAgain(units=units, shown=ShownTiles(columns, edges))


def _stored_tiles(inputs: RerunInputs) -> Mapping[int, bytes]:
    data = inputs.attached("window")
    try:
        return {} if data is None else dict(tile_pack.decode(data))
    except ArtifactError:
        return {}


def _unfinished_window(inputs: RerunInputs) -> _WindowAgain:
    """Return what workers had when the process died; raise if that was nothing."""
    cells = set(list(_unfinished_cells(inputs))[:_MAX_CELLS])
    if not cells:
        raise UnavailableError("no window was under way when the process died")
    selection = inputs.recorded_inputs.tiles()
    units = selection.units
    own = np.array([tuple(cell) in cells for cell in cells_of(units.ids).tolist()], np.bool_)
    units = units.take(own)
    found: list[SourceTile] = []
    for tile in selection.shown_tiles().under(units.ids):
        data = inputs.tile(str(tile.place), tile.sha256, tile.locator)
        if _is_intact(data, tile.sha256):
            found.append(_as_file(inputs, tile.place, tile.sha256, data))
    if not found:
        raise UnavailableError("the tiles of the windows that were under way cannot be had")
    return _window_again(inputs, found, units.ids.tolist() if selection.levels else None)


def _unfinished_cells(inputs: RerunInputs) -> Iterator[CellKey]:
    """Return the cells that were given to workers and not finished."""
    open_cells: dict[str, None] = {}
    for entry in inputs.record.own_history:
        match entry.event:
            case StepStarted(kind="cells", subjects=subjects):
                open_cells.update(dict.fromkeys(subjects))
            case CellEmbedded(zoom=zoom, cell_x=x, cell_y=y):
                open_cells.pop(f"{zoom}/{x}/{y}", None)
            case _:
                continue
    return (CellKey(*_place(name)) for name in open_cells)


def _as_file(inputs: RerunInputs, place: Place, sha256: str, data: bytes) -> SourceTile:
    """Write a tile to a temporary file, so that its bytes stay the same while it is tried."""
    path = inputs.write("tile-{}-{}-{}".format(*place), data)
    return SourceTile(
        z=place.z,
        x=place.x,
        y=place.y,
        sha256=sha256,
        size=len(data),
        captured=None,
        locator=("file", str(path)),
    )


def _place(name: str) -> Place:
    """Parse z/x/y; raise `ValueError` if there is no such tile."""
    parts: list[Any] = [int(part) for part in name.split("/")]
    if len(parts) != len(Place._fields):
        raise ValueError(f"expected z/x/y, found {name!r}")
    place = Place(*parts)
    descriptor_id(*place)
    return place
