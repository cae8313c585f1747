"""What a failed step needs to run again: bytes that were kept beside the records, or that still lie where they were.

Nothing that a record names is used before its digest was found to be the recorded one; every input leaves a word on how
it stands today. What cannot be had raises `UnavailableError` with the reason.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import look_at_models
from pipeline.engines.onnx.file import onnx_digest
from pipeline.engines.port import EngineCompiler
from pipeline.errors import CompileError, ErrorKind, PipelineError
from pipeline.planning.recorded_inputs import NO_PLUGINS, RecordedInputs, UnavailableError
from pipeline.ports import Ports
from pipeline.request.options import ModelRole, ModelSpec
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import parse_recorded_request
from pipeline.rerun.report import BuildRecord, Findings, InputStatus, StepInput
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator
from store.base.canonical_json import is_digest
from store.base.identity import difference
from store.base.preprocessing import Preprocessing
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.attachments import attached_to_failure
from store.domain.events import BuildFailed, EngineCompiled
from store.domain.state import STAND_IN, Build
from store.errors import StoreError

READ_ERRORS: Final = (OSError, PipelineError, StoreError, ValueError)
"""What reading a file that a record names may meet."""

_PLACEHOLDER: Final = "c10-rerun"


@dataclass(kw_only=True)
class RerunInputs:
    """The inputs of one failed step.

    Attributes:
        evidence: What is known of its build.
        ports: What does the work.
        scratch: A folder for temporary files, outside of the cache.
        findings: What is seen on the way.
    """

    record: BuildRecord
    ports: Ports
    scratch: Path
    findings: Findings = field(default_factory=Findings)

    @property
    def build(self) -> Build:
        """The build that failed."""
        return self.record.build

    @property
    def failure(self) -> BuildFailed | None:
        """How it failed; nothing if its process died."""
        return self.build.failure

    def recorded(self, name: str) -> Mapping[str, Any]:
        """Return a map that was recorded with the failure; an empty one if it was not."""
        found = self.failure.inputs.get(name) if self.failure is not None else None
        return found if isinstance(found, Mapping) else {}

    def attached(self, name: str) -> bytes | None:
        """Return bytes that were kept with the failure, if they can be read."""
        ref = attached_to_failure(self.failure).get(name) if self.failure is not None else None
        return None if ref is None else self.record.holdings.read(ref)

    def note(self, role: str, name: str, sha256: object, standing: InputStatus, found: str = "") -> None:
        """Say how an input stands."""
        digest = str(sha256) if is_digest(sha256) else None
        self.findings.inputs.append(
            StepInput(role=role, name=name, sha256=digest, standing=standing, found=found)
        )

    def artifact(self, role: str, name: str, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact.

        Raises:
            UnavailableError: It is not beside the records, or damaged.
        """
        data = self.record.holdings.read(ref)
        if data is None:
            self.note(role, name, ref.sha256, InputStatus.GONE, "not beside these records, or damaged")
            raise UnavailableError(
                f"expected {role} {name} ({ref.sha256[:12]}) beside the records, found none"
            )
        self.note(role, name, ref.sha256, InputStatus.KEPT)
        return data

    def write(self, name: str, data: bytes) -> Path:
        """Write a temporary file."""
        path = self.scratch / name
        path.write_bytes(data)
        return path

    def tile(self, name: str, sha256: str, locator: object, *, role: str = "tile") -> bytes | None:
        """Read a tile where it was recorded to lie, and say how it stands; nothing if it cannot be read."""
        if not isinstance(locator, list | tuple) or not all(isinstance(part, int | str) for part in locator):
            self.note(role, name, sha256, InputStatus.GONE, "where it lay was not recorded")
            return None
        place: Locator = tuple(locator)
        try:
            data = read_tile(place)
        except READ_ERRORS as error:
            self.note(role, name, sha256, InputStatus.GONE, str(error))
            return None
        found = hashlib.sha256(data).hexdigest()
        standing = InputStatus.SAME if found == sha256 else InputStatus.DIFFERS
        self.note(role, name, sha256, standing, "" if standing is InputStatus.SAME else found)
        return data

    @cached_property
    def artifacts(self) -> Artifacts:
        """A folder of artifacts of its own, for steps that look into one."""
        layout = Layout(self.scratch / "artifacts")
        layout.root.mkdir()
        layout.create()
        return Artifacts(layout)

    def bring(self, role: str, name: str, ref: ArtifactRef) -> None:
        """Put an artifact into that folder.

        Raises:
            UnavailableError: It is not beside the records, or damaged.
        """
        self.artifacts.put(self.artifact(role, name, ref))

    @cached_property
    def request(self) -> tuple[BuildRequest, str | None]:
        """The request as recorded, and what replaced its precision.

        Raises:
            UnavailableError: It was not recorded, or is none to this version.
        """
        try:
            found = parse_recorded_request(self.build.host)
        except PipelineError as error:
            raise UnavailableError(f"the recorded request: {error.message}") from error
        if found is None:
            raise UnavailableError(
                f"expected build {self.build.number} to have recorded its request, found none"
            )
        return found

    @property
    def recipe(self) -> RecordedInputs:
        """What the build was made from, read again on this machine."""
        return RecordedInputs(build=self.build, ports=self.ports, trust_plugins=self.record.trust_plugins)

    def model_document(self, name: str | None = None) -> Mapping[str, Any]:
        """Return what is recorded of a network, of the descriptor if none is named.

        Raises:
            UnavailableError: Nothing is.
        """
        for model in self.build.inputs.get("models", ()):
            if model["name"] == name or (name is None and model["role"] == "descriptor"):
                found: Mapping[str, Any] = model
                return found
        raise UnavailableError(f"expected network {name or ''} among the recorded inputs, found none")

    @property
    def preprocessing(self) -> Preprocessing:
        """The image contract of the descriptor."""
        return Preprocessing.from_document(self.model_document()["preprocessing"])

    def engine(self, sha256: object = None) -> EngineCompiled:
        """Return the engine that was in use: the one with a digest, or the one that embeds.

        Raises:
            UnavailableError: None was recorded.
        """
        for fact in reversed(self.record.facts):
            if isinstance(fact.event, EngineCompiled) and fact.event.artifact.sha256 == sha256:
                return fact.event
        used = self.build.stand_in or dict(self.build.engines).get(str(self.model_document()["name"]))
        if used is None:
            raise UnavailableError("expected the engine in the records, found none")
        return used

    def network(self, name: str, purpose: str) -> tuple[Model, EngineCompiler]:
        """Return a network and its compiler, as the step was given them.

        Args:
            name: The model.
            purpose: "stand-in", or what flies.

        Raises:
            UnavailableError: Its file is gone or another, or its backend is not here.
        """
        request, precision = self.request
        self.refuse_libraries(request)
        spec = next((model for model in request.models if model.name == name), None)
        if spec is None:
            raise UnavailableError(f"expected network {name} in the recorded request, found none")
        found = self._look(request, precision, self._with_file(request, spec))
        if purpose == STAND_IN or (found.stand_in is not None and self.build.stand_in is not None):
            if found.stand_in is None:
                raise UnavailableError(f"expected a stand-in of {name}, found that its engine runs here")
            found = found.stand_in
            compiler = self.ports.stand_in
        else:
            compiler = self.ports.compiler_for(request)
        self._hold_against_record(name, found)
        return found, compiler

    def refuse_libraries(self, request: BuildRequest) -> None:
        """Make sure that no library is loaded because a record names it.

        Raises:
            UnavailableError: The request names one, and nobody said that it may be loaded.
        """
        if request.engine.plugins and not self.record.trust_plugins:
            raise UnavailableError(NO_PLUGINS)

    def _with_file(self, request: BuildRequest, spec: ModelSpec) -> ModelSpec:
        """The same network, from a file with the recorded bytes."""
        if spec.builtin is not None:
            self.note("network", spec.name, None, InputStatus.SAME, spec.onnx)
            return spec
        expected = self.model_document(spec.name)["engine"]["onnx"]
        kept = self.attached("network") if self.recorded("network").get("model") == spec.name else None
        if kept is not None:
            path, standing = self.write("network.onnx", kept), InputStatus.KEPT
        else:
            path, standing = request.resolve(spec.onnx), InputStatus.SAME
        try:
            found = onnx_digest(path)
        except READ_ERRORS as error:
            self.note("network", spec.name, expected, InputStatus.GONE, str(error))
            raise UnavailableError(f"network {spec.name}: it was not kept, and {path}: {error}") from error
        if found != expected:
            self.note("network", spec.name, expected, InputStatus.DIFFERS, found)
            raise UnavailableError(
                f"network {spec.name}: expected SHA-256 {str(expected)[:12]}, found {found[:12]} in {path}"
            )
        self.note("network", spec.name, expected, standing)
        return replace(spec, onnx=str(path))

    def _look(self, request: BuildRequest, precision: str | None, spec: ModelSpec) -> Model:
        models: tuple[ModelSpec, ...] = (spec,)
        if spec.role is not ModelRole.DESCRIPTOR:
            # A request has a descriptor; this one is never compiled.
            models += (ModelSpec(name=_PLACEHOLDER, role=ModelRole.DESCRIPTOR, onnx="builtin:place"),)
        alone = replace(request, models=models)
        try:
            looked = look_at_models(
                alone, self.ports.compiler_for(request), precision, stand_in=self.ports.stand_in
            )
        except CompileError as error:
            if error.kind is not ErrorKind.BACKEND_UNAVAILABLE:
                raise
            raise UnavailableError(error.message) from error
        return next(model for model in looked if model.spec.name == spec.name)

    def _hold_against_record(self, name: str, model: Model) -> None:
        """Say what of the network's components is another here.

        Raises:
            UnavailableError: The libraries with operators are not the recorded ones.
        """
        recorded = {
            part: value for part, value in self.recorded("network").items() if part in model.components
        }
        if not recorded:
            recorded = dict(self.model_document(name)["engine"])
        libraries = _plugins(model.components)
        if libraries and libraries != _plugins(self.model_document(name)["engine"]):
            raise UnavailableError(
                f"network {name}: expected the recorded libraries in engine.plugins, found other bytes"
            )
        here = {part: value for part, value in model.components.items() if part in recorded}
        for part in difference(recorded, here):
            told = f"{recorded.get(part)!r} then, {here.get(part)!r} here"
            self.findings.differences.append(f"engine {name}, {part}: {told}")


def _plugins(components: Mapping[str, Any]) -> object:
    """Digests of the libraries that an engine was compiled with, for backends that take any."""
    options = components.get("options")
    return options.get("plugins") if isinstance(options, Mapping) else None
