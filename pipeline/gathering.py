"""From a request to everything a build is defined by, and its identity.

Files are read here, once, before anything is written: calibration, networks, tile source. What a build is
defined by becomes one document; host, paths and the day stay outside of it.
"""

import json
import os
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from pathlib import Path

from pipeline.engines.narrow_types import least_cosine
from pipeline.engines.onnx_file import inspect_onnx, onnx_digest
from pipeline.engines.port import DEFAULT_BATCH, EngineCompiler, EngineJob, ShapeRange
from pipeline.errors import CompileError, ErrorKind, RequestError
from pipeline.index import IndexBuilder
from pipeline.inputs import Inputs, Model
from pipeline.place import (
    PLACE_BYTES,
    PLACE_DIMENSIONS,
    PLACE_INPUT,
    PLACE_MODEL_SHA256,
    PLACE_OUTPUT,
    PLACE_SIZE,
    place_model,
)
from pipeline.regular import open_regular, read_at
from pipeline.request import BuildRequest, ModelRole, ModelSpec
from pipeline.tiles.selection import select_tiles
from pipeline.tiles.tile import TileMetadataStore
from store.canonical import Document
from store.identity import (
    build_identity,
    build_inputs,
    engine_key,
    tile_set_of,
    vector_space,
)
from store.preprocessing import Preprocessing

_MAX_CALIBRATION = 1 << 20
_MAX_ONNX = 1 << 31
_MAX_PLUGIN = 1 << 30
_BILLION = 1_000_000_000


def look_at_models(
    request: BuildRequest,
    compiler: EngineCompiler,
    precision: str | None,
    *,
    stand_in: EngineCompiler | None = None,
) -> tuple[Model, ...]:
    """Read and check the networks of a request.

    Args:
        request: As asked for.
        compiler: The backend that will compile them.
        precision: Replaces the request's precision, if given.
        stand_in: The backend that compiles for this machine what the other one does not compile for it; nothing where
            no tiles are to be embedded.

    Raises:
        RequestError: A network does not exist, or its options do not fit it.
        CompileError: It is no usable ONNX file, or the backend does not offer what is asked.
    """
    target = compiler.target(request.engine.target)
    chosen = precision or str(request.engine.precision)
    models = tuple(
        _look_at(request, spec, compiler, target, chosen)
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


def read_calibration(request: BuildRequest) -> bytes:
    """Return the bytes of the calibration file.

    Raises:
        RequestError: It is missing, too big, or no JSON object.
    """
    path = request.resolve(request.calibration)
    data = _read(path, "calibration", _MAX_CALIBRATION)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"calibration: expected a JSON object in {path}, found {error}",
            "mend the file",
            subject=str(path),
        ) from error
    if not isinstance(document, dict):
        raise RequestError(
            f"calibration: expected a JSON object in {path}, found {type(document).__name__}",
            "put the calibration into an object",
            subject=str(path),
        )
    return data


