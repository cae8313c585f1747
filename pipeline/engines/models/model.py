"""A network as a build needs it: its request, its digest, its engine's key and its preprocessing. Pure."""

from typing import Any

from pipeline.engines.port import EngineJob
from pipeline.request.options import ModelSpec
from store.base.canonical_json import Document
from store.base.identity import ONE_PPM, space_of_model
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
        fitted: The network's file, if its head was fitted just now; else it lies where `job` says.
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
    fitted: bytes = b""

    @property
    def document(self) -> Document:
        """The network's part of the build identity."""
        document: dict[str, Any] = {
            "name": self.spec.name,
            "role": str(self.spec.role),
            "engine": self.components,
            "preprocessing": self.preprocessing.to_document() if self.preprocessing else {},
        }
        # Further keys exist only where used: identities of builds without them stay as they are.
        if self.stand_in is not None:
            document["stand_in"] = self.stand_in.components
        if self.spec.weight_ppm != ONE_PPM:
            document["weight_ppm"] = self.spec.weight_ppm
        return document

    @property
    def embedder(self) -> "Model":
        """The network that embeds on this machine: this one, or its stand-in."""
        return self.stand_in or self

    @property
    def space(self) -> str:
        """Vector space of its descriptors, as this machine computes them."""
        return space_of_model(self.document)
