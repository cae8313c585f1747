"""Everything a build is defined by, as values. Pure."""

from pipeline.engines.models.model import Model
from pipeline.request.options import ModelRole
from pipeline.request.request import BuildRequest
from pipeline.tiles.selection import Selection
from store.base.canonical_json import Document
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a build is defined by.

    Attributes:
        calibration: Bytes of the calibration file.
        document: The identity is its digest.
        space: Vector space of the descriptors.
    """

    request: BuildRequest
    calibration: bytes
    models: tuple[Model, ...]
    selection: Selection
    document: Document
    identity: str
    space: str

    @property
    def descriptor(self) -> Model:
        """The network that describes tiles."""
        return next(model for model in self.models if model.spec.role is ModelRole.DESCRIPTOR)

    @property
    def embedder(self) -> Model:
        """The network that embeds tiles on this machine: the descriptor, or its stand-in."""
        return self.descriptor.stand_in or self.descriptor

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for a person before the build starts."""
        return (*self.request.warnings, *self.selection.warnings)
