"""Find the inputs of a failed step: bytes that lie with the records, or files where they were recorded.

Nothing that a record names is used before its digest was verified, and the findings say of every input
whether it is available. An input that is not raises `UnavailableError` with the reason.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import HEAD, inspect_models, with_recorded_head
from pipeline.engines.onnx.file import onnx_digest
from pipeline.engines.port import EngineCompiler
from pipeline.errors import CompileError, ErrorKind, PipelineError
from pipeline.planning.recorded_inputs import RecordedInputs, UnavailableError, last_event
from pipeline.ports import Ports
from pipeline.request.options import ModelRole, ModelSpec
from pipeline.request.request import BuildRequest
from pipeline.rerun.report import BuildRecord, Findings, InputStatus, StepInput
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator
from store.base.canonical_json import is_digest
from store.base.identity import difference
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.attachments import NETWORK, attached, attached_to_failure
from store.domain.events import BuildFailed, EngineCompiled
from store.domain.state import STAND_IN, Build
from store.errors import StoreError

READ_ERRORS: Final = (OSError, PipelineError, StoreError, ValueError)
"""Errors of reading a file that a record names."""

NOT_WITH_RECORDS: Final = "not beside these records, or damaged"
_PLACEHOLDER: Final = "c10-rerun"


@dataclass(kw_only=True)
class RerunInputs:
    """The inputs of one failed step, with a temporary folder and the findings so far."""

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
        """How it failed; None if its process died."""
        return self.build.failure

    def failure_input(self, name: str) -> Mapping[str, Any]:
        """Return a map that was recorded with the failure; empty if there is none."""
        found = self.failure.inputs.get(name) if self.failure is not None else None
        return found if isinstance(found, Mapping) else {}

    def attached(self, name: str) -> bytes | None:
        """Return bytes that were stored with the failure, if they can be read."""
        ref = attached_to_failure(self.failure).get(name) if self.failure is not None else None
        return None if ref is None else self.record.artifacts.read(ref)

    def note(self, role: str, name: str, sha256: object, status: InputStatus, found: str = "") -> None:
        """Add an input to the findings."""
        digest = str(sha256) if is_digest(sha256) else None
        self.findings.inputs.append(
            StepInput(role=role, name=name, sha256=digest, status=status, found=found)
        )

    def artifact(self, role: str, name: str, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact.

        Raises:
            UnavailableError: It does not lie with the records, or is damaged.
        """
        data = self.record.artifacts.read(ref)
        if data is None:
            self.note(role, name, ref.sha256, InputStatus.GONE, NOT_WITH_RECORDS)
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
        """Read a tile where it was recorded to lie; None if it cannot be read."""
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
        status = InputStatus.SAME if found == sha256 else InputStatus.DIFFERS
        self.note(role, name, sha256, status, "" if status is InputStatus.SAME else found)
        return data

    @cached_property
    def scratch_artifacts(self) -> Artifacts:
        """A temporary folder of artifacts, for steps that read from one."""
        layout = Layout(self.scratch / "artifacts")
        layout.root.mkdir()
        layout.create()
        return Artifacts(layout)

    def copy_artifact(self, role: str, name: str, ref: ArtifactRef) -> None:
        """Copy an artifact into that folder.

        Raises:
            UnavailableError: It does not lie with the records, or is damaged.
        """
        self.scratch_artifacts.put(self.artifact(role, name, ref))

    @cached_property
    def recorded_inputs(self) -> RecordedInputs:
        """The inputs of the build, read again on this machine."""
        return RecordedInputs(build=self.build, ports=self.ports, trust_plugins=self.record.trust_plugins)

    def model_document(self, name: str | None = None) -> Mapping[str, Any]:
        """Return what is recorded of a network, by default of the descriptor.

        Raises:
            UnavailableError: Nothing is recorded.
        """
        for model in self.build.inputs.get("models", ()):
            if model["name"] == name or (name is None and model["role"] == "descriptor"):
                found: Mapping[str, Any] = model
                return found
        raise UnavailableError(f"expected network {name or ''} among the recorded inputs, found none")

    def engine(self, sha256: object = None) -> EngineCompiled:
        """Return the engine that was used: the one with a digest, or the one that embeds.

        Raises:
            UnavailableError: None was recorded.
        """
        used = last_event(self.record.history, EngineCompiled, lambda made: made.artifact.sha256 == sha256)
        name = str(self.model_document()["name"])
        used = used or self.build.stand_in_of(name) or dict(self.build.engines).get(name)
        if used is None:
            raise UnavailableError("expected the engine in the records, found none")
        return used

    def network(self, name: str, purpose: str) -> tuple[Model, EngineCompiler]:
        """Return a network and its compiler as the step had them; `purpose` is "stand-in" or "flight".

        Raises:
            UnavailableError: The network's file is gone or changed, or its backend is not installed.
        """
        request, precision = self.recorded_inputs.request_and_precision
        self.recorded_inputs.refuse_plugins()
        spec = next((model for model in request.models if model.name == name), None)
        if spec is None:
            raise UnavailableError(f"expected network {name} in the recorded request, found none")
        found = self._inspect(request, precision, self._with_file(request, spec))
        if spec.head is not None:
            found = with_recorded_head(found, self.model_document(name)["engine"][HEAD])
        if purpose == STAND_IN or (found.stand_in is not None and self.build.stand_in_of(name) is not None):
            if found.stand_in is None:
                raise UnavailableError(f"expected a stand-in of {name}, found that its engine runs here")
            found = found.stand_in
            compiler = self.ports.stand_in
        else:
            compiler = self.ports.compiler_for(request)
        self._compare_with_record(name, found)
        return found, compiler

    def _with_file(self, request: BuildRequest, spec: ModelSpec) -> ModelSpec:
        """Return the network with a file that has the recorded bytes."""
        if spec.builtin is not None:
            self.note("network", spec.name, None, InputStatus.SAME, spec.onnx)
            return spec
        expected = self.model_document(spec.name)["engine"]["onnx"]
        kept = self.attached("network") if self.failure_input("network").get("model") == spec.name else None
        if spec.head is not None:
            # What the request names is the network below the head.
            kept, spec = kept or self._fitted(expected), replace(spec, output=None, head=None)
        if kept is not None:
            path, status = self.write("network.onnx", kept), InputStatus.KEPT
        else:
            path, status = request.resolve(spec.onnx), InputStatus.SAME
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
        self.note("network", spec.name, expected, status)
        return replace(spec, onnx=str(path))

    def _fitted(self, sha256: str) -> bytes | None:
        """Return the file of a network with a fitted head, if it lies with the records."""
        refs = (
            attached(entry.event).get(NETWORK)
            for entry in self.record.history
            if isinstance(entry.event, EngineCompiled)
        )
        ref = next((each for each in refs if each is not None and each.sha256 == sha256), None)
        return None if ref is None else self.record.artifacts.read(ref)

    def _inspect(self, request: BuildRequest, precision: str | None, spec: ModelSpec) -> Model:
        models: tuple[ModelSpec, ...] = (spec,)
        if spec.role is not ModelRole.DESCRIPTOR:
            # A request must have a descriptor; this one is never compiled.
            models += (ModelSpec(name=_PLACEHOLDER, role=ModelRole.DESCRIPTOR, onnx="builtin:place"),)
        alone = replace(request, models=models)
        try:
            looked = inspect_models(
                alone, self.ports.compiler_for(request), precision, stand_in=self.ports.stand_in
            )
        except CompileError as error:
            if error.kind is not ErrorKind.BACKEND_UNAVAILABLE:
                raise
            raise UnavailableError(error.message) from error
        return next(model for model in looked if model.spec.name == spec.name)

    def _compare_with_record(self, name: str, model: Model) -> None:
        """Add differing components to the findings; raise `UnavailableError` for changed plugin libraries."""
        recorded = {
            part: value for part, value in self.failure_input("network").items() if part in model.components
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
            values = f"{recorded.get(part)!r} then, {here.get(part)!r} here"
            self.findings.differences.append(f"engine {name}, {part}: {values}")


def _plugins(components: Mapping[str, Any]) -> object:
    """Return the digests of the libraries that an engine was compiled with, if its backend takes any."""
    options = components.get("options")
    return options.get("plugins") if isinstance(options, Mapping) else None
