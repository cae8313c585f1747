"""The networks of a request: what their files say, held against what is asked of them, and the keys of their engines.

Nothing is compiled here, and what was read of a file once is not read again (`pipeline.engines.models.network_cache`).
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pipeline.builtin_model.place import (
    PLACE_BYTES,
    PLACE_DIMENSIONS,
    PLACE_INPUT,
    PLACE_MODEL_SHA256,
    PLACE_OUTPUT,
    PLACE_SIZE,
    place_model,
)
from pipeline.engines.models.model import Model
from pipeline.engines.models.network_cache import Network, NetworkMemory
from pipeline.engines.onnx.file import declared_by, onnx_digest
from pipeline.engines.port import DEFAULT_BATCH, EngineCompiler, EngineJob, ShapeRange
from pipeline.errors import CompileError, RequestError
from pipeline.request.files import read_named_file
from pipeline.request.options import AxisOrder, Colour, ModelRole, ModelSpec
from pipeline.request.request import BuildRequest
from store.base.identity import engine_key
from store.base.preprocessing import Preprocessing

_MAX_ONNX = 1 << 31
_MAX_PLUGIN = 1 << 30


def look_at_models(
    request: BuildRequest,
    compiler: EngineCompiler,
    precision: str | None,
    *,
    stand_in: EngineCompiler | None = None,
    networks: NetworkMemory | None = None,
) -> tuple[Model, ...]:
    """Read and check the networks of a request.

    Args:
        request: As asked for.
        compiler: The backend that will compile them.
        precision: Replaces the request's precision, if given.
        stand_in: The backend that compiles for this machine what the other one does not compile for it; nothing where
            no tiles are to be embedded.
        networks: Remembers what their files say; by default nothing does.

    Raises:
        RequestError: A network does not exist, or its options do not fit it.
        CompileError: It is no usable ONNX file, or the backend does not offer what is asked.
    """
    target = compiler.target(request.engine.target)
    chosen, memory = precision or str(request.engine.precision), networks or NetworkMemory(None)
    models = tuple(
        _look_at(request, spec, memory, compiler=compiler, target=target, precision=chosen)
        for spec in sorted(request.models, key=lambda spec: spec.name)
    )
    if stand_in is None or compiler.runs_here(target):
        return models
    return tuple(
        replace(model, stand_in=_stand_in_of(model, stand_in)) if model.preprocessing else model
        for model in models
    )


def located(model: Model, scratch: Path) -> EngineJob:
    """Return a network's job with a file to compile, writing an embedded network to `scratch`."""
    if model.spec.builtin is None:
        return model.job
    path = scratch / f"{model.spec.builtin}.onnx"
    path.write_bytes(place_model())
    return replace(model.job, onnx=path)


def _look_at(
    request: BuildRequest,
    spec: ModelSpec,
    networks: NetworkMemory,
    *,
    compiler: EngineCompiler,
    target: str,
    precision: str,
) -> Model:
    look = (
        _builtin(spec) if spec.builtin is not None else _inspect(request.resolve(spec.onnx), spec, networks)
    )
    descriptor = spec.role is ModelRole.DESCRIPTOR
    preprocessing = _preprocessing(spec, look.size) if descriptor else None
    job = EngineJob(
        model=spec.name,
        role="descriptor" if descriptor else "auxiliary",
        onnx=look.path,
        onnx_sha256=look.digest,
        input=look.names[0],
        output=look.names[1],
        sample_shape=preprocessing.shape if preprocessing else (),
        batch=request.engine.batch or look.batch or DEFAULT_BATCH,
        precision=precision,
        target=target,
        workspace_mb=request.engine.workspace_mb,
        timeout_s=request.engine.timeout_s,
        tf32=request.engine.tf32,
        profile=_profile(spec),
        preprocessing=preprocessing,
        least_cosine=request.checks.parity,
        plugins=_plugins(request),
    )
    components = compiler.key_components(job)
    return Model(
        spec=spec,
        job=job,
        components=components,
        key=engine_key(components),
        preprocessing=preprocessing,
        size=look.weight,
        dimensions=look.dimensions,
        runs_here=compiler.runs_here(target),
    )


