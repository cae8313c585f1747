"""Tiles embedded again: one that was refused, or the window in which workers died, halved until one tile is left.

Every run is a worker process of its own, the same that builds use, so that what ends it ends nothing else.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from pipeline.embed import batcher
from pipeline.embed.batcher import BadTile, EngineSpec, WindowResult
from pipeline.embed.cells import CellKey, Window
from pipeline.errors import EmbedError, ErrorKind
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Failed, Finished, Outcome
from pipeline.processes.pool import WorkerPool, WorkerStartError
from pipeline.rerun.bisection import bisect
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import InputStatus, StepFailure, TileIdentity, Trial
from pipeline.stages.embed import embed_windows, engine_spec
from pipeline.tiles.tile import Place, SourceTile
from store.base.identity import CELL_SHIFT, descriptor_id
from store.base.preprocessing import Preprocessing
from store.domain.events import BuildFailed, CellEmbedded, StepStarted
from store.errors import ArtifactError
from store.formats import tile_pack

_DECODE_ONLY: Final = "pipeline.rerun.decode_child"
_MAX_CELLS: Final = 256
_WINDOW_TIMEOUT_S: Final = 600.0
_NEED_NO_ENGINE: Final = frozenset({ErrorKind.BAD_TILE, ErrorKind.SOURCE_CHANGED})


def rerun_cells(supplies: RerunInputs) -> StepFailure | None:
    """Give a worker once more what it failed on; returns how that fails now.

    Raises:
        UnavailableError: Tiles or engine cannot be had.
    """
    failure = supplies.failure
    if failure is None:
        return _Window(supplies, _cut(supplies)).narrow(str(ErrorKind.WORKER_DIED))
    if supplies.recorded("window"):
        return _Window(supplies, _recorded(supplies)).narrow(failure.kind)
    if supplies.recorded("tile"):
        return _tile(supplies, failure)
    raise UnavailableError(
        f"expected the tile or window that {failure.kind} concerns to be recorded, found none"
    )


class _WorkerEndedError(Exception):
    """A worker did not answer; `outcome` tells how it ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(batcher.told(outcome))
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Embedder:
    """The embedding step with the engine of the build; every window goes to a worker of its own, once."""

    engine: EngineSpec
    preprocessing: Preprocessing

    @classmethod
    def of(cls, supplies: RerunInputs) -> "_Embedder":
        """Take the engine from beside the records.

        Raises:
            UnavailableError: It is not there.
        """
        event = supplies.engine(supplies.recorded("engine").get("sha256"))
        data = supplies.artifact("engine", event.model, event.artifact)
        engine = engine_spec(supplies.write("engine", data), event)
        return cls(engine, supplies.preprocessing)

    def bad_tiles(self, tiles: Sequence[SourceTile]) -> list[BadTile]:
        """Embed some tiles as one window; returns those that got no descriptor.

        Raises:
            _WorkerEndedError: The worker did not answer.
            EmbedError: What it answered is of no use.
            UnavailableError: The engine does not start here.
        """
        cells = dict.fromkeys(CellKey(tile.z, tile.x >> CELL_SHIFT, tile.y >> CELL_SHIFT) for tile in tiles)
        window = Window(number=0, cells=tuple(cells), tiles=tuple(tiles))
        answers = embed_windows([window], batcher=self, engine=self.engine, preprocessing=self.preprocessing)
        with closing(answers):
            return [bad for answer in answers for bad in answer.bad]

    def embed(
        self, windows: Iterable[Window], *, engine: EngineSpec, preprocessing: Preprocessing, **_: object
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        setup = batcher.worker_setup(engine, preprocessing)
        for window in windows:
            value = _answer(batcher.WORKER, setup, window.tiles)
            yield batcher.window_result(window, value, engine.dimensions)


def _answer(module: str, setup: Payload, tiles: Sequence[SourceTile]) -> Message:
    """Give some tiles to a process of its own, and return its answer."""
    with WorkerPool(module, 1, setup, timeout_s=_WINDOW_TIMEOUT_S) as pool:
        pool.submit(0, batcher.worker_request(tiles))
        try:
            outcome = next(outcome for _, outcome in pool.results())
        except WorkerStartError as error:
            outcome = error.outcome
            if isinstance(outcome, Failed):
                raise UnavailableError(f"the engine does not start here: {outcome.message}") from error
    if not isinstance(outcome, Finished):
        raise _WorkerEndedError(outcome)
    return outcome.value


def _tile(supplies: RerunInputs, failure: BuildFailed) -> StepFailure | None:
    recorded = supplies.recorded("tile")
    name, sha256 = str(recorded["place"]), str(recorded["sha256"])
    kept = supplies.attached("tile")
    if kept is not None:
        found = hashlib.sha256(kept).hexdigest()
        supplies.note("tile", name, sha256, InputStatus.KEPT, "" if found == sha256 else found)
    # Whether the source is another today is worth a word, even where nobody needs it.
    lies = supplies.tile(name, sha256, recorded.get("locator"), role="tile" if kept is None else "source")
    data = lies if kept is None else kept
    if data is None:
        raise UnavailableError(f"tile {name}: its bytes were not kept, and are not where they were")
    if (
        kept is None
        and failure.kind != ErrorKind.SOURCE_CHANGED
        and hashlib.sha256(data).hexdigest() != sha256
    ):
        raise UnavailableError(f"tile {name}: its bytes were not kept, and others are where it was")
    tile = _stored(supplies, TileIdentity(place=_place(name), sha256=sha256), data)
    return _take(supplies, tile, failure.kind)


def _take(supplies: RerunInputs, tile: SourceTile, kind: str) -> StepFailure | None:
    """Embed a tile once more; returns how that fails."""
    name = str(tile.place)
    try:
        for found, message in _refusals(supplies, tile, kind):
            return StepFailure(kind=found, subject=name, message=message)
    except _WorkerEndedError as error:
        return StepFailure(kind=_kind(error.outcome), subject=name, message=str(error))
    except EmbedError as error:
        return StepFailure(kind=str(error.kind), subject=error.subject or name, message=error.message)
    return None


def _refusals(supplies: RerunInputs, tile: SourceTile, kind: str) -> list[tuple[str, str]]:
    """Kind and message of why a tile gets no descriptor; where no engine can be had nor is needed, it is decoded."""
    try:
        return [(bad.kind, bad.message) for bad in _Embedder.of(supplies).bad_tiles([tile])]
    except UnavailableError as error:
        if kind not in _NEED_NO_ENGINE:
            raise
        supplies.findings.notes.append(f"the tile was decoded and not embedded: {error.reason}")
    answer = _answer(_DECODE_ONLY, None, [tile])
    return [(str(found), str(message)) for _, found, message in answer["bad"]]


def _kind(outcome: Outcome) -> str:
    return str(ErrorKind.EMBED_FAILED if isinstance(outcome, Failed) else ErrorKind.WORKER_DIED)


class _Window:
    """A window whose tiles are at hand, and the worker that it is given to in parts."""

    def __init__(self, supplies: RerunInputs, pieces: Sequence[tuple[TileIdentity, bytes]]) -> None:
        self._findings = supplies.findings
        self._tiles = [_stored(supplies, piece, data) for piece, data in pieces]
        self._embedder = _Embedder.of(supplies)
        self._last: _WorkerEndedError | None = None

    def narrow(self, kind: str) -> StepFailure | None:
        """Halve it until one tile is left; `kind` is how it failed."""
        found = bisect(self._tiles, self._ends)
        if self._last is None:
            return None
        ended, message = _kind(self._last.outcome), str(self._last)
        if found.culprit is not None:
            tile = found.culprit
            self._findings.culprit = TileIdentity(place=tile.place, sha256=tile.sha256)
            return StepFailure(kind=ended, subject=str(tile.place), message=message)
        self._findings.suspects = tuple(
            TileIdentity(place=tile.place, sha256=tile.sha256) for tile in found.smallest
        )
        self._findings.notes.append(
            f"no tile does it alone: at least these {len(found.smallest)} together, or it happens now and then ({kind})"
        )
        return StepFailure(kind=ended, subject=f"{len(found.smallest)} tiles", message=message)

    def _ends(self, tiles: Sequence[SourceTile]) -> bool:
        first, last = str(tiles[0].place), str(tiles[-1].place)
        ended = self._embed(tiles)
        self._last = ended or self._last
        told = "" if ended is None else str(ended)
        self._findings.tries.append(Trial(tiles=len(tiles), first=first, last=last, ended=told))
        return ended is not None

    def _embed(self, tiles: Sequence[SourceTile]) -> _WorkerEndedError | None:
        try:
            self._embedder.bad_tiles(tiles)
        except _WorkerEndedError as error:
            return error
        except EmbedError:
            pass  # the worker lived to answer, of whatever use that is
        return None


def _recorded(supplies: RerunInputs) -> list[tuple[TileIdentity, bytes]]:
    """The tiles of the recorded window: as they were kept, or as they lie where they were.

    Raises:
        UnavailableError: None of them can be had.
    """
    window = supplies.recorded("window")
    entries, locators = window.get("tiles", ()), window.get("locators", ())
    packed = _pack(supplies)
    found: list[tuple[TileIdentity, bytes]] = []
    for number, (name, sha256, *_) in enumerate(entries):
        piece = TileIdentity(place=_place(str(name)), sha256=str(sha256))
        data = packed.get(descriptor_id(*piece.place))
        if data is None or hashlib.sha256(data).hexdigest() != piece.sha256:
            data = supplies.tile(
                str(name), piece.sha256, locators[number] if number < len(locators) else None
            )
        if data is not None and hashlib.sha256(data).hexdigest() == piece.sha256:
            found.append((piece, data))
    if not found:
        raise UnavailableError(f"none of the {len(entries)} tiles of the window was kept or is where it was")
    name = f"window {window.get('number')}: {len(found)} of {len(entries)} tiles"
    supplies.note("cells", name, None, InputStatus.KEPT if packed else InputStatus.SAME)
    if len(found) < len(entries):
        supplies.findings.notes.append(
            f"{len(entries) - len(found)} tiles of the window cannot be had as they were"
        )
    return found


def _pack(supplies: RerunInputs) -> Mapping[int, bytes]:
    data = supplies.attached("window")
    try:
        return {} if data is None else dict(tile_pack.decode(data))
    except ArtifactError:
        return {}


def _cut(supplies: RerunInputs) -> list[tuple[TileIdentity, bytes]]:
    """The tiles of the windows that were under way when the process died.

    Raises:
        UnavailableError: The source is gone, or holds other tiles.
    """
    cells = set(list(_under_way(supplies))[:_MAX_CELLS])
    if not cells:
        raise UnavailableError("no window was under way when the process died")
    found: list[tuple[TileIdentity, bytes]] = []
    for tile in supplies.recipe.tiles().tiles:
        if CellKey(tile.z, tile.x >> CELL_SHIFT, tile.y >> CELL_SHIFT) in cells:
            data = supplies.tile(str(tile.place), tile.sha256, tile.locator)
            if data is not None and hashlib.sha256(data).hexdigest() == tile.sha256:
                found.append((TileIdentity(place=tile.place, sha256=tile.sha256), data))
    if not found:
        raise UnavailableError("the tiles of the windows that were under way cannot be had")
    return found


def _under_way(supplies: RerunInputs) -> Iterator[CellKey]:
    """The cells that were given to workers and not done."""
    open_cells: dict[str, None] = {}
    for fact in supplies.record.facts:
        if fact.build != supplies.build.number:
            continue
        match fact.event:
            case StepStarted(kind="cells", subjects=subjects):
                open_cells.update(dict.fromkeys(subjects))
            case CellEmbedded(zoom=zoom, cell_x=x, cell_y=y):
                open_cells.pop(f"{zoom}/{x}/{y}", None)
            case _:
                continue
    return (CellKey(*_place(name)) for name in open_cells)


def _stored(supplies: RerunInputs, piece: TileIdentity, data: bytes) -> SourceTile:
    """The tile as a file of its own, whose bytes stay what they are while it is tried."""
    path = supplies.write("tile-{}-{}-{}".format(*piece.place), data)
    return SourceTile(
        z=piece.place.z,
        x=piece.place.x,
        y=piece.place.y,
        sha256=piece.sha256,
        size=len(data),
        captured=None,
        locator=("file", str(path)),
    )


def _place(name: str) -> Place:
    """Take z/x/y apart.

    Raises:
        ValueError: It is not that, or there is no such tile.
    """
    parts: list[Any] = [int(part) for part in name.split("/")]
    if len(parts) != len(Place._fields):
        raise ValueError(f"expected z/x/y, found {name!r}")
    place = Place(*parts)
    descriptor_id(*place)
    return place
