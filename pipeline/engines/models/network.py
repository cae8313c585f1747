"""Inspect the networks of a request: compare their files with the request, and compute their engines' keys.

Nothing is compiled here. A file that is in the network cache is not read.
"""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from pipeline.builtin_model import place
from pipeline.engines.models.model import Model
from pipeline.engines.models.network_cache import NetworkCache, NetworkFile
from pipeline.engines.onnx.declaration import CHANNELS, LOCAL_RANKS, Size, TensorInfo
from pipeline.engines.onnx.file import onnx_digest, parse_declaration
from pipeline.engines.port import DEFAULT_BATCH, EngineCompiler, EngineJob, ShapeRange
from pipeline.errors import CompileError, RequestError
from pipeline.request.files import read_named_file
from pipeline.request.options import AxisOrder, Colour, ModelRole, ModelSpec
from pipeline.request.request import BuildRequest
from store.base.canonical_json import Document
from store.base.identity import engine_key
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass

HEAD = "head"
"""What the components of an engine have if a head was fitted for its network."""

_MAX_ONNX = 1 << 31
_MAX_PLUGIN = 1 << 30
_FRAME_BY_FRAME = frozenset({"openvino"})
"""Backends with a fixed batch: one of 8 gains them a fifth at most, and each frame of a flight would cost eight."""


def inspect_models(
    request: BuildRequest,
    compiler: EngineCompiler,
    precision: str | None,
    *,
    stand_in: EngineCompiler | None = None,
    networks: NetworkCache | None = None,
) -> tuple[Model, ...]:
    """Read and check the networks of a request.

    Args:
        request: The request.
        compiler: The backend that will compile them.
        precision: Replaces the request's precision, if given.
        stand_in: The backend that compiles stand-ins for this machine; None where no tiles will be embedded.
        networks: The cache of network files; by default there is none.

    Raises:
        RequestError: A network does not exist, or its options do not fit it.
        CompileError: It is no usable ONNX file, or the backend does not offer what the request needs.
    """
    target = compiler.target(request.engine.target)
    chosen, cache = precision or str(request.engine.precision), networks or NetworkCache(None)
    models = tuple(
        _inspect_model(request, spec, cache, compiler=compiler, target=target, precision=chosen)
        for spec in sorted(request.models, key=lambda spec: spec.name)
    )
    if stand_in is None or compiler.runs_here(target):
        return models
    return tuple(
        replace(model, stand_in=_stand_in(model, stand_in)) if model.preprocessing else model
        for model in models
    )


def job_with_file(model: Model, scratch: Path) -> EngineJob:
    """Return a network's job with a file to compile; one that lies nowhere yet is written to `scratch`."""
    if not model.fitted and model.spec.builtin is None:
        return model.job
    path = scratch / "network.onnx"
    path.write_bytes(model.fitted or place.place_model())
    return replace(model.job, onnx=path)


def put_head(
    model: Model,
    head: Document,
    *,
    request: BuildRequest,
    compiler: EngineCompiler,
    path: Path | None = None,
    fitted: bytes = b"",
    stand_in: EngineCompiler | None = None,
    networks: NetworkCache | None = None,
) -> Model:
    """Return a network with its head, given as it was inspected without.

    Args:
        model: The network below the head.
        head: What the head depends on; it enters the engine's key.
        request: The request.
        compiler: The backend that will compile it.
        path: The file of network and head.
        fitted: The same as bytes, if there is no file yet.
        stand_in: The backend of its stand-in, if it has one.
        networks: The cache of network files.

    Raises:
        RequestError, CompileError: As for `inspect_models`.
    """
    spec = replace(model.spec, head=None, output=None)
    if path is None:
        network = _read_bytes(fitted, spec)
    else:
        found = path
        network = (networks or NetworkCache(None)).get_or_read(path, lambda: _read_network(found, spec))
    whole = _model_of(
        request,
        spec,
        _file_facts(path or model.job.onnx, spec, network),
        compiler=compiler,
        target=model.job.target,
        precision=model.job.precision,
        head=head,
    )
    whole = replace(whole, spec=model.spec, fitted=fitted)
    return replace(
        whole, stand_in=None if model.stand_in is None or stand_in is None else _stand_in(whole, stand_in)
    )


