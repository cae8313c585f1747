"""The steps of one build, found in its events. Pure.

Some steps say when they begin; of the others it is known that they began after the record before. A step that was under
way when the records end is *cut*: its process died, or is still at work.
"""

from dataclasses import dataclass, field
from typing import assert_never

from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.state import STAND_IN
from tools.forensics.records import DecodedRecord


@dataclass(slots=True, kw_only=True)
class Part:
    """A window of cells that workers were given."""

    begin: DecodedRecord
    cells: tuple[str, ...]
    left: set[str]
    end: DecodedRecord | None = None
    attempts: int = 1


@dataclass(slots=True, kw_only=True)
class Step:
    """A step under way or done; `begin` is the record after which its work began."""

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
    artifacts: list[ArtifactRef] = field(default_factory=list)


class StepReconstructor:
    """Finds the steps in the events of one build."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._open: dict[tuple[str, str], Step] = {}
        self._parts: dict[str, Part] = {}
        self._of: dict[int, Step] = {}

    def finish(self, last: DecodedRecord | None = None) -> tuple[tuple[Step, ...], dict[int, int]]:
        """Return the steps, and record to index of its step; `last` is the last record of a build without an end."""
        if last is not None and self._idle():
            self._new(self._next(last), "", last)
        cells = self._open.get(("cells", ""))
        if cells is not None and cells.outcome == "done" and any(part.left for part in cells.parts):
            cells.outcome, cells.end = "cut", None
        ordered = sorted(self._steps, key=lambda step: step.begin.seq)
        index = {id(step): place for place, step in enumerate(ordered)}
        return tuple(ordered), {seq: index[id(step)] for seq, step in self._of.items()}

    def add(self, before: DecodedRecord, record: DecodedRecord) -> None:
        """Take the next record; `before` is the build's record before it."""
        event = record.event
        match event:
            case e.BuildStarted():
                self._begin("plan", "", record)
            case e.TilesSelected():
                plan = self._open.get(("plan", "")) or self._begin("plan", "", before)
                plan.count, plan.unit = event.count, "tiles"
                self._artifact(plan, record, event.table)
            case e.BuildPlanned():
                self._close("plan", "", record)
            case e.StepStarted():
                self._started(record, event)
            case e.StepRetried():
                self._retried(record, event)
            case e.StepReused():
                subject = next(iter(event.keys)) if event.kind != "index" and len(event.keys) == 1 else ""
                step = self._new(event.kind, subject, before)
                step.count, step.unit, step.outcome, step.end = event.count, "steps", "reused", record
                self._of[record.seq] = step
            case e.EngineCompiled() | e.CellEmbedded() | e.IndexBuilt() | e.IndexExtended():
                self._made(before, record, event)
            case e.CheckPassed() | e.CheckFailed():
                passed = isinstance(event, e.CheckPassed)
                step = self._new("check", event.subject, before)
                step.key, step.outcome, step.end = event.key, "done" if passed else "failed", record
                self._of[record.seq] = step
            case _:
                self._ended(before, record)

    def _ended(self, before: DecodedRecord, record: DecodedRecord) -> None:
        match record.event:
            case e.CoverageWalked() as event:
                step = self._new("coverage", "", before)
                step.count, step.unit, step.outcome, step.end = event.files, "files", "done", record
                step.artifacts.append(event.geography)
                step.size += event.geography.size
                self._of[record.seq] = step
            case e.BuildCommitted():
                step = self._new("commit", "", before)
                step.outcome, step.end = "done", record
                self._of[record.seq] = step
            case e.BuildFailed() as event:
                self._failed(before, record, event)
            case e.BuildAbandoned():
                # Whatever was under way stays cut; the record itself was written by somebody else.
                if self._idle():
                    self._new(self._next(before), "", before)
            case _:
                pass

    def _started(self, record: DecodedRecord, event: e.StepStarted) -> None:
        if event.kind != "cells":
            step = self._begin(event.kind, " ".join(event.subjects[:1]), record)
            step.key = event.key
            return
        step = self._open.get(("cells", "")) or self._begin("cells", "", record)
        step.key, step.unit = event.key, "tiles"
        part = Part(begin=record, cells=event.subjects, left=set(event.subjects))
        step.parts.append(part)
        self._parts.update(dict.fromkeys(event.subjects, part))
        self._of[record.seq] = step

    def _retried(self, record: DecodedRecord, event: e.StepRetried) -> None:
        for part in {
            id(found): found for name in event.subjects if (found := self._parts.get(name))
        }.values():
            part.attempts += 1
        step = self._open.get((event.kind, ""))
        if step is not None:
            self._of[record.seq] = step

    def _made(
        self, before: DecodedRecord, record: DecodedRecord, event: e.EngineCompiled | e.CellEmbedded | e.Index
    ) -> None:
        match event:
            case e.EngineCompiled():
                kind = "engine" if event.purpose != STAND_IN else STAND_IN
                step = self._open.get((kind, event.model)) or self._new(kind, event.model, before)
                step.key = event.key
                self._artifact(step, record, event.artifact)
                self._close(kind, event.model, record, step)
            case e.IndexBuilt() | e.IndexExtended():
                step = self._open.get(("index", "")) or self._new("index", "", before)
                step.key, step.count, step.unit = event.key, event.rows, "rows"
                for ref in (event.artifact, event.blocks):
                    self._artifact(step, record, ref)
                self._close("index", "", record, step)
            case e.CellEmbedded():
                step = self._open.get(("cells", "")) or self._begin("cells", "", before)
                step.unit, step.count = "tiles", step.count + event.embedded
                self._artifact(step, record, event.block)
                step.end, step.outcome = record, "done"
                name = f"{event.zoom}/{event.cell_x}/{event.cell_y}"
                part = self._parts.get(name)
                if part is not None:
                    part.left.discard(name)
                    part.end = record if not part.left else None
            case _:
                assert_never(event)

    def _failed(self, before: DecodedRecord, record: DecodedRecord, event: e.BuildFailed) -> None:
        kinds = [step for (kind, _), step in self._open.items() if kind == event.step]
        last = self._steps[-1] if self._steps else None
        if kinds:
            step = kinds[-1]
        elif event.step in {"inputs", "tiles", "plan", "start"} and ("plan", "") in self._open:
            step = self._open["plan", ""]
        elif last is not None and (last.kind, last.outcome) == (event.step, "failed"):
            step = last
        else:
            step = self._new(event.step, event.subject, before)
        step.outcome, step.end = "failed", record
        self._of[record.seq] = step

    def _idle(self) -> bool:
        """Whether nothing is known to be under way; cells that are all done are not."""
        return all(
            kind == "cells" and not any(part.left for part in step.parts)
            for (kind, _), step in self._open.items()
        )

    def _next(self, before: DecodedRecord) -> str:
        """What a process was at that died after a record between two steps."""
        match before.event:
            case e.CoverageWalked():
                return "commit"
            case e.EngineCompiled() | e.IndexBuilt() | e.IndexExtended():
                return "check"
            case e.CheckPassed(subject="index") | e.StepReused(kind="index"):
                return "coverage"
            case e.CellEmbedded() | e.StepReused(kind="cells"):
                return "index"
            case e.CheckPassed() | e.StepReused():
                return "cells"
            case _:
                return "plan"

    def _begin(self, kind: str, subject: str, record: DecodedRecord) -> Step:
        step = self._new(kind, subject, record)
        self._open[kind, subject] = step
        self._of[record.seq] = step
        return step

    def _new(self, kind: str, subject: str, record: DecodedRecord) -> Step:
        cells = self._open.get(("cells", ""))
        if cells is not None and kind != "cells" and not any(part.left for part in cells.parts):
            # Nobody says that the last cell is done; what comes next does.
            del self._open["cells", ""]
        step = Step(kind=kind, subject=subject, begin=record)
        self._steps.append(step)
        return step

    def _close(self, kind: str, subject: str, record: DecodedRecord, step: Step | None = None) -> None:
        found = self._open.pop((kind, subject), None) or step
        if found is not None:
            found.outcome, found.end = "done", record
            self._of[record.seq] = found

    def _artifact(self, step: Step, record: DecodedRecord, ref: ArtifactRef) -> None:
        step.size += ref.size
        step.artifacts.append(ref)
        self._of[record.seq] = step
