"""Read the inputs of a recorded build again, and compare each with the journal.

Some of the inputs may have changed or be gone. So each is read on its own and reports its own difference; the
others can still be used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from functools import cached_property
from hashlib import sha256
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.embed.cells import Cell, CellKey, group_cells
from pipeline.engines.models.model import Model
from pipeline.engines.models.network import inspect_models
from pipeline.engines.port import EngineCompiler
from pipeline.errors import PipelineError
from pipeline.planning.heads import Heads, put_heads
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.ports import Ports
from pipeline.request.area import Area, area_of_inputs
from pipeline.request.area_files.read_area import read_area
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import parse_recorded_request
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.selection import Selection, select_tiles
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import cell_components, cell_key, difference, digest_packed_tiles, space_of_model
from store.base.preprocessing import Preprocessing
from store.base.values import ArtifactRef
from store.domain.events import EngineCompiled
from store.domain.state import STAND_IN, Build, RecordedEvent
from store.manifest.levels import parse_levels
from store.runtime.backends.registry import AUTO

Recorded = TypeVar("Recorded")

NO_PLUGINS: Final = (
    "the request names libraries with operators of their own (engine.plugins), which are not loaded on a record's"
    " word; --trust-plugins loads them"
)
"""Why nothing is compiled: a journal may come from elsewhere, and a library can do anything."""


class UnavailableError(Exception):
    """An input of a step is gone or changed; `reason` says what was expected and found."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def last_event(
    history: Sequence[RecordedEvent], kind: type[Recorded], where: Callable[[Recorded], bool] = lambda _: True
) -> Recorded | None:
    """Return the last event of a class in a history for which `where` holds, or None."""
    events = (entry.event for entry in reversed(history))
    return next((event for event in events if isinstance(event, kind) and where(event)), None)