def _inspect_model(
    request: BuildRequest,
    spec: ModelSpec,
    networks: NetworkCache,
    *,
    compiler: EngineCompiler,
    target: str,
    precision: str,
) -> Model:
    if spec.builtin is not None:
        facts = _builtin_facts(spec)
    else:
        path = request.resolve(spec.onnx)
        facts = _file_facts(path, spec, networks.get_or_read(path, lambda: _read_network(path, spec)))
    return _model_of(request, spec, facts, compiler=compiler, target=target, precision=precision)


def _model_of(
    request: BuildRequest,
    spec: ModelSpec,
    facts: "_NetworkFacts",
    *,
    compiler: EngineCompiler,
    target: str,
    precision: str,
    head: Document | None = None,
) -> Model:
    job = _job_of(request, spec, facts, backend=compiler.backend, target=target, precision=precision)
    components = _with_head(compiler.key_components(job), head)
    return Model(
        spec=spec,
        job=job,
        components=components,
        key=engine_key(components),
        preprocessing=job.preprocessing,
        size=facts.file_bytes,
        dimensions=facts.dimensions,
        runs_here=compiler.runs_here(target),
    )


def _job_of(
    request: BuildRequest,
    spec: ModelSpec,
    facts: "_NetworkFacts",
    *,
    backend: str,
    target: str,
    precision: str,
) -> EngineJob:
    descriptor = spec.role is ModelRole.DESCRIPTOR
    preprocessing = _preprocessing(spec, facts.size) if descriptor else None
    # What an aircraft asks a cache of chunks is one frame at a time.
    single = descriptor and request.cuts_chunks and facts.batch is None
    usual = 1 if single and backend in _FRAME_BY_FRAME else DEFAULT_BATCH
    batch = request.engine.batch or facts.batch or usual
    return EngineJob(
        model=spec.name,
        role="descriptor" if descriptor else "auxiliary",
        onnx=facts.path,
        onnx_sha256=facts.sha256,
        input=facts.names[0],
        output=facts.names[1],
        sample_shape=preprocessing.shape if preprocessing else (),
        batch=batch,
        single=single and batch > 1,
        precision=precision,
        quantized=facts.quantized,
        target=target,
        workspace_mb=request.engine.workspace_mb,
        timeout_s=request.engine.timeout_s,
        tf32=request.engine.tf32,
        profile=_profile(spec),
        preprocessing=preprocessing,
        least_cosine=request.checks.parity,
        plugins=_plugins(request),
    )


