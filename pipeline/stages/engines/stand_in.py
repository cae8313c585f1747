"""The stand-in: embed tiles with an engine for this machine where the flight engine is for another device.

The flight engine is compiled here but cannot run. A second engine of the same network, in the network's own
precision, embeds the tiles and is checked like any engine. Its answers to the golden images are stored: on
board the flight engine must give the same answers before it is used, so that its queries are comparable with
these descriptors.

An engine that another build compiled for this machine is reused; only its answers are added.
"""

from dataclasses import replace

from pipeline.engines.models.model import Model
from pipeline.errors import CheckError
from pipeline.planning.plan import Decision, EnginePlan
from pipeline.stages.checks import load
from pipeline.stages.context import BuildContext
from pipeline.stages.engines.compile import compile_engine, record_check
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.attachments import GOLDEN, attached, with_attached
from store.domain.events import EngineCompiled
from store.domain.state import STAND_IN
from store.errors import ArtifactError, ErrorKind
from store.manifest.manifest import StandInEntry
from store.runtime.golden_vectors import ANSWERED, encode_answers, golden_samples
from store.runtime.load import Engine, ExecutionError, RuntimeUnavailableError


def prepare_stand_in(run: BuildContext, plan: EnginePlan) -> None:
    """Give the build a checked stand-in with its golden answers.

    Raises:
        CompileError: It could not be compiled.
        CheckError: It disagrees with its network, or with the flight engine.
    """
    model = plan.model
    name = model.spec.name
    run.enter(STAND_IN, name)
    known = run.store.state.step_cache.engines.get(model.key) if plan.decision is Decision.REUSE else None
    event = known or compile_engine(run, model, run.ports.stand_in, purpose=STAND_IN)
    if known is None or not plan.answered:
        # An engine that another network of the same bytes has goes by this one's name from here on.
        event = _with_golden_answers(run, model, replace(event, model=name))
        run.append(event)
    run.stand_ins[name] = event
    if not plan.checked:
        record_check(run, model, event, what="the stand-in of engine")
    _require_comparable(run, event)
    if known is event:
        run.reuse(STAND_IN, {name: model.key})


def golden_answers(artifacts: Artifacts, model: Model, event: EngineCompiled) -> bytes:
    """Return an engine's answers to the golden images, encoded.

    Raises:
        ArtifactError: The engine is missing or damaged.
        ExecutionError: It does not run.
    """
    if model.preprocessing is None:
        raise AssertionError("the descriptor network has an image contract")
    engine = load(event, artifacts.read(event.artifact))
    return encode_answers(engine.run(golden_samples(model.preprocessing, ANSWERED)))


def open_stand_in(layout: Layout, named: StandInEntry) -> Engine:
    """Load the engine that made a cache's descriptors, for queries where the flight engine cannot run.

    Raises:
        ArtifactError: It is missing or damaged.
        ExecutionError: It does not run here.
        StoreError, journal.JournalError: The journal, which names its tensors, cannot be read.
    """
    for build in open_view(layout).state.builds.values():
        for _, event in build.stand_ins:
            if event.artifact.sha256 == named.sha256:
                return load(event, Artifacts(layout).read(event.artifact))
    raise ArtifactError(
        f"expected stand-in engine {named.sha256[:12]} in the journal, found none",
        kind=ErrorKind.ARTIFACT_MISSING,
        hint="c10 build",
    )


def _with_golden_answers(run: BuildContext, model: Model, event: EngineCompiled) -> EngineCompiled:
    """Attach the engine's golden answers to its event; if it does not run, its check reports that."""
    try:
        data = golden_answers(run.store.artifacts, model, event)
    except RuntimeUnavailableError:
        raise
    except ExecutionError:
        return replace(event, purpose=STAND_IN)
    refs = attached(event) | {GOLDEN: run.put(data)}
    return replace(event, purpose=STAND_IN, signature=with_attached(event.signature, refs))


def _require_comparable(run: BuildContext, event: EngineCompiled) -> None:
    """Require golden answers, and descriptors as long as those of the flight engine."""
    name = event.model
    lengths = [each.signature["dimensions"] for each in (run.engines[name], event)]
    if GOLDEN not in attached(event):
        raise CheckError(
            f"expected the stand-in of engine {name} to answer the golden images, found that it ran only sometimes",
            hint="c10 build again; c10 doctor if it stays so",
            subject=name,
        )
    if lengths[0] != lengths[1]:
        raise CheckError(
            f"expected engine {name} and its stand-in to give descriptors of one length, found {lengths[0]} and"
            f" {lengths[1]}",
            hint="fix the size of the network's output",
            subject=name,
        )
