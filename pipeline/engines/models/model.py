"""A network as a build needs it: its request, its digest, its engine's key and its preprocessing. Pure."""

from pipeline.engines.port import EngineJob
from pipeline.request.options import ModelSpec
from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One network, inspected but not compiled.

    Attributes:
        spec: As requested.
        job: What to compile; the built-in network has no file yet.
        components: Everything its engine depends on.
        key: Step key of the engine.
        preprocessing: The image contract; none for an auxiliary network.
        size: Bytes of the network with its weights.
        dimensions: Length of its descriptors, if its file says so.
        runs_here: Whether this machine executes the engine.
        stand_in: Where the engine does not run here: the same network, compiled for this machine to embed the
            tiles.
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
        """The network's part of the build identity."""
        document = {
            "name": self.spec.name,
            "role": str(self.spec.role),
            "engine": self.components,
            "preprocessing": self.preprocessing.to_document() if self.preprocessing else {},
        }
        # The key exists only with a stand-in: identities of builds without one stay as they are.
        return document if self.stand_in is None else {**document, "stand_in": self.stand_in.components}
