"""What a recorded build was made from, read again: each part held against what the journal says of it.

The inputs of a build may have changed since, or be gone, some of them or all. So every part is asked for on its own,
and says for itself what differs; the others can still serve.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Final

from pipeline.embed.cells import Cell, CellKey, group_cells
from pipeline.engines.models.model import Model
from pipeline.engines.models.network import look_at_models
from pipeline.engines.port import EngineCompiler
from pipeline.errors import PipelineError
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.ports import Ports
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import parse_recorded_request
from pipeline.tiles.selection import Selection, select_tiles
from store.base.identity import cell_components, cell_key, descriptor_id, difference, tile_set
from store.domain.events import EngineCompiled
from store.domain.state import STAND_IN, Build

NO_PLUGINS: Final = (
    "the request names libraries with operators of their own (engine.plugins), which are not loaded on a record's"
    " word; --trust-plugins loads them"
)
"""Why nothing is compiled: a journal may come from elsewhere, and a library does what it likes."""


class UnavailableError(Exception):
    """Something that a step needs is not what it was; `reason` says what was expected and found."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, kw_only=True)
class RecordedInputs:
    """The inputs of one build.

    Attributes:
        build: As the journal tells it.
        ports: What reads them.
        trust_plugins: Whether libraries that the recorded request names may be loaded.
    """

    build: Build
    ports: Ports
    trust_plugins: bool = False
    _request: tuple[BuildRequest, str | None] | None = field(default=None, init=False)
    _models: tuple[Model, ...] | None = field(default=None, init=False)
    _selection: Selection | None = field(default=None, init=False)

    @property
    def day(self) -> date:
        """The day on which it was begun, by which its tiles were judged."""
        return datetime.fromtimestamp(self.build.started_ns / 1e9, tz=UTC).date()

    def request(self) -> BuildRequest:
        """Return the request as recorded."""
        return self._recorded()[0]

    def compiler(self, event: EngineCompiled) -> EngineCompiler:
        """Return the compiler of an engine: the one that the request names, or that of stand-ins."""
        stands_in = event.purpose == STAND_IN
        return self.ports.stand_in if stands_in else self.ports.compiler_for(self.request())

    def calibration(self) -> bytes:
        """Return the calibration's bytes, if they are the recorded ones."""
        try:
            data = read_calibration(self.request())
        except PipelineError as error:
            raise UnavailableError(error.message) from error
        found, expected = sha256(data).hexdigest(), str(self.build.inputs["calibration"])
        if found != expected:
            raise UnavailableError(
                f"calibration: expected SHA-256 {expected[:12]}, found {found[:12]} in"
                f" {self.request().resolve(self.request().calibration)}"
            )
        return data

    def model(self, event: EngineCompiled) -> Model:
        """Return the network of an engine, if it is the recorded one; its compiler may be another version."""
        found = next((model for model in self._looked_at() if model.spec.name == event.model), None)
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
        """Return the selected tiles, if they are the recorded set."""
        selection = self._selected()
        pairs = ((descriptor_id(tile.z, tile.x, tile.y), tile.sha256) for tile in selection.tiles)
        found, expected = tile_set(pairs), str(self.build.inputs["tiles"]["digest"])
        if found != expected:
            raise UnavailableError(
                f"tiles: expected the set {expected[:12]}, found {found[:12]} with {len(selection.tiles)} tiles in"
                f" {self.request().tiles.source}"
            )
        return selection

    def cell(self, key: CellKey, *, space: str, step_key: str) -> Cell:
        """Return a cell, if its tiles are the recorded ones; other cells may have changed."""
        found = next((cell for cell in group_cells(self._selected().tiles) if cell.key == key), None)
        if found is None:
            raise UnavailableError(
                f"tiles: expected those of cell {key}, found none in {self.request().tiles.source}"
            )
        tiles = ((descriptor_id(tile.z, tile.x, tile.y), tile.sha256) for tile in found.tiles)
        if cell_key(cell_components(space=space, tiles=tiles)) != step_key:
            raise UnavailableError(f"tiles: expected those of cell {key} as recorded, found other ones")
        return found

    def _recorded(self) -> tuple[BuildRequest, str | None]:
        if self._request is None:
            try:
                self._request = parse_recorded_request(self.build.host)
            except PipelineError as error:
                raise UnavailableError(error.message) from error
            if self._request is None:
                raise UnavailableError(f"build {self.build.number} did not record its request")
        return self._request

    def _looked_at(self) -> tuple[Model, ...]:
        if self._models is None:
            request, precision = self._recorded()
            if request.engine.plugins and not self.trust_plugins:
                raise UnavailableError(NO_PLUGINS)
            try:
                self._models = look_at_models(
                    request, self.ports.compiler_for(request), precision, stand_in=self.ports.stand_in
                )
            except PipelineError as error:
                raise UnavailableError(error.message) from error
        return self._models

    def _selected(self) -> Selection:
        if self._selection is None:
            request = self.request()
            try:
                self._selection = select_tiles(request, self.ports.source_for(request), today=self.day)
            except PipelineError as error:
                raise UnavailableError(error.message) from error
        return self._selection
