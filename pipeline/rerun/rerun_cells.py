"""Tiles embedded again: one that was refused, or the window in which workers died, halved until one tile is left.

Every run is a worker process of its own, the same that builds use, so that what ends it ends nothing else.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.embed import batcher
from pipeline.embed.cells import CellKey
from pipeline.errors import ErrorKind
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.processes.framing import Payload
from pipeline.processes.outcome import Failed, Finished, Outcome
from pipeline.processes.pool import WorkerPool, WorkerStartError
from pipeline.rerun.bisection import search
from pipeline.rerun.inputs import Supplies
from pipeline.rerun.report import Ended, Piece, Standing, Try
from pipeline.stages.embed import NORM_TOLERANCE
from pipeline.tiles.tile import Place, Tile
from store.base.identity import CELL_SHIFT, descriptor_id
from store.domain.events import BuildFailed, CellEmbedded, StepStarted
from store.errors import ArtifactError
from store.formats import tile_pack

_DECODE_ONLY: Final = "pipeline.rerun.decode_child"
_MAX_CELLS: Final = 256
_NEED_NO_ENGINE: Final = frozenset({ErrorKind.BAD_TILE, ErrorKind.SOURCE_CHANGED})


def embed_again(supplies: Supplies) -> Ended | None:
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


@dataclass(frozen=True, slots=True)
class _Worker:
    """What embeds: the module, its first message, and how it is judged."""

    module: str
    setup: Payload
    timeout_s: float

    def work(self, tiles: Sequence[Tile]) -> Outcome:
        """Give some tiles to a process of its own; returns how that ends."""
        with WorkerPool(self.module, 1, self.setup, timeout_s=self.timeout_s) as pool:
            pool.submit(0, batcher.worker_request(tiles))
            try:
                return next(outcome for _, outcome in pool.results())
            except WorkerStartError as error:
                if isinstance(error.outcome, Failed):
                    raise UnavailableError(
                        f"the engine does not start here: {error.outcome.message}"
                    ) from error
                return error.outcome


def _embedder(supplies: Supplies) -> _Worker:
    """The worker that builds use.

    Raises:
        UnavailableError: There is no engine.
    """
    event = supplies.engine(supplies.recorded("engine").get("sha256"))
    data = supplies.artifact("engine", event.model, event.artifact)
    spec = batcher.EngineSpec(
        path=str(supplies.write("engine", data)),
        sha256=event.artifact.sha256,
        backend=event.components["backend"],
        version=event.components["version"],
        input=event.signature["input"],
        output=event.signature["output"],
        batch=event.components["batch"],
        dimensions=event.signature["dimensions"],
        precision=event.components["precision"],
    )
    setup = batcher.worker_setup(spec, supplies.preprocessing)
    return _Worker(batcher.WORKER, setup, supplies.means.timeout_s)


def _tile(supplies: Supplies, failure: BuildFailed) -> Ended | None:
    recorded = supplies.recorded("tile")
    name, sha256 = str(recorded["place"]), str(recorded["sha256"])
    kept = supplies.attached("tile")
    if kept is not None:
        found = hashlib.sha256(kept).hexdigest()
        supplies.note("tile", name, sha256, Standing.KEPT, "" if found == sha256 else found)
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
    tile = _stored(supplies, Piece(place=_place(name), sha256=sha256), data)
    return _judged(_one(supplies, tile, failure.kind), tile)


def _one(supplies: Supplies, tile: Tile, kind: str) -> Outcome:
    """Embed a tile; where the engine cannot be had and is not needed, decode it."""
    try:
        return _embedder(supplies).work([tile])
    except UnavailableError as error:
        if kind not in _NEED_NO_ENGINE:
            raise
        supplies.findings.notes.append(f"the tile was decoded and not embedded: {error.reason}")
    return _Worker(_DECODE_ONLY, None, supplies.means.timeout_s).work([tile])


def _judged(outcome: Outcome, tile: Tile) -> Ended | None:
    """What a build makes of a worker's answer for one tile."""
    name = str(tile.place)
    if not isinstance(outcome, Finished):
        return Ended(kind=_kind(outcome), subject=name, message=batcher.told(outcome))
    for length in np.linalg.norm(outcome.value.get("vectors", np.empty((0, 1))), axis=1):
        if not abs(length - 1.0) <= NORM_TOLERANCE:
            message = f"expected descriptors of length 1, found {length:.6g} for tile {name}"
            return Ended(kind=str(ErrorKind.BAD_VECTORS), subject=name, message=message)
    for _, kind, message in outcome.value["bad"]:
        return Ended(kind=str(kind), subject=name, message=str(message))
    return None


