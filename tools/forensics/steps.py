"""The steps of one build, found in its events. Pure.

Some steps say when they begin; of the others it is known that they began after the record before. A step that was under
way when the records end is *cut*: its process died, or is still at work.
"""

from dataclasses import dataclass, field
from typing import assert_never

from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.state import STAND_IN
from tools.forensics.records import Moment


@dataclass(slots=True, kw_only=True)
class Part:
    """A window of cells that workers were given."""

    begun: Moment
    cells: tuple[str, ...]
    left: set[str]
    ended: Moment | None = None
    attempts: int = 1


@dataclass(slots=True, kw_only=True)
class Step:
    """A step under way or done; `begun` is the record after which its work began."""

    kind: str
    subject: str
    begun: Moment
    outcome: str = "cut"
    ended: Moment | None = None
    count: int = 0
    unit: str = ""
    size: int = 0
    key: str = ""
    parts: list[Part] = field(default_factory=list)
    artifacts: list[ArtifactRef] = field(default_factory=list)


class Walker:
    """Finds the steps in the events of one build."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._open: dict[tuple[str, str], Step] = {}
        self._parts: dict[str, Part] = {}
        self._of: dict[int, Step] = {}

    def finish(self, last: Moment | None = None) -> tuple[tuple[Step, ...], dict[int, int]]:
        """Return the steps, and record to index of its step; `last` is the last record of a build without an end."""
        if last is not None and self._idle():
            self._new(self._next(last), "", last)
        cells = self._open.get(("cells", ""))
        if cells is not None and cells.outcome == "done" and any(part.left for part in cells.parts):
            cells.outcome, cells.ended = "cut", None
        ordered = sorted(self._steps, key=lambda step: step.begun.seq)
        index = {id(step): place for place, step in enumerate(ordered)}
        return tuple(ordered), {seq: index[id(step)] for seq, step in self._of.items()}

    def take(self, before: Moment, moment: Moment) -> None:
        """Take the next record; `before` is the build's record before it."""
        event = moment.event
        match event:
            case e.BuildStarted():
                self._begin("plan", "", moment)
            case e.TilesSelected():
                plan = self._open.get(("plan", "")) or self._begin("plan", "", before)
                plan.count, plan.unit = event.count, "tiles"
                self._artifact(plan, moment, event.table)
            case e.BuildPlanned():
                self._close("plan", "", moment)
            case e.StepStarted():
                self._started(moment, event)
            case e.StepRetried():
                self._retried(moment, event)
            case e.StepReused():
                subject = next(iter(event.keys)) if event.kind != "index" and len(event.keys) == 1 else ""
                step = self._new(event.kind, subject, before)
                step.count, step.unit, step.outcome, step.ended = event.count, "steps", "reused", moment
                self._of[moment.seq] = step
            case e.EngineCompiled() | e.CellEmbedded() | e.IndexBuilt() | e.IndexExtended():
                self._made(before, moment, event)
            case e.CheckPassed() | e.CheckFailed():
                passed = isinstance(event, e.CheckPassed)
                step = self._new("check", event.subject, before)
                step.key, step.outcome, step.ended = event.key, "done" if passed else "failed", moment
                self._of[moment.seq] = step
            case _:
                self._ended(before, moment)

    def _ended(self, before: Moment, moment: Moment) -> None:
        match moment.event:
            case e.CoverageWalked() as event:
                step = self._new("coverage", "", before)
                step.count, step.unit, step.outcome, step.ended = event.files, "files", "done", moment
                step.artifacts.append(event.geography)
                step.size += event.geography.size
                self._of[moment.seq] = step
            case e.BuildCommitted():
                step = self._new("commit", "", before)
                step.outcome, step.ended = "done", moment
                self._of[moment.seq] = step
            case e.BuildFailed() as event:
                self._failed(before, moment, event)
            case e.BuildAbandoned():
                # Whatever was under way stays cut; the record itself was written by somebody else.
                if self._idle():
                    self._new(self._next(before), "", before)
            case _:
                pass

    def _started(self, moment: Moment, event: e.StepStarted) -> None:
        if event.kind != "cells":
            step = self._begin(event.kind, " ".join(event.subjects[:1]), moment)
            step.key = event.key
            return
        step = self._open.get(("cells", "")) or self._begin("cells", "", moment)
        step.key, step.unit = event.key, "tiles"
        part = Part(begun=moment, cells=event.subjects, left=set(event.subjects))
        step.parts.append(part)
        self._parts.update(dict.fromkeys(event.subjects, part))
        self._of[moment.seq] = step

    def _retried(self, moment: Moment, event: e.StepRetried) -> None:
        for part in {
            id(found): found for name in event.subjects if (found := self._parts.get(name))
        }.values():
            part.attempts += 1
        step = self._open.get((event.kind, ""))
        if step is not None:
            self._of[moment.seq] = step

    def _made(
        self, before: Moment, moment: Moment, event: e.EngineCompiled | e.CellEmbedded | e.Index
    ) -> None:
        match event:
            case e.EngineCompiled():
                kind = "engine" if event.purpose != STAND_IN else STAND_IN
                step = self._open.get((kind, event.model)) or self._new(kind, event.model, before)
                step.key = event.key
                self._artifact(step, moment, event.artifact)
                self._close(kind, event.model, moment, step)
            case e.IndexBuilt() | e.IndexExtended():
                step = self._open.get(("index", "")) or self._new("index", "", before)
                step.key, step.count, step.unit = event.key, event.rows, "rows"
                for ref in (event.artifact, event.blocks):
                    self._artifact(step, moment, ref)
                self._close("index", "", moment, step)
            case e.CellEmbedded():
                step = self._open.get(("cells", "")) or self._begin("cells", "", before)
                step.unit, step.count = "tiles", step.count + event.embedded
                self._artifact(step, moment, event.block)
                step.ended, step.outcome = moment, "done"
                name = f"{event.zoom}/{event.cell_x}/{event.cell_y}"
                part = self._parts.get(name)
                if part is not None:
                    part.left.discard(name)
                    part.ended = moment if not part.left else None
            case _:
                assert_never(event)

    def _failed(self, before: Moment, moment: Moment, event: e.BuildFailed) -> None:
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
        step.outcome, step.ended = "failed", moment
        self._of[moment.seq] = step

    def _idle(self) -> bool:
        """Whether nothing is known to be under way; cells that are all done are not."""
        return all(
            kind == "cells" and not any(part.left for part in step.parts)
            for (kind, _), step in self._open.items()
        )

    def _next(self, before: Moment) -> str:
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

    def _begin(self, kind: str, subject: str, moment: Moment) -> Step:
        step = self._new(kind, subject, moment)
        self._open[kind, subject] = step
        self._of[moment.seq] = step
        return step

    def _new(self, kind: str, subject: str, moment: Moment) -> Step:
        cells = self._open.get(("cells", ""))
        if cells is not None and kind != "cells" and not any(part.left for part in cells.parts):
            # Nobody says that the last cell is done; what comes next does.
            del self._open["cells", ""]
        step = Step(kind=kind, subject=subject, begun=moment)
        self._steps.append(step)
        return step

    def _close(self, kind: str, subject: str, moment: Moment, step: Step | None = None) -> None:
        found = self._open.pop((kind, subject), None) or step
        if found is not None:
            found.outcome, found.ended = "done", moment
            self._of[moment.seq] = found

    def _artifact(self, step: Step, moment: Moment, ref: ArtifactRef) -> None:
        step.size += ref.size
        step.artifacts.append(ref)
        self._of[moment.seq] = step