def _stand_in(model: Model, compiler: EngineCompiler) -> Model:
    """Return the same network, to be compiled for this machine in float32.

    Raises:
        CompileError: This machine cannot run it.
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
        components = _with_head(compiler.key_components(job), model.components.get(HEAD))
    except CompileError as error:
        raise CompileError(
            f"models.{model.spec.name}: its engine for {target!r} does not run here, so that tiles are embedded by a"
            f" stand-in: {error.message}",
            hint=error.hint,
            kind=error.kind,
            subject=model.spec.name,
        ) from error
    return replace(model, job=job, components=components, key=engine_key(components), runs_here=True)


def with_recorded_head(model: Model, head: Document) -> Model:
    """Return a network whose file already has its head, with what that depends on in its key."""
    components = _with_head(model.components, head)
    stand_in = None if model.stand_in is None else with_recorded_head(model.stand_in, head)
    return replace(model, components=components, key=engine_key(components), stand_in=stand_in)


def _with_head(components: Document, head: Document | None) -> Document:
    return components if head is None else {**components, HEAD: head}


@valueclass(frozen=True, slots=True, kw_only=True)
class _NetworkFacts:
    """What a job needs to know of a network; open sizes are None, and `size` is that of its images."""

    path: Path
    sha256: str
    names: tuple[str, str]
    size: tuple[int, int] | None
    batch: int | None
    file_bytes: int
    dimensions: int | None
    quantized: bool = False


def _builtin_facts(spec: ModelSpec) -> _NetworkFacts:
    if spec.builtin != "place":
        raise RequestError(
            f"models.{spec.name}.onnx: expected builtin:place or a path, found {spec.onnx!r}",
            hint='write onnx = "builtin:place"',
        )
    for name, given, own in (
        ("size", spec.size, place.PLACE_SIZE),
        ("input", spec.input, place.PLACE_INPUT),
        ("output", spec.output, place.PLACE_OUTPUT),
        ("mean", spec.mean, None),
        ("std", spec.std, None),
        ("colour", spec.colour.value, Colour.RGB.value),
        ("layout", spec.layout.value, AxisOrder.NCHW.value),
        ("normalise", spec.normalise, False),
    ):
        if given is not None and given != own:
            raise RequestError(
                f"models.{spec.name}.{name}: expected nothing, since builtin:place brings its own, found {given!r}",
                hint=f"remove {name}",
            )
    return _NetworkFacts(
        path=Path(spec.onnx),
        sha256=place.PLACE_MODEL_SHA256,
        names=(place.PLACE_INPUT, place.PLACE_OUTPUT),
        size=place.PLACE_SIZE,
        batch=None,
        file_bytes=place.PLACE_BYTES,
        dimensions=place.PLACE_DIMENSIONS,
    )


def _file_facts(path: Path, spec: ModelSpec, network: NetworkFile) -> _NetworkFacts:
    signature = network.declared.signature(
        role="descriptor" if spec.role is ModelRole.DESCRIPTOR else "auxiliary",
        input=spec.input,
        output=spec.output,
        subject=spec.name,
        headless=spec.head is not None,
    )
    if spec.head is not None:
        _require_local_features(spec, signature.output)
    shape = signature.input.shape or ()
    _require_layout(spec, shape)
    spatial = shape[2:4] if spec.layout == "nchw" else shape[1:3]
    match tuple(spatial):
        case (int(height), int(width)):
            fixed: tuple[int, int] | None = (height, width)
        case _:
            fixed = None
    if fixed is not None and spec.size is not None and spec.size != fixed:
        raise RequestError(
            f"models.{spec.name}.size: expected {list(fixed)}, which the network fixes, found {list(spec.size)}",
            hint="remove size",
        )
    return _NetworkFacts(
        path=path,
        sha256=network.sha256,
        names=(signature.input.name, signature.output.name),
        size=fixed or spec.size,
        batch=signature.fixed_batch(),
        file_bytes=network.size,
        dimensions=signature.fixed_dimensions(),
        quantized=network.declared.quantized,
    )


def _require_local_features(spec: ModelSpec, output: TensorInfo) -> None:
    """Refuse a head on a network that gives no local features, or does not say how long they are."""
    shape = output.shape or ()
    rank, axis = len(shape), 1 if len(shape) == max(LOCAL_RANKS) else 2
    if spec.layout is AxisOrder.NHWC and rank == max(LOCAL_RANKS):
        raise RequestError(
            f"models.{spec.name}.head: expected local features of float [N,T,C] below it, since the network has its"
            f" channels last, found {output}",
            hint="export the network with an output that has rows and columns as one axis",
            subject=spec.name,
        )
    if output.dtype != "float" or rank not in LOCAL_RANKS or not isinstance(shape[axis], int):
        raise RequestError(
            f"models.{spec.name}.head: expected local features of float [N,C,H,W] or [N,T,C] with a fixed C below it,"
            f" found {output}",
            hint="set output to the network's local features, export it with them as an output, or remove head",
            subject=spec.name,
        )


def _require_layout(spec: ModelSpec, shape: tuple[Size, ...]) -> None:
    """Refuse a layout that has the channels where the network has another size."""
    axis, other = (1, AxisOrder.NHWC) if spec.layout is AxisOrder.NCHW else (3, AxisOrder.NCHW)
    if spec.role is ModelRole.DESCRIPTOR and isinstance(size := shape[axis], int) and size != CHANNELS:
        raise RequestError(
            f"models.{spec.name}.layout: expected {other.value!r}, since the network takes images of"
            f" [{', '.join(str(each or '?') for each in shape)}], found {spec.layout.value!r}",
            hint=f'set layout = "{other.value}"',
        )


def _read_bytes(data: bytes, spec: ModelSpec) -> NetworkFile:
    declared = parse_declaration(data, subject=spec.name)
    return NetworkFile(declared=declared, sha256=sha256(data).hexdigest(), size=len(data))


def _read_network(path: Path, spec: ModelSpec) -> NetworkFile:
    data = read_named_file(path, f"models.{spec.name}.onnx", _MAX_ONNX)
    declared = parse_declaration(data, subject=spec.name)
    return NetworkFile(
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
        normalise=spec.normalise,
    )


def _plugins(request: BuildRequest) -> tuple[tuple[Path, str], ...]:
    """Return the plug-ins that the request names, each with its digest."""
    paths = [request.resolve(name) for name in request.engine.plugins]
    return tuple(
        (path, sha256(read_named_file(path, "engine.plugins", _MAX_PLUGIN)).hexdigest()) for path in paths
    )


def _profile(spec: ModelSpec) -> ShapeRange | None:
    found = spec.profile
    return None if found is None else ShapeRange(min=found.min, opt=found.opt, max=found.max)
