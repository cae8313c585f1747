"""A network as a build needs it: what the request says of it, its digest, and how its pictures are prepared. Pure."""

from dataclasses import dataclass

from pipeline.engines.port import EngineJob
from pipeline.request.options import ModelSpec
from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
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
