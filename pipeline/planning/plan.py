"""Plan a build: decide from state, inputs and files on disk which steps run, and why. Pure.

A step is reused if the journal has its result under the same key and the artifact is present. Otherwise it
runs, and the plan says which component of the key changed. Each cell is decided on its own: a cell whose
tiles changed keeps the rows of the tiles that did not.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pipeline.embed.cells import Cell
from pipeline.engines.models.model import Model
from pipeline.engines.precision.float16 import least_cosine
from pipeline.planning.inputs import Inputs, KeyedCell
from pipeline.planning.known_index import why_new_index
from pipeline.planning.proof import key_of_proof
from pipeline.planning.tile_packs import carried_cells
from pipeline.request.options import BadTilePolicy
from store.backports import StrEnum
from store.base.canonical_json import Document
from store.base.identity import difference
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.domain.attachments import GOLDEN, attached
from store.domain.events import CellEmbedded, CheckPassed, EngineCompiled
from store.domain.index_files import refs_of
from store.domain.proof import PROOF, SUBJECT, answers_of
from store.domain.state import State

_BILLION = 1_000_000_000

ENGINE_CHECK = "engine"
"""Name of the check that an engine must pass before its step counts as done."""

Present = Mapping[str, int]
"""Digest to size of the artifacts on disk that the journal names."""


class Decision(StrEnum):
    """Whether a step is reused or runs."""

    REUSE = "reuse"
    RUN = "run"


@valueclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """One network: compiled, or its `known` engine reused.

    Attributes:
        known: Its latest engine, if any.
        checked: Whether that engine passed its check already.
        answered: Whether the golden answers of a stand-in are present.
    """

    model: Model
    decision: Decision
    why: str
    known: EngineCompiled | None
    checked: bool
    answered: bool = False


@valueclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    """One cell of one network: its `known` block reused, or a new one assembled.

    Attributes:
        network: The network that embeds it.
        components: The key is their digest.
        known: The latest block of this cell in this vector space, if it is present.
    """

    network: Model
    cell: Cell
    components: Document
    key: str
    decision: Decision
    why: str
    known: CellEmbedded | None


@valueclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """One cell of carried tiles: a known pack, or a new one of so many tiles and bytes."""

    decision: Decision
    why: str
    tiles: int
    size: int


@valueclass(frozen=True, slots=True, kw_only=True)
class ProofPlan:
    """The photographs that must be found: asked for, or the answers of an earlier build reused."""

    decision: Decision
    why: str
    photographs: int


@valueclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """The plan before work starts; `index_why` says why the index will be written although no cell changes."""

    engines: tuple[EnginePlan, ...]
    cells: tuple[CellPlan, ...]
    stand_ins: tuple[EnginePlan, ...] = ()
    index_why: str = ""
    packs: tuple[PackPlan, ...] = ()
    proof: ProofPlan | None = None

    @property
    def stale(self) -> tuple[CellPlan, ...]:
        """The cells that need a new block."""
        return tuple(cell for cell in self.cells if cell.decision is Decision.RUN)

    def summary(self) -> tuple[Document, ...]:
        """Return one document for each engine and for each reason among the cells."""
        named = [("engine", plan) for plan in self.engines]
        named += [("stand-in", plan) for plan in self.stand_ins]
        engines = [
            {
                "kind": kind,
                "subject": plan.model.spec.name,
                "key": plan.model.key,
                "decision": str(plan.decision),
                "why": plan.why,
                "count": 1,
            }
            for kind, plan in named
        ]
        several = len({plan.network.spec.name for plan in self.cells}) > 1
        cells = _counted("cells", ((plan.network.spec.name if several else "", plan) for plan in self.cells))
        packs = _counted("packs", (("", plan) for plan in self.packs))
        index = {
            "kind": "index",
            "subject": "",
            "key": "",
            "decision": str(Decision.RUN if self.stale or self.index_why else Decision.REUSE),
            "why": "cells change" if self.stale else self.index_why or "same blocks",
            "count": 1,
        }
        return (*engines, *cells, index, *self._proof_summary(), *packs)

    def _proof_summary(self) -> Iterator[Document]:
        if self.proof is not None:
            yield {
                "kind": PROOF,
                "subject": SUBJECT,
                "key": "",
                "decision": str(self.proof.decision),
                "why": self.proof.why,
                "count": self.proof.photographs,
            }


def _counted(kind: str, plans: Iterable[tuple[str, CellPlan | PackPlan]]) -> list[Document]:
    """Return one document for each subject, decision and reason."""
    found = Counter((subject, str(plan.decision), plan.why) for subject, plan in plans)
    return [
        {"kind": kind, "subject": subject, "key": "", "decision": decision, "why": why, "count": count}
        for (subject, decision, why), count in sorted(found.items())
    ]


def reusable_artifacts(state: State, inputs: Inputs) -> tuple[ArtifactRef, ...]:
    """Return the artifacts that the plan would reuse if they are present."""
    known = (state.step_cache.engines.get(model.key) for model in inputs.models)
    engines = [event.artifact for event in known if event is not None]
    for model in inputs.descriptors:
        embedder = state.step_cache.engines.get(model.embedder.key)
        if model.stand_in is not None and embedder is not None:
            engines += [
                embedder.artifact,
                *(ref for name, ref in attached(embedder).items() if name == GOLDEN),
            ]
    blocks = [
        _closest_block(state, space, each.cell, each.key)
        for space, cells in inputs.cells.items()
        for each in cells
    ]
    head = state.head_build
    index = refs_of(head.index) if head is not None and head.index is not None else ()
    answers = [answers_of(event) for event in _known_proofs(state, inputs)]
    return (*engines, *index, *(event.block for event in blocks if event is not None), *answers)


def make_plan(state: State, inputs: Inputs, present: Present) -> BuildPlan:
    """Decide every engine and cell.

    Args:
        state: The folded journal.
        inputs: What the build is defined by.
        present: Digest to size of the `reusable_artifacts` that are regular files.
    """
    known = {name[0] for name in state.step_cache.blocks}
    whole_only = inputs.request.tiles.on_bad is BadTilePolicy.FAIL
    why_changed = _why_changed(state, inputs)
    plan = BuildPlan(
        engines=tuple(
            _plan_engine(state, model, present, note=inputs.backend_note) for model in inputs.models
        ),
        cells=tuple(
            _plan_cell(state, model, space, cell, present=present, whys=whys, whole_only=whole_only)
            for model, (space, _) in zip(inputs.descriptors, inputs.networks, strict=True)
            for whys in (("new cell" if not known or space in known else "new vector space", why_changed),)
            for cell in inputs.cells[space]
        ),
        stand_ins=tuple(_plan_stand_ins(state, inputs.descriptors, present)),
        packs=tuple(_plan_packs(state, inputs)),
    )
    if not plan.stale:
        blocks = [(each.cell.key, each.known) for each in plan.cells if each.known is not None]
        plan = replace(plan, index_why=why_new_index(state, inputs, blocks, present))
    return replace(plan, proof=_plan_proof(state, inputs, present, plan))


def _plan_proof(state: State, inputs: Inputs, present: Present, plan: BuildPlan) -> ProofPlan | None:
    if inputs.proof is None:
        return None
    embedders = {model.embedder.key for model in inputs.descriptors}
    compiled = {each.model.key for each in (*plan.engines, *plan.stand_ins) if each.decision is Decision.RUN}
    known = _known_proofs(state, inputs)
    decision = Decision.RUN
    if plan.stale or not embedders.isdisjoint(compiled):
        why = "cells or engines change"
    elif not known:
        why = "not asked for yet with this engine and index"
    elif not any(_is_present(answers_of(event), present) for event in known):
        why = "its answers are missing or damaged"
    else:
        decision, why = Decision.REUSE, "same engine, index and photographs"
    return ProofPlan(decision=decision, why=why, photographs=len(inputs.proof.photographs))


def _known_proofs(state: State, inputs: Inputs) -> list[CheckPassed]:
    """Return the passed proofs of builds with these tiles and index options, hence, with these engines, this index."""
    engines = [state.step_cache.engines.get(model.embedder.key) for model in inputs.descriptors]
    known = [engine for engine in engines if engine is not None]
    if inputs.proof is None or len(known) < len(engines):
        return []
    return [
        proof
        for build in state.builds.values()
        if build.proof is not None
        and build.index is not None
        and all(build.inputs[name] == inputs.document[name] for name in ("tiles", "index"))
        for key in (key_of_proof(inputs.document, inputs.networks, known, build.index),)
        for proof in (state.step_cache.passed.get((PROOF, key)),)
        if proof is not None
    ]


def _plan_packs(state: State, inputs: Inputs) -> Iterator[PackPlan]:
    """Plan the packs as if every unit got a descriptor; the stage looks into those that it reuses."""
    if not inputs.request.carries_tiles:
        return
    for cell in carried_cells(inputs.selection.shown_tiles(), inputs.selection.units.ids):
        known = cell.key in state.step_cache.packs
        yield PackPlan(
            decision=Decision.REUSE if known else Decision.RUN,
            why="same tiles" if known else "its tiles were not packed yet",
            tiles=len(cell.tiles),
            size=cell.size,
        )


def _is_present(ref: ArtifactRef, present: Present) -> bool:
    return present.get(ref.sha256) == ref.size


def _plan_engine(state: State, model: Model, present: Present, *, note: str = "") -> EnginePlan:
    known = state.step_cache.engines.get(model.key)
    checked = known is not None and has_passed_here(state, model, known)
    if known is None:
        decision, why = Decision.RUN, _why_new(model, _last_engine(state, model.spec.name))
    elif not _is_present(known.artifact, present):
        decision, why, checked = Decision.RUN, "its artifact is missing or damaged", False
    elif checked:
        decision, why = Decision.REUSE, "same key, checked"
    else:
        decision, why = Decision.REUSE, "same key, its check is still to run"
    return EnginePlan(model=model, decision=decision, why=why + note, known=known, checked=checked)


def has_passed_here(state: State, model: Model, event: EngineCompiled) -> bool:
    """Say whether an engine passed its check, as far as this machine can check it.

    A pass does not count if the engine was not run and this machine can run it, or if less agreement was
    required then.
    """
    found = state.step_cache.passed.get((ENGINE_CHECK, model.key))
    if found is None or found.artifact != event.artifact.sha256:
        return False
    if not model.runs_here:
        return True
    cosine = found.measured.get("cosine_ppb", _BILLION)
    least = round(least_cosine(model.job.precision, model.job.least_cosine) * _BILLION)
    return found.measured.get("executed", True) is True and cosine >= least


def _plan_stand_ins(state: State, models: Iterable[Model], present: Present) -> Iterator[EnginePlan]:
    """Plan the engines that embed here in place of those for another device, where they are needed."""
    for model in models:
        if model.stand_in is not None:
            yield _plan_stand_in(state, model, model.stand_in, present)


def _plan_stand_in(state: State, model: Model, stand_in: Model, present: Present) -> EnginePlan:
    found = _plan_engine(state, stand_in, present)
    if found.known is None:
        earlier = _last_stand_in(state, model.spec.name)
        why = f"{model.spec.name} is compiled for {model.job.target}, which this machine is not"
        return replace(found, why=why if earlier is None else _why_new(stand_in, earlier))
    golden = attached(found.known).get(GOLDEN)
    answered = golden is not None and _is_present(golden, present)
    if found.decision is Decision.REUSE and not answered:
        return replace(found, why="same key, its golden answers are still to be given")
    return replace(found, answered=answered)


def _why_new(model: Model, earlier: EngineCompiled | None) -> str:
    if earlier is None:
        return "never compiled in this cache"
    changed = difference(earlier.components, model.components)
    return f"changed: {', '.join(changed)}" if changed else "its last result failed a check or was collected"


def _last_engine(state: State, name: str) -> EngineCompiled | None:
    for number in sorted(state.builds, reverse=True):
        for model, event in state.builds[number].engines:
            if model == name:
                return event
    return None


def _last_stand_in(state: State, name: str) -> EngineCompiled | None:
    known = (dict(state.builds[number].stand_ins).get(name) for number in sorted(state.builds, reverse=True))
    return next((event for event in known if event is not None), None)


def _plan_cell(
    state: State,
    network: Model,
    space: str,
    keyed: KeyedCell,
    *,
    present: Present,
    whys: tuple[str, str],
    whole_only: bool,
) -> CellPlan:
    """Plan a cell; with `whole_only` a block in which tiles were skipped is not reused.

    `whys` are the reasons of a cell that is new, and of one whose block shows something else.
    """
    key = keyed.key
    known = _closest_block(state, space, keyed.cell, key)
    whole = known is not None and _is_present(known.block, present)
    skipped = known is not None and known.rows < len(keyed.cell.units)
    if known is not None and known.key == key and whole and not (whole_only and skipped):
        decision, why = Decision.REUSE, "same tiles"
    elif known is None:
        decision, why = Decision.RUN, whys[0]
    elif not whole:
        decision, why = Decision.RUN, "its block is missing or damaged"
    elif known.key == key:
        decision, why = Decision.RUN, "tiles were skipped before, and must not be now"
    else:
        decision, why = Decision.RUN, whys[1]
    return CellPlan(
        network=network,
        cell=keyed.cell,
        components=keyed.components,
        key=key,
        decision=decision,
        why=why,
        known=known if whole else None,
    )


def _why_changed(state: State, inputs: Inputs) -> str:
    head = state.head_build
    if head is not None and head.inputs.get("chunks") != inputs.document.get("chunks"):
        return "other chunks are wanted"
    return "its chunks changed" if inputs.levels else "its tiles changed"


def _closest_block(state: State, space: str, cell: Cell, key: str) -> CellEmbedded | None:
    """Return the cell's block with the same tiles, whenever it was made, or else its latest block."""
    known = state.step_cache.blocks_of((space, cell.key.zoom, cell.key.x, cell.key.y))
    return next((event for event in known if event.key == key), known[-1] if known else None)
