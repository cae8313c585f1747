"""Everything a build is defined by, as values. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from pipeline.embed.cells import Cell, group_cells
from pipeline.engines.models.model import Model
from pipeline.planning.chunk_levels import ChosenLevel
from pipeline.planning.proof import TruthTable
from pipeline.request.area import Area
from pipeline.request.geometry import E7
from pipeline.request.options import ModelRole
from pipeline.request.request import BuildRequest
from pipeline.tiles.selection import Selection
from store.base.cache_warning import CacheWarning
from store.base.canonical_json import Document
from store.base.identity import cell_components, cell_key, digest_packed_tiles
from store.base.valueclass import valueclass
from store.formats.area_shape import AreaShape
from store.runtime.backends.registry import AUTO
from store.trust.readiness import Readiness, judge
from store.trust.readiness_facts import AreaCounts, facts_of_inputs


@valueclass(frozen=True, slots=True, kw_only=True)
class KeyedCell:
    """A cell, the components of its block in a vector space, and the key, which is their digest."""

    cell: Cell
    components: Document
    key: str

    @classmethod
    def of(cls, cell: Cell, components: Document) -> "KeyedCell":
        """Return a cell with its key."""
        return cls(cell=cell, components=components, key=cell_key(components))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a build is defined by.

    Attributes:
        area: The ground that is wanted.
        calibration: Bytes of the calibration file.
        document: The identity is its digest.
        levels: The levels of chunks, by rising side; none where the tiles get the descriptors.
        proof: The photographs that must be found; None if none must.
        today: The day on which they were read, UTC.
    """

    request: BuildRequest
    area: Area
    calibration: bytes
    models: tuple[Model, ...]
    selection: Selection
    document: Document
    identity: str
    levels: tuple[ChosenLevel, ...] = ()
    proof: TruthTable | None = None
    today: date

    @property
    def descriptors(self) -> tuple[Model, ...]:
        """The networks that describe places, in the order of their names."""
        return tuple(model for model in self.models if model.spec.role is ModelRole.DESCRIPTOR)

    @property
    def networks(self) -> tuple[tuple[str, int], ...]:
        """Vector space and weight of each of them."""
        return tuple((model.space, model.spec.weight_ppm) for model in self.descriptors)

    @cached_property
    def cells(self) -> Mapping[str, tuple[KeyedCell, ...]]:
        """The cells of the units, in ascending order, by vector space."""
        found = [
            (each, digest_packed_tiles(each.units.packed())) for each in group_cells(self.selection.units)
        ]
        return {
            space: tuple(
                KeyedCell.of(cell, cell_components(space=space, tiles=tiles)) for cell, tiles in found
            )
            for space, _ in self.networks
        }

    @property
    def backend_note(self) -> str:
        """What "auto" stands for here, to follow a reason: elsewhere the same request may be another build."""
        made = self.document["engine"]
        chosen = f'; engine.backend = "auto" chose {made["backend"]} {made["version"]}'
        return chosen if self.request.engine.backend == AUTO else ""

    def level_documents(self) -> tuple[Document, ...]:
        """Return each level, with the number of its chunks, for programs."""
        pairs = zip(self.levels, self.selection.levels, strict=True)
        return tuple(level.to_document(len(chunks.made)) for level, chunks in pairs)

    def judge(
        self,
        counts: AreaCounts | None,
        proof: Mapping[str, Any] | None = None,
    ) -> Readiness:
        """Judge the cache of a build with these inputs as it would be, or is, if it is committed today.

        Args:
            counts: What is there of its area, as far as it is known.
            proof: What its photographs showed, likewise.
        """
        shape = None if self.area.encoded is None else AreaShape.parse(self.area.encoded)
        facts = facts_of_inputs(
            self.document, counts=counts, dates=self.selection.dates, proof=proof, shape=shape
        )
        return judge(facts, today=self.today)

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """What is to be said before the build starts, but for its readiness."""
        latitude = self.request.origin_e7[1] / E7
        found = (line for level in self.levels for line in level.warnings(self.area.bbox_e7, latitude))
        return (
            *self.request.warnings,
            *found,
            *self.selection.warnings,
            *self._photograph_warnings(),
        )

    def _photograph_warnings(self) -> Iterator[CacheWarning]:
        """Yield what speaks against finding the photographs of the proof."""
        if self.proof is None:
            return
        if (outside := self.proof.outside_warning(self.area)) is not None:
            yield CacheWarning(
                kind="photographs-outside",
                message=f"proof: {outside}",
                hint="take them out of the table, or widen the area",
            )
        sides = [level.described.side_m for level in self.levels]
        if (unserved := self.proof.unserved_warning(self.calibration, sides)) is not None:
            yield CacheWarning(
                kind="photographs-unserved",
                message=f"proof: {unserved}",
                hint="correct altitude_m, there or here",
            )
