"""Everything a build is defined by, as values. Pure."""

from pipeline.engines.models.model import Model
from pipeline.planning.chunk_levels import ChosenLevel
from pipeline.planning.proof import TruthTable
from pipeline.request.geometry import E7
from pipeline.request.options import ModelRole
from pipeline.request.request import BuildRequest
from pipeline.tiles.selection import Selection
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.manifest.levels import NO_LEVELS


@valueclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a build is defined by.

    Attributes:
        calibration: Bytes of the calibration file.
        document: The identity is its digest.
        levels: The levels of chunks, by rising side; none where the tiles get the descriptors.
        proof: The photographs that must be found; None if none must.
    """

    request: BuildRequest
    calibration: bytes
    models: tuple[Model, ...]
    selection: Selection
    document: Document
    identity: str
    levels: tuple[ChosenLevel, ...] = ()
    proof: TruthTable | None = None

    @property
    def descriptors(self) -> tuple[Model, ...]:
        """The networks that describe places, in the order of their names."""
        return tuple(model for model in self.models if model.spec.role is ModelRole.DESCRIPTOR)

    @property
    def networks(self) -> tuple[tuple[str, int], ...]:
        """Vector space and weight of each of them."""
        return tuple((model.space, model.spec.weight_ppm) for model in self.descriptors)

    def level_documents(self) -> tuple[Document, ...]:
        """Return each level, with the number of its chunks, for programs."""
        pairs = zip(self.levels, self.selection.levels, strict=True)
        return tuple(level.to_document(len(chunks.made)) for level, chunks in pairs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for a person before the build starts."""
        latitude = self.request.origin_e7[1] / E7
        found = (line for level in self.levels for line in level.warnings(self.request.bbox_e7, latitude))
        no_levels = () if self.levels else (NO_LEVELS,)
        outside = None if self.proof is None else self.proof.outside_warning(self.request.bbox_e7)
        sides = [level.described.side_m for level in self.levels]
        unserved = None if self.proof is None else self.proof.unserved_warning(self.calibration, sides)
        missed = tuple(f"proof: {text}" for text in (outside, unserved) if text is not None)
        return (*self.request.warnings, *no_levels, *found, *self.selection.warnings, *missed)
