"""Describe an event in one line. Pure."""

from store.backports import assert_never
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.events import Event
from store.domain.proof import described, figures_of, is_proof
from store.errors import DamagedHistoryError
from tools.forensics.records import DecodedRecord
from tools.output.recorded_value import label_of, value_text
from tools.output.render import plural, seconds, size
from tools.output.sanitize import join_first, safe_text

_SHORT = 12


def describe(record: DecodedRecord) -> str:
    """Return what a record says, or why it is not understood."""
    if record.event is None:
        if record.problem:
            return f"cannot be read: {safe_text(record.problem, 300)}"
        return f"written by a later version: {safe_text(record.payload, 300)}"
    return safe_text(_describe_event(record.event), 600)


def _describe_event(event: Event) -> str:
    match event:
        case e.BuildCommitted() | e.BuildFailed() | e.BuildAbandoned() | e.BuildRefused() | e.BuildDenied():
            return _describe_ending(event)
        case e.EngineCompiled() | e.CellEmbedded() | e.IndexBuilt() | e.IndexExtended():
            return _describe_work(event)
        case e.StepStarted() | e.StepRetried() | e.TilesPacked() | e.TilesCarried():
            return _describe_work(event)
        case e.BuildStarted() | e.BuildPlanned() | e.TilesSelected() | e.StepReused() | e.CoverageWalked():
            return _describe_plan(event)
        case e.CheckPassed():
            return f"check {event.check} of {event.subject} passed{_measured(event)}"
        case e.CheckFailed():
            return f"check {event.check} of {event.subject} FAILED: {event.why}"
        case _:
            return _describe_upkeep(event)


def _describe_ending(
    event: e.BuildCommitted | e.BuildFailed | e.BuildAbandoned | e.BuildRefused | e.BuildDenied,
) -> str:
    match event:
        case e.BuildCommitted():
            signed = f", signed by {event.key_id}" if event.signature else ""
            return f"generation {event.generation} committed, shows build {event.origin}{signed}"
        case e.BuildFailed():
            return f"failed at {event.step} {event.subject}: {event.message}"
        case e.BuildAbandoned():
            return f"abandoned, it was at {event.step or 'its start'}: {event.reason}"
        case e.BuildRefused():
            return f"refused: {event.reason}"
        case e.BuildDenied():
            return f"a run waited {seconds(event.waited_ms / 1000)} for the build lock, in vain"
        case _:
            assert_never(event)


def _describe_work(
    event: e.EngineCompiled
    | e.CellEmbedded
    | e.Index
    | e.TilesPacked
    | e.TilesCarried
    | e.StepStarted
    | e.StepRetried,
) -> str:
    match event:
        case e.EngineCompiled():
            what = "" if event.purpose == "flight" else f" as {event.purpose}"
            took = seconds(event.elapsed_ms / 1000)
            return f"engine {event.model} compiled{what}: {size(event.artifact.size)} in {took}"
        case e.CellEmbedded():
            where = f"{event.zoom}/{event.cell_x}/{event.cell_y}"
            return f"cell {where}: {event.rows} rows, {event.embedded} embedded, {event.copied} copied"
        case e.IndexBuilt():
            took = seconds(event.elapsed_ms / 1000)
            return f"index {event.kind} built: {event.rows:,} rows, {size(event.artifact.size)} in {took}"
        case e.IndexExtended():
            took, changed = (
                seconds(event.elapsed_ms / 1000),
                f"{event.added:,} added, {event.dropped:,} left out",
            )
            return f"index {event.kind} extended: {event.rows:,} rows, {changed}, {size(event.artifact.size)} in {took}"
        case e.TilesPacked():
            where = f"{event.zoom}/{event.cell_x}/{event.cell_y}"
            return f"cell {where}: {plural(event.tiles, 'tile')} packed, {size(event.pack.size)}"
        case e.TilesCarried():
            return f"{plural(event.tiles, 'tile')} to be carried, {size(event.size)}"
        case e.StepStarted():
            return (
                f"{event.kind} begun: {join_first(event.subjects)}"
                if event.subjects
                else f"{event.kind} begun"
            )
        case e.StepRetried():
            return f"{event.kind} again, attempt {event.attempt} failed: {event.why} ({join_first(event.subjects)})"
        case _:
            assert_never(event)


def _describe_plan(
    event: e.BuildStarted | e.BuildPlanned | e.TilesSelected | e.StepReused | e.CoverageWalked,
) -> str:
    match event:
        case e.BuildStarted():
            name = event.inputs.get("flight_id")
            return f"build of {name!r} began" + (
                ", although it was rolled back from or is there" if event.again else ""
            )
        case e.BuildPlanned():
            steps = (
                " ".join(str(step[name]) for name in ("kind", "subject", "decision") if step.get(name))
                for step in event.steps
            )
            return f"planned: {join_first(steps, 6) or 'nothing'}"
        case e.TilesSelected():
            left = f", {event.excluded} left out" if event.excluded else ""
            return f"{plural(event.count, 'tile')} selected of {event.wanted:,} wanted{left}"
        case e.StepReused():
            return f"{plural(event.count, 'step')} reused: {event.kind}"
        case e.CoverageWalked():
            return f"{plural(event.files, 'file')} walked, {event.present:,} of {event.wanted:,} present"
        case _:
            assert_never(event)


def _describe_upkeep(
    event: e.CacheCreated
    | maintenance_events.RolledBack
    | maintenance_events.GenerationAccepted
    | maintenance_events.GenerationSigned
    | maintenance_events.CollectionPlanned
    | maintenance_events.Collected
    | maintenance_events.Repaired
    | maintenance_events.Imported,
) -> str:
    match event:
        case e.CacheCreated():
            return f"cache {event.cache_id[:_SHORT]} created by {event.writer}"
        case maintenance_events.RolledBack():
            return f"rolled back from build {event.left} to build {event.target}: {event.why or 'no reason given'}"
        case maintenance_events.GenerationAccepted():
            return f"generation {event.generation} accepted: {event.why or 'no reason given'}"
        case maintenance_events.GenerationSigned():
            return f"generation {event.generation} signed by {event.key_id}"
        case maintenance_events.CollectionPlanned():
            return f"{plural(len(event.digests), 'artifact')} about to be collected, {size(event.size)}"
        case maintenance_events.Collected():
            return f"{plural(len(event.digests), 'artifact')} collected, {size(event.size)}"
        case maintenance_events.Repaired():
            return f"{event.subject} {event.sha256[:_SHORT]}: {event.action}"
        case maintenance_events.Imported():
            return f"{plural(event.artifacts, 'artifact')} imported from {event.source}"
        case _:
            assert_never(event)


def _measured(event: e.CheckPassed) -> str:
    if is_proof(event):
        try:
            return f": {described(figures_of(event))}"
        except DamagedHistoryError:
            pass  # what no build writes is shown as it is
    shown = ", ".join(
        f"{label_of(name)} {value_text(name, value)}"
        for name, value in event.measured.items()
        if not isinstance(value, (list, tuple))
    )
    return f": {shown}" if shown else ""