def _stand_in_of(model: Model, compiler: EngineCompiler) -> Model:
    """Return the same network, to be compiled for this machine in the precision it was given in.

    Raises:
        CompileError: Nothing is here that could run it.
    """
    target = model.job.target
    try:
        job = replace(
            model.job,
            precision="fp32",
            target=compiler.target(None),
            workspace_mb=None,
            tf32=False,
            profile=None,
            plugins=(),
        )
        components = compiler.key_components(job)
    except CompileError as error:
        raise CompileError(
            f"models.{model.spec.name}: its engine for {target!r} does not run here, so that tiles are embedded by a"
            f" stand-in: {error.message}",
            hint=error.hint,
            kind=error.kind,
            subject=model.spec.name,
        ) from error
    return replace(model, job=job, components=components, key=engine_key(components), runs_here=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a network's file says: digest, tensor names, height and width if fixed, batch size if fixed.

    `weight` is its size in bytes with external weights, `dimensions` the length of its output if fixed.
    """

    path: Path
    digest: str
    names: tuple[str, str]
    size: tuple[int, int] | None
    batch: int | None
    weight: int
    dimensions: int | None


def _builtin(spec: ModelSpec) -> _Look:
    if spec.builtin != "place":
        raise RequestError(
            f"models.{spec.name}.onnx: expected builtin:place or a path, found {spec.onnx!r}",
            hint='write onnx = "builtin:place"',
        )
    for name, given, own in (
        ("size", spec.size, PLACE_SIZE),
        ("input", spec.input, PLACE_INPUT),
        ("output", spec.output, PLACE_OUTPUT),
        ("mean", spec.mean, None),
        ("std", spec.std, None),
        ("colour", spec.colour.value, Colour.RGB.value),
        ("layout", spec.layout.value, AxisOrder.NCHW.value),
    ):
        if given is not None and given != own:
            raise RequestError(
                f"models.{spec.name}.{name}: expected nothing, since builtin:place brings its own, found {given!r}",
                hint=f"remove {name}",
            )
    return _Look(
        path=Path(spec.onnx),
        digest=PLACE_MODEL_SHA256,
        names=(PLACE_INPUT, PLACE_OUTPUT),
        size=PLACE_SIZE,
        batch=None,
        weight=PLACE_BYTES,
        dimensions=PLACE_DIMENSIONS,
    )


def _inspect(path: Path, spec: ModelSpec, networks: NetworkMemory) -> "_Look":
    network = networks.of(path, lambda: _network(path, spec))
    signature = network.declared.signature(
        role="descriptor" if spec.role is ModelRole.DESCRIPTOR else "auxiliary",
        input=spec.input,
        output=spec.output,
        subject=spec.name,
    )
    shape = signature.input.shape or ()
    spatial = shape[2:4] if spec.layout == "nchw" else shape[1:3]
    match tuple(spatial):
        case (int(height), int(width)):
            own: tuple[int, int] | None = (height, width)
        case _:
            own = None
    if own is not None and spec.size is not None and spec.size != own:
        raise RequestError(
            f"models.{spec.name}.size: expected {list(own)}, which the network fixes, found {list(spec.size)}",
            hint="remove size",
        )
    return _Look(
        path=path,
        digest=network.sha256,
        names=(signature.input.name, signature.output.name),
        size=own or spec.size,
        batch=signature.fixed_batch(),
        weight=network.size,
        dimensions=signature.fixed_dimensions(),
    )


def _network(path: Path, spec: ModelSpec) -> Network:
    data = read_named_file(path, f"models.{spec.name}.onnx", _MAX_ONNX)
    declared = declared_by(data, subject=spec.name)
    return Network(
        declared=declared,
        sha256=onnx_digest(path),
        size=len(data) + sum((path.parent / name).stat().st_size for name in declared.external),
    )


def _preprocessing(spec: ModelSpec, size: tuple[int, int] | None) -> Preprocessing:
    if size is None:
        raise RequestError(
            f"models.{spec.name}.size: expected [height, width], since the network takes any size, found none",
            hint="add size = [h, w]",
        )
    return Preprocessing(
        size=size,
        colour=spec.colour.value,
        layout=spec.layout.value,
        mean=spec.mean or (0.0, 0.0, 0.0),
        std=spec.std or (1.0, 1.0, 1.0),
    )


def _plugins(request: BuildRequest) -> tuple[tuple[Path, str], ...]:
    """Return the libraries with operators of their own that the request names, each with its digest."""
    paths = [request.resolve(name) for name in request.engine.plugins]
    return tuple(
        (path, sha256(read_named_file(path, "engine.plugins", _MAX_PLUGIN)).hexdigest()) for path in paths
    )


def _profile(spec: ModelSpec) -> ShapeRange | None:
    found = spec.profile
    return None if found is None else ShapeRange(min=found.min, opt=found.opt, max=found.max)