def _kind(outcome: Outcome) -> str:
    return str(ErrorKind.EMBED_FAILED if isinstance(outcome, Failed) else ErrorKind.WORKER_DIED)


class _Window:
    """A window whose tiles are at hand, and the worker that it is given to in parts."""

    def __init__(self, supplies: Supplies, pieces: Sequence[tuple[Piece, bytes]]) -> None:
        self._findings = supplies.findings
        self._tiles = [_stored(supplies, piece, data) for piece, data in pieces]
        self._worker = _embedder(supplies)
        self._last: Outcome | None = None

    def narrow(self, kind: str) -> Ended | None:
        """Halve it until one tile is left; `kind` is how it failed."""
        found = search(self._tiles, self._ends)
        if self._last is None:
            return None
        ended = _kind(self._last)
        message = batcher.told(self._last)
        if found.culprit is not None:
            tile = found.culprit
            self._findings.culprit = Piece(place=tile.place, sha256=tile.sha256)
            return Ended(kind=ended, subject=str(tile.place), message=message)
        self._findings.suspects = tuple(
            Piece(place=tile.place, sha256=tile.sha256) for tile in found.smallest
        )
        self._findings.notes.append(
            f"no tile does it alone: at least these {len(found.smallest)} together, or it happens now and then ({kind})"
        )
        return Ended(kind=ended, subject=f"{len(found.smallest)} tiles", message=message)

    def _ends(self, tiles: Sequence[Tile]) -> bool:
        outcome = self._worker.work(tiles)
        ends = not isinstance(outcome, Finished)
        if ends:
            self._last = outcome
        first, last = str(tiles[0].place), str(tiles[-1].place)
        told = batcher.told(outcome) if ends else ""
        self._findings.tries.append(Try(tiles=len(tiles), first=first, last=last, ended=told))
        return ends


def _recorded(supplies: Supplies) -> list[tuple[Piece, bytes]]:
    """The tiles of the recorded window: as they were kept, or as they lie where they were.

    Raises:
        UnavailableError: None of them can be had.
    """
    window = supplies.recorded("window")
    entries, locators = window.get("tiles", ()), window.get("locators", ())
    packed = _pack(supplies)
    found: list[tuple[Piece, bytes]] = []
    for number, (name, sha256, *_) in enumerate(entries):
        piece = Piece(place=_place(str(name)), sha256=str(sha256))
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
    supplies.note("cells", name, None, Standing.KEPT if packed else Standing.SAME)
    if len(found) < len(entries):
        supplies.findings.notes.append(
            f"{len(entries) - len(found)} tiles of the window cannot be had as they were"
        )
    return found


def _pack(supplies: Supplies) -> Mapping[int, bytes]:
    data = supplies.attached("window")
    try:
        return {} if data is None else dict(tile_pack.decode(data))
    except ArtifactError:
        return {}


def _cut(supplies: Supplies) -> list[tuple[Piece, bytes]]:
    """The tiles of the windows that were under way when the process died.

    Raises:
        UnavailableError: The source is gone, or holds other tiles.
    """
    cells = set(list(_under_way(supplies))[:_MAX_CELLS])
    if not cells:
        raise UnavailableError("no window was under way when the process died")
    found: list[tuple[Piece, bytes]] = []
    for tile in supplies.recipe.tiles().tiles:
        if CellKey(tile.z, tile.x >> CELL_SHIFT, tile.y >> CELL_SHIFT) in cells:
            data = supplies.tile(str(tile.place), tile.sha256, tile.locator)
            if data is not None and hashlib.sha256(data).hexdigest() == tile.sha256:
                found.append((Piece(place=tile.place, sha256=tile.sha256), data))
    if not found:
        raise UnavailableError("the tiles of the windows that were under way cannot be had")
    return found


def _under_way(supplies: Supplies) -> Iterator[CellKey]:
    """The cells that were given to workers and not done."""
    open_cells: dict[str, None] = {}
    for fact in supplies.evidence.facts:
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


def _stored(supplies: Supplies, piece: Piece, data: bytes) -> Tile:
    """The tile as a file of its own, whose bytes stay what they are while it is tried."""
    path = supplies.write("tile-{}-{}-{}".format(*piece.place), data)
    return Tile(
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
