"""Everything a build is defined by, as values. Pure."""

from pipeline.engines.port import EngineJob
from pipeline.request.request import BuildRequest, ModelRole, ModelSpec
from pipeline.tiles.selection import Selection
from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One network, looked at but not compiled.

    Attributes:
        spec: As requested.
        job: What the compiler is given; an embedded network has no file yet.
        components: Everything its engine depends on.
        key: Step key of the engine.
        preprocessing: The image contract; none for an auxiliary network.
        size: Bytes of the network with its weights.
        dimensions: Length of its descriptors, if its file says so.
        runs_here: Whether this machine executes the engine.
        stand_in: The same network, to be compiled for this machine as well, where it must embed tiles on behalf of an
            engine that does not run here.
    """

    spec: ModelSpec
    job: EngineJob
    components: Document
    key: str
    preprocessing: Preprocessing | None
    size: int
    dimensions: int | None
    runs_here: bool = True
    stand_in: "Model | None" = None

    @property
    def document(self) -> Document:
        """What enters the build identity."""
        document = {
            "name": self.spec.name,
            "role": str(self.spec.role),
            "engine": self.components,
            "preprocessing": self.preprocessing.to_document() if self.preprocessing else {},
        }
        # Named only where there is one: a machine that runs the engine itself has another identity, and no place for it.
        return document if self.stand_in is None else {**document, "stand_in": self.stand_in.components}


@valueclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a build is defined by.

    Attributes:
        request: As asked for.
        calibration: Bytes of the calibration file.
        models: The networks, by name.
        selection: The tiles.
        document: What the identity is the digest of.
        identity: The build identity.
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
        """What embeds tiles here: the network that describes them, or its stand-in."""
        return self.descriptor.stand_in or self.descriptor

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before the build starts."""
        return (*self.request.warnings, *self.selection.warnings)