@dataclass(kw_only=True)
class RecordedInputs:
    """The inputs of one recorded build, read when they are first needed.

    Every method and property raises `UnavailableError` if its input is gone or is not the recorded one.

    Attributes:
        build: The build, from the journal.
        ports: The parts that read the inputs.
        read_artifact: Returns the checked bytes of an artifact of the build; None if it is gone or damaged.
        trust_plugins: Whether libraries that the recorded request names may be loaded.
        heads: The heads that the build had, where its networks are wanted.
    """

    build: Build
    ports: Ports
    trust_plugins: bool = False
    heads: Heads | None = None
    read_artifact: Callable[[ArtifactRef], bytes | None] = lambda _: None

    @property
    def day(self) -> date:
        """The day on which the build was started, which the age of its tiles refers to."""
        return datetime.fromtimestamp(self.build.started_ns / 1e9, tz=timezone.utc).date()

    @property
    def request(self) -> BuildRequest:
        """The recorded request."""
        return self.request_and_precision[0]

    @cached_property
    def request_and_precision(self) -> tuple[BuildRequest, str | None]:
        """The recorded request, and what replaced its precision; a backend that was chosen stays chosen."""
        # A build that failed before it knew its inputs recorded no backend.
        chosen = self.build.inputs.get("engine", {}).get("backend", AUTO)
        try:
            found = parse_recorded_request(self.build.host)
            if found is not None and found[0].engine.backend == AUTO:
                engine = replace(found[0].engine, backend=chosen)
                found = replace(found[0], engine=engine), found[1]
        except PipelineError as error:
            raise UnavailableError(f"the recorded request: {error.message}") from error
        if found is None:
            raise UnavailableError(
                f"expected build {self.build.number} to have recorded its request, found none"
            )
        return found

    def preprocessing(self, *, space: str = "", name: str = "") -> Preprocessing:
        """Return the image contract of a descriptor network: the one of a vector space, or of a name, or the first."""
        inputs = self.build.inputs
        models = [model for model in inputs["models"] if model["role"] == "descriptor"]
        recipe = inputs["recipes"]["cell"]
        for model in models:
            if model["name"] == name or (space and space_of_model(model, recipe=recipe) == space):
                return Preprocessing.from_document(model["preprocessing"])
        return Preprocessing.from_document(models[0]["preprocessing"])

    def refuse_plugins(self) -> None:
        """Raise `UnavailableError` if the request names libraries and nobody allowed to load them."""
        if self.request.engine.plugins and not self.trust_plugins:
            raise UnavailableError(NO_PLUGINS)

    def compiler(self, event: EngineCompiled) -> EngineCompiler:
        """Return the compiler of an engine: the one for stand-ins, or the one that the request names."""
        return self.ports.stand_in if event.purpose == STAND_IN else self.ports.compiler_for(self.request)

    def calibration(self) -> bytes:
        """Return the bytes of the calibration file."""
        try:
            data = read_calibration(self.request)
        except PipelineError as error:
            raise UnavailableError(error.message) from error
        found, expected = sha256(data).hexdigest(), str(self.build.inputs["calibration"])
        if found != expected:
            raise UnavailableError(
                f"calibration: expected SHA-256 {expected[:12]}, found {found[:12]} in"
                f" {self.request.resolve(self.request.calibration)}"
            )
        return data

    def area(self) -> Area:
        """Return the area: of its artifact, or read again."""
        ref = self.build.area
        data = None if ref is None else self.read_artifact(ref)
        if ref is not None and data is None:
            return self.area_read_again()
        return area_of_inputs(self.build.inputs, data)

    def area_read_again(self) -> Area:
        """Return the area that the recorded request names."""
        try:
            found = read_area(self.request)
        except PipelineError as error:
            raise UnavailableError(error.message) from error
        if found.ref != self.build.area:
            where = "its boxes" if self.request.area is None else self.request.resolve(self.request.area.file)
            raise UnavailableError(f"area: expected the recorded one, found another in {where}")
        return found

    def model(self, event: EngineCompiled) -> Model:
        """Return the network of an engine; its compiler may have another version."""
        found = next((model for model in self._models if model.spec.name == event.model), None)
        if found is None:
            raise UnavailableError(f"network {event.model}: expected it in the recorded request, found none")
        if event.purpose == STAND_IN:
            if found.stand_in is None:
                raise UnavailableError(
                    f"network {event.model}: expected a stand-in for it as recorded, found that its engine runs here"
                )
            found = found.stand_in
        # A library of another version may still give the same bytes; another network never does.
        changed = [name for name in difference(event.components, found.components) if name != "version"]
        if changed:
            raise UnavailableError(
                f"network {event.model}: expected it as recorded, found {', '.join(changed)} changed"
            )
        return found

    def tiles(self) -> Selection:
        """Return the selected tiles."""
        selection = self._selection
        found, expected = (
            digest_packed_tiles(selection.tiles.packed()),
            str(self.build.inputs["tiles"]["digest"]),
        )
        if found != expected:
            raise UnavailableError(
                f"tiles: expected the set {expected[:12]}, found {found[:12]} with {len(selection.tiles)} tiles in"
                f" {self.request.tiles.source_name}"
            )
        return selection

    def tiles_at(self, ids: npt.NDArray[np.int64]) -> TileColumns:
        """Return the tiles with some descriptor ids, int64 [n], ascending; all of them may have changed."""
        tiles = self._selection.tiles
        found = tiles.take(np.isin(tiles.ids, ids))
        if len(found) != len(ids):
            raise UnavailableError(
                f"tiles: expected {len(ids)}, found {len(found)} of them in {self.request.tiles.source_name}"
            )
        return found

    def shown_tiles(self) -> ShownTiles:
        """Return what units show; `cell` says of each whether that is as recorded."""
        return self._selection.shown_tiles()

    def cell(self, key: CellKey, *, space: str, step_key: str) -> Cell:
        """Return a cell; other cells may have changed."""
        found = next((cell for cell in group_cells(self._selection.units) if cell.key == key), None)
        if found is None:
            raise UnavailableError(
                f"tiles: expected those of cell {key}, found none in {self.request.tiles.source_name}"
            )
        units = digest_packed_tiles(found.units.packed())
        if cell_key(cell_components(space=space, tiles=units)) != step_key:
            raise UnavailableError(f"tiles: expected those of cell {key} as recorded, found other ones")
        return found

    @cached_property
    def _models(self) -> tuple[Model, ...]:
        request, precision = self.request_and_precision
        self.refuse_plugins()
        compiler, stand_in = self.ports.compiler_for(request), self.ports.stand_in
        try:
            models = inspect_models(request, compiler, precision, stand_in=stand_in)
            return put_heads(
                models, self.heads, lambda: self._selection, request, compiler, stand_in=stand_in
            )
        except PipelineError as error:
            raise UnavailableError(error.message) from error

    @cached_property
    def _selection(self) -> Selection:
        try:
            return select_tiles(
                self.request,
                self.ports.source_for(self.request),
                today=self.day,
                area=self.area(),
                levels=parse_levels(self.build.inputs),
            )
        except PipelineError as error:
            raise UnavailableError(error.message) from error
