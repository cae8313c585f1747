"""Give networks their heads: keep those that earlier builds fitted, or have them fitted.

A head is fitted on a sample of what the area shows. Which, follows from the digests of the units (chunks, or
tiles) alone. What a head depends on enters the components of its engine as `head`; the file of network and head
is attached to the engine's event.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import HEAD, put_head
from pipeline.engines.models.network_cache import NetworkCache
from pipeline.engines.port import EngineCompiler
from pipeline.errors import CompileError
from pipeline.request.head_options import Fit, HeadOptions
from pipeline.request.request import BuildRequest
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.selection import Selection
from store.base.identity import difference
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.attachments import NETWORK, attached
from store.domain.events import EngineCompiled
from store.domain.state import State

HEAD_RECIPE: Final = 1
"""The recipe of fitting a head. It is not among `RECIPES`, which every identity contains."""

SAMPLE: Final = 1024
"""How many units a head is fitted on."""

_SAMPLE_DOMAIN: Final = b"c10/head-sample/1\0"

FitHead = Callable[[Model, HeadOptions, RetrievalUnits, ShownTiles], bytes]
"""Fits a head for a network on some units, given the tiles that they show; returns the file of both."""


def sample_of(units: RetrievalUnits) -> RetrievalUnits:
    """Return what a head is fitted on: the first units by the SHA-256 of their digests, no digest twice."""
    _, first = np.unique(units.digests, axis=0, return_index=True)
    ranks = [hashlib.sha256(units.digests[row].tobytes()).digest() for row in first.tolist()]
    chosen = [first[place] for place in sorted(range(len(first)), key=ranks.__getitem__)[:SAMPLE]]
    return units.take(np.array(chosen, np.intp))


def reusable_engines(state: State) -> tuple[EngineCompiled, ...]:
    """Return the engines that may be reused: those of the build shown, then the others, the latest first."""
    known, head = state.step_cache.engines, state.head_build
    shown = () if head is None else tuple(event for _, event in (*head.engines, *head.stand_ins))
    return (*(event for event in shown if known.get(event.key) == event), *reversed(known.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Where the heads of networks come from.

    Attributes:
        engines: Engines whose heads may be kept, the preferred ones first.
        artifacts: Where their files are.
        fit: Fits one anew.
        any_sample: Whether a head is kept whatever it was fitted on, and whatever the request asks for.
    """

    engines: Sequence[EngineCompiled]
    artifacts: Artifacts
    fit: FitHead
    any_sample: bool = False


def put_heads(
    models: Sequence[Model],
    heads: Heads | None,
    selection: Callable[[], Selection],
    request: BuildRequest,
    compiler: EngineCompiler,
    *,
    stand_in: EngineCompiler | None = None,
    networks: NetworkCache | None = None,
) -> tuple[Model, ...]:
    """Return the networks with the heads that they ask for, as they were inspected without.

    Args:
        models: The networks.
        heads: Where heads come from; None if no network asks for one.
        selection: Returns what the area shows; called where that matters.
        request: The request.
        compiler: The backend of the engines.
        stand_in: The backend of the stand-ins.
        networks: The cache of network files.

    Raises:
        RequestError: The area is too small for the head, or the head too large for it.
        PipelineError: The network cannot be run, or a tile changed.
    """
    if heads is None:
        return tuple(models)
    put = partial(put_head, request=request, compiler=compiler, stand_in=stand_in, networks=networks)
    return tuple(
        model if model.spec.head is None else _with_head(model, model.spec.head, heads, selection, put)
        for model in models
    )


def _with_head(
    model: Model,
    options: HeadOptions,
    heads: Heads,
    selection: Callable[[], Selection],
    put: Callable[..., Model],
) -> Model:
    document = _document(model, options)
    any_sample = heads.any_sample or options.fit is Fit.AREA
    sample = None if any_sample else sample_of(selection().units)
    if sample is not None:
        document["sample"] = _digest(sample)
    for found, ref in _fitted(heads.engines):
        changed = {*difference(document, found)}
        if changed - ({"sample"} if any_sample else set()) or not heads.artifacts.present(ref):
            continue
        # A damaged file is as good as none.
        with suppress(CompileError):
            kept = put(model, found, path=heads.artifacts.layout.artifact(ref.sha256))
            if kept.job.onnx_sha256 == ref.sha256:
                return kept
    sample = sample or sample_of(selection().units)
    fitted = heads.fit(model, options, sample, selection().shown_tiles())
    return put(model, {**document, "sample": _digest(sample)}, fitted=fitted)


def _document(model: Model, options: HeadOptions) -> dict[str, Any]:
    """Return everything that a head depends on, but for the sample."""
    return {
        "kind": str(options.kind),
        "words": options.words,
        "dimensions": options.dimensions,
        "network": model.job.onnx_sha256,
        "output": model.job.output,
        "preprocessing": model.preprocessing.to_document() if model.preprocessing else {},
        "recipe": HEAD_RECIPE,
    }


def _fitted(engines: Sequence[EngineCompiled]) -> Iterator[tuple[Mapping[str, Any], ArtifactRef]]:
    """Yield what was fitted, and the file of network and head."""
    for event in engines:
        head, ref = event.components.get(HEAD), attached(event).get(NETWORK)
        if isinstance(head, Mapping) and ref is not None:
            yield head, ref


def _digest(sample: RetrievalUnits) -> str:
    return hashlib.sha256(_SAMPLE_DOMAIN + sample.digests.tobytes()).hexdigest()