def gather(
    request: BuildRequest,
    *,
    source: TileMetadataStore,
    compiler: EngineCompiler,
    index: IndexBuilder,
    today: date,
    precision: str | None = None,
    stand_in: EngineCompiler | None = None,
) -> Inputs:
    """Read everything a request names.

    Args:
        request: As asked for.
        source: Where tiles come from.
        compiler: The backend that compiles the networks.
        index: Builds the index.
        today: The day by which tiles are judged, unless the request names one.
        precision: Replaces the request's precision, if given.
        stand_in: As for `look_at_models`.

    Raises:
        PipelineError: Something it names is missing, damaged or unusable.
    """
    calibration = read_calibration(request)
    models = look_at_models(request, compiler, precision, stand_in=stand_in)
    selection = select_tiles(request, source, today=today)
    descriptor = next(model for model in models if model.spec.role is ModelRole.DESCRIPTOR)
    embedder = descriptor.stand_in or descriptor
    document = build_inputs(
        flight_id=request.flight_id,
        sector=str(request.sector),
        bbox_e7=request.bbox_e7,
        zoom=request.zoom,
        origin={
            "lon_e7": request.origin_e7[0],
            "lat_e7": request.origin_e7[1],
            "altitude_mm": request.altitude_mm,
        },
        calibration=sha256(calibration).hexdigest(),
        tiles={
            "digest": tile_set_of(selection.tiles.packed()),
            "on_bad": str(request.tiles.on_bad),
        },
        models=[model.document for model in models],
        engine={"backend": compiler.backend, "version": compiler.version},
        index={**_index_options(request), "library": index.library(request.index.kind)},
        checks={
            "parity_ppb": round(least_cosine(descriptor.job.precision, request.checks.parity) * _BILLION),
            "recall_ppb": round(request.checks.recall * _BILLION),
            "min_fraction_ppb": round(request.coverage.min_fraction * _BILLION),
        },
    )
    return Inputs(
        request=request,
        calibration=calibration,
        models=models,
        selection=selection,
        document=document,
        identity=build_identity(document),
        space=vector_space(
            engine=embedder.key,
            preprocessing=descriptor.document["preprocessing"],
            precision=embedder.job.precision,
            batch=embedder.job.batch,
        ),
    )


def _index_options(request: BuildRequest) -> Document:
    options = request.index
    named: Document = {
        "kind": str(options.kind),
        "m": options.m,
        "ef": options.ef,
        "storage": str(options.storage),
        "nprobe": options.nprobe,
    }
    # Named only where it is forbidden, so that the identities of requests that do not ask stay what they were.
    return named if options.delta else {**named, "delta": False}


def _look_at(
    request: BuildRequest, spec: ModelSpec, compiler: EngineCompiler, target: str, precision: str
) -> Model:
    look = _builtin(spec) if spec.builtin is not None else _inspect(request.resolve(spec.onnx), spec)
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
            error.hint,
            error.kind,
            None,
            model.spec.name,
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
            'write onnx = "builtin:place"',
        )
    for name, given, own in (
        ("size", spec.size, PLACE_SIZE),
        ("input", spec.input, PLACE_INPUT),
        ("output", spec.output, PLACE_OUTPUT),
        ("mean", spec.mean, None),
        ("std", spec.std, None),
    ):
        if given is not None and given != own:
            raise RequestError(
                f"models.{spec.name}.{name}: expected nothing, since builtin:place brings its own, found {given!r}",
                f"remove {name}",
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


def _inspect(path: Path, spec: ModelSpec) -> "_Look":
    data = _read(path, f"models.{spec.name}.onnx", _MAX_ONNX)
    signature = inspect_onnx(
        data,
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
            "remove size",
        )
    return _Look(
        path=path,
        digest=onnx_digest(path),
        names=(signature.input.name, signature.output.name),
        size=own or spec.size,
        batch=signature.fixed_batch(),
        weight=len(data) + sum((path.parent / name).stat().st_size for name in signature.external),
        dimensions=signature.fixed_dimensions(),
    )


def _preprocessing(spec: ModelSpec, size: tuple[int, int] | None) -> Preprocessing:
    if size is None:
        raise RequestError(
            f"models.{spec.name}.size: expected [height, width], since the network takes any size, found none",
            "add size = [h, w]",
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
    return tuple((path, sha256(_read(path, "engine.plugins", _MAX_PLUGIN)).hexdigest()) for path in paths)


def _profile(spec: ModelSpec) -> ShapeRange | None:
    found = spec.profile
    return None if found is None else ShapeRange(min=found.min, opt=found.opt, max=found.max)


def _read(path: Path, what: str, limit: int) -> bytes:
    try:
        fd = open_regular(path)
        try:
            data = read_at(fd, 0, limit + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise RequestError(
            f"{what}: expected a readable file, found {path}: {error.strerror or error}",
            "mend the path; it starts from the request's folder",
            ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        ) from error
    if len(data) > limit:
        raise RequestError(
            f"{what}: expected at most {limit} bytes, found more in {path}",
            "name the right file",
            ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        )
    return data
