"""Read everything that a request names, and compute the build's identity.

Calibration, networks and tile source are read once, before anything is written. The identity is the digest of
one document, which contains neither host nor paths nor the date.
"""

import json
from collections.abc import Sequence
from datetime import date
from hashlib import sha256

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import inspect_models
from pipeline.engines.models.network_cache import NetworkCache
from pipeline.engines.port import EngineCompiler
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import RequestError
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.plan import chosen_kind, graph_recipe
from pipeline.planning.chunk_levels import ChosenLevel, choose_levels, imagery_document, levels_document
from pipeline.planning.disk_space import flown_size
from pipeline.planning.heads import Heads, put_heads
from pipeline.planning.inputs import Inputs
from pipeline.planning.proof import TruthTable, proof_document, read_proof
from pipeline.planning.tile_packs import require_flown_estimate
from pipeline.request.area import Area
from pipeline.request.area_files.read_area import read_area
from pipeline.request.files import read_named_file
from pipeline.request.options import ModelRole
from pipeline.request.request import BuildRequest
from pipeline.tiles.selection import Selection, select_tiles
from pipeline.tiles.tile import TileMetadataStore
from store.base.canonical_json import Document
from store.base.identity import build_identity, build_inputs, digest_packed_tiles
from store.manifest.index_entry import artifact_document

_MAX_CALIBRATION = 1 << 20
_BILLION = 1_000_000_000


def read_calibration(request: BuildRequest) -> bytes:
    """Return the bytes of the calibration file.

    Raises:
        RequestError: It is missing, too big, or no JSON object.
    """
    path = request.resolve(request.calibration)
    data = read_named_file(path, "calibration", _MAX_CALIBRATION)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"calibration: expected a JSON object in {path}, found {error}",
            hint="fix the file",
            subject=str(path),
        ) from error
    if not isinstance(document, dict):
        raise RequestError(
            f"calibration: expected a JSON object in {path}, found {type(document).__name__}",
            hint="put the calibration into an object",
            subject=str(path),
        )
    return data


def resolve_inputs(
    request: BuildRequest,
    *,
    source: TileMetadataStore,
    compiler: EngineCompiler,
    index: FaissIndexBuilder,
    today: date,
    precision: str | None = None,
    stand_in: EngineCompiler | None = None,
    networks: NetworkCache | None = None,
    heads: Heads | None = None,
) -> Inputs:
    """Read everything a request names.

    Args:
        request: The request.
        source: Where tiles come from.
        compiler: The backend that compiles the networks.
        index: Builds the index.
        today: The day for the age of tiles, unless the request names one.
        precision: Replaces the request's precision, if given.
        stand_in: As for `inspect_models`.
        networks: As for `inspect_models`.
        heads: Where the heads of networks come from, if some have one.

    Raises:
        PipelineError: Something it names is missing, damaged or unusable.
    """
    calibration, area = read_calibration(request), read_area(request)
    models = inspect_models(request, compiler, precision, stand_in=stand_in, networks=networks)
    levels = choose_levels(request, calibration, source, area=area, input_side_px=_input_side(models))
    selection = select_tiles(request, source, today=today, area=area, levels=[each.chunks for each in levels])
    models = put_heads(
        models, heads, lambda: selection, request, compiler, stand_in=stand_in, networks=networks
    )
    proof = read_proof(request, calibration, levels)
    document = _identity_document(
        request,
        calibration,
        models,
        selection,
        levels,
        area=area,
        proof=proof,
        compiler=compiler,
        index=index,
    )
    inputs = Inputs(
        request=request,
        area=area,
        calibration=calibration,
        models=models,
        selection=selection,
        document=document,
        identity=build_identity(document),
        levels=levels,
        proof=proof,
        today=today,
    )
    if request.carry is not None:
        require_flown_estimate(request, flown_size(inputs))
    return inputs


def _input_side(models: Sequence[Model]) -> int:
    """Return the smaller side of the input of the descriptor network that sees most, pixels."""
    # Only these have an image contract.
    return max(min(model.preprocessing.size) for model in models if model.preprocessing is not None)


def _identity_document(
    request: BuildRequest,
    calibration: bytes,
    models: tuple[Model, ...],
    selection: Selection,
    levels: Sequence[ChosenLevel],
    *,
    area: Area,
    proof: TruthTable | None,
    compiler: EngineCompiler,
    index: FaissIndexBuilder,
) -> Document:
    precision = next(model for model in models if model.spec.role is ModelRole.DESCRIPTOR).job.precision
    return build_inputs(
        flight_id=request.flight_id,
        sector=str(request.sector),
        bbox_e7=area.bbox_e7,
        area=None if area.ref is None else artifact_document(area.ref),
        zoom=request.zoom,
        origin={
            "lon_e7": request.origin_e7[0],
            "lat_e7": request.origin_e7[1],
            "altitude_mm": request.altitude_mm,
        },
        calibration=sha256(calibration).hexdigest(),
        tiles={
            "digest": digest_packed_tiles(selection.tiles.packed()),
            "on_bad": str(request.tiles.on_bad),
        },
        models=[model.document for model in models],
        engine={"backend": compiler.backend, "version": compiler.version},
        index={
            **_index_options(request),
            **graph_recipe(chosen_kind(request.index.kind, selection.unit_count)),
            "library": index.library(request.index.kind),
        },
        checks={
            "parity_ppb": round(least_cosine(precision, request.checks.parity) * _BILLION),
            "recall_ppb": round(request.checks.recall * _BILLION),
            "min_fraction_ppb": round(request.coverage.min_fraction * _BILLION),
        },
        chunks=levels_document(levels),
        imagery=imagery_document(levels),
        proof=proof_document(request.proof, proof),
        carry={"tiles": True} if request.carries_tiles else None,
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
    # Present only if it is false, so that the identities of older requests stay the same.
    return named if options.delta else {**named, "delta": False}
