"""Reconstruct the steps of one build from its events. Pure.

Some steps record when they begin; the others began after the record before. A step that is not finished when
the records end is *cut*: its process died, or is still running.
"""

from dataclasses import dataclass, field

from store.backports import assert_never
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.proof import PROOF
from store.domain.state import STAND_IN
from tools.forensics.records import DecodedRecord


@dataclass(slots=True, kw_only=True)
class Part:
    """A window of cells that was dispatched to workers; a large cell may be divided between several."""

    begin: DecodedRecord
    cells: tuple[str, ...]
    left: set[str]
    end: DecodedRecord | None = None
    attempts: int = 1


@dataclass(slots=True, kw_only=True)
class Step:
    """A step, running or done; `begin` is the record after which its work began."""

    kind: str
    subject: str
    begin: DecodedRecord
    outcome: str = "cut"
    end: DecodedRecord | None = None
    count: int = 0
    unit: str = ""
    size: int = 0
    key: str = ""
    parts: list[Part] = field(default_factory=list)


class StepReconstructor:
    """Builds the steps from the records of one build, one record at a time."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._open: dict[tuple[str, str], Step] = {}
        self._parts: dict[str, list[Part]] = {}
        self._unit = "tiles"
        self._step_of: dict[int, Step] = {}

    def finish(self, last: DecodedRecord | None = None) -> tuple[tuple[Step, ...], dict[int, int]]:
        """Return the steps, and the index of the step of each record.

        `last` is the last record of a build that has no end.
        """
        if last is not None and self._is_idle():
            self._new_step(self._next_kind(last), "", last)
        cells = self._open.get(("cells", ""))
        if cells is not None and cells.outcome == "done" and any(part.left for part in cells.parts):
            cells.outcome, cells.end = "cut", None
        ordered = sorted(self._steps, key=lambda step: step.begin.seq)
        index = {id(step): place for place, step in enumerate(ordered)}
        return tuple(ordered), {seq: index[id(step)] for seq, step in self._step_of.items()}

    def add(self, before: DecodedRecord, record: DecodedRecord) -> None:
        """Add the next record; `before` is the record of the build before it."""
        event = record.event
        match event:
            case e.BuildStarted(inputs=inputs):
                self._unit = "chunks" if "chunks" in inputs else "tiles"
                self._begin_step("plan", "", record)
            case e.TilesSelected():
                plan = self._open.get(("plan", "")) or self._begin_step("plan", "", before)
                plan.count, plan.unit = event.count, "tiles"
                self._add_size(plan, record, event.table)
            case e.BuildPlanned():
                self._finish_step("plan", "", record)
            case e.StepStarted():
                self._add_start(record, event)
            case e.StepRetried():
                self._add_retry(record, event)
            case e.StepReused():
                subject = next(iter(event.keys)) if event.kind != "index" and len(event.keys) == 1 else ""
                step = self._add_whole_step(event.kind, subject, before, record, outcome="reused")
                step.count, step.unit = event.count, "steps"
            case e.EngineCompiled() | e.CellEmbedded() | e.IndexBuilt() | e.IndexExtended():
                self._add_result(before, record, event)
            case e.TilesPacked() | e.TilesCarried():
                self._add_packs(before, record, event)
            case e.CheckPassed() | e.CheckFailed():
                outcome = "done" if isinstance(event, e.CheckPassed) else "failed"
                step = self._add_whole_step("check", event.subject, before, record, outcome=outcome)
                step.key = event.key
            case _:
                self._add_end(before, record)

    def _add_end(self, before: DecodedRecord, record: DecodedRecord) -> None:
        match record.event:
            case e.CoverageWalked() as event:
                step = self._add_whole_step("coverage", "", before, record)
                step.count, step.unit = event.files, "files"
                self._add_size(step, record, event.geography)
            case e.BuildCommitted():
                self._add_whole_step("commit", "", before, record)
            case e.BuildFailed() as event:
                self._add_failure(before, record, event)
            case e.BuildAbandoned():
                # Running steps stay cut: a later process wrote this record.
                if self._is_idle():
                    self._new_step(self._next_kind(before), "", before)
            case _:
                pass

    def _add_start(self, record: DecodedRecord, event: e.StepStarted) -> None:
        if event.kind != "cells":
            step = self._begin_step(event.kind, " ".join(event.subjects[:1]), record)
            step.key = event.key
            return
        step = self._open.get(("cells", "")) or self._begin_step("cells", "", record)
        step.key, step.unit = event.key, self._unit
        part = Part(begin=record, cells=event.subjects, left=set(event.subjects))
        step.parts.append(part)
        for name in event.subjects:
            self._parts.setdefault(name, []).append(part)
        self._step_of[record.seq] = step

    def _add_retry(self, record: DecodedRecord, event: e.StepRetried) -> None:
        """Count a retry for its window.

        Windows of a divided cell may name the same cells. Those that failed equally often cannot be told apart,
        and the last of them is counted: their attempts are right, but may be those of one another.
        """
        parts = self._parts.get(event.subjects[0], ()) if event.subjects else ()
        same = [part for part in parts if part.cells == event.subjects]
        for part in ([part for part in same if part.attempts == event.attempt] or same)[-1:]:
            part.attempts += 1
        step = self._open.get((event.kind, ""))
        if step is not None:
            self._step_of[record.seq] = step

    def _add_result(
        self, before: DecodedRecord, record: DecodedRecord, event: e.EngineCompiled | e.CellEmbedded | e.Index
    ) -> None:
        match event:
            case e.EngineCompiled():
                kind = "engine" if event.purpose != STAND_IN else STAND_IN
                step = self._open.get((kind, event.model)) or self._new_step(kind, event.model, before)
                step.key = event.key
                self._add_size(step, record, event.artifact)
                self._finish_step(kind, event.model, record, step)
            case e.IndexBuilt() | e.IndexExtended():
                step = self._open.get(("index", "")) or self._new_step("index", "", before)
                step.key, step.count, step.unit = event.key, event.rows, "rows"
                for ref in (event.artifact, event.blocks):
                    self._add_size(step, record, ref)
                self._finish_step("index", "", record, step)
            case e.CellEmbedded():
                step = self._open.get(("cells", "")) or self._begin_step("cells", "", before)
                step.unit, step.count = self._unit, step.count + event.embedded
                self._add_size(step, record, event.block)
                step.end, step.outcome = record, "done"
                name = f"{event.zoom}/{event.cell_x}/{event.cell_y}"
                for part in self._parts.pop(name, ()):
                    part.left.discard(name)
                    part.end = record if not part.left else None
            case _:
                assert_never(event)

    def _add_packs(
        self, before: DecodedRecord, record: DecodedRecord, event: e.TilesPacked | e.TilesCarried
    ) -> None:
        step = self._open.get(("packs", "")) or self._begin_step("packs", "", before)
        if isinstance(event, e.TilesPacked):
            self._add_size(step, record, event.pack)
            return
        step.count, step.unit = event.tiles, "tiles"
        self._add_size(step, record, event.table)
        self._finish_step("packs", "", record, step)

    def _add_failure(self, before: DecodedRecord, record: DecodedRecord, event: e.BuildFailed) -> None:
        kinds = [step for (kind, _), step in self._open.items() if kind == event.step]
        last = self._steps[-1] if self._steps else None
        if kinds:
            step = kinds[-1]
        elif event.step in {"inputs", "tiles", "plan", "start"} and ("plan", "") in self._open:
            step = self._open["plan", ""]
        elif last is not None and (last.kind, last.outcome) == (event.step, "failed"):
            step = last
        else:
            step = self._new_step(event.step, event.subject, before)
        step.outcome, step.end = "failed", record
        self._step_of[record.seq] = step

    def _is_idle(self) -> bool:
        """Return whether no step is running. Cells of which none is left are not running."""
        return all(
            kind == "cells" and not any(part.left for part in step.parts)
            for (kind, _), step in self._open.items()
        )

    def _next_kind(self, before: DecodedRecord) -> str:
        """Return the kind of step that a process was at when it died after `before`, between two steps."""
        match before.event:
            case e.CoverageWalked():
                return "commit"
            case e.TilesCarried():
                return "coverage"
            case e.EngineCompiled() | e.IndexBuilt() | e.IndexExtended():
                return "check"
            case e.CheckPassed(subject="index") | e.StepReused(kind="index"):
                return "coverage"
            case e.CheckPassed(check=kind) | e.StepReused(kind=kind) if kind == PROOF:
                return "coverage"
            case e.CellEmbedded() | e.StepReused(kind="cells"):
                return "index"
            case e.CheckPassed() | e.StepReused():
                return "cells"
            case _:
                return "plan"

    def _begin_step(self, kind: str, subject: str, record: DecodedRecord) -> Step:
        step = self._new_step(kind, subject, record)
        self._open[kind, subject] = step
        self._step_of[record.seq] = step
        return step

    def _new_step(self, kind: str, subject: str, record: DecodedRecord) -> Step:
        cells = self._open.get(("cells", ""))
        if cells is not None and kind != "cells" and not any(part.left for part in cells.parts):
            # No record says that the last cell is done; the next step does.
            del self._open["cells", ""]
        step = Step(kind=kind, subject=subject, begin=record)
        self._steps.append(step)
        return step

    def _add_whole_step(
        self,
        kind: str,
        subject: str,
        before: DecodedRecord,
        record: DecodedRecord,
        *,
        outcome: str = "done",
    ) -> Step:
        """Add a step that is recorded only at its end."""
        step = self._new_step(kind, subject, before)
        step.outcome, step.end = outcome, record
        self._step_of[record.seq] = step
        return step

    def _finish_step(self, kind: str, subject: str, record: DecodedRecord, step: Step | None = None) -> None:
        found = self._open.pop((kind, subject), None) or step
        if found is not None:
            found.outcome, found.end = "done", record
            self._step_of[record.seq] = found

    def _add_size(self, step: Step, record: DecodedRecord, ref: ArtifactRef) -> None:
        step.size += ref.size
        self._step_of[record.seq] = step
