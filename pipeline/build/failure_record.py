"""What is reported and recorded of a failure: from whatever a step raised, and from what the step worked on.

Whoever looks into a failure has the journal, not the machine: the tile as it lay there, the network, the window in which
a worker died, how much memory and disk was left. All of it is gathered after the failure and may fail itself, in which
case it is left out: the failure that it explains is recorded in any case. What is stored is bounded, and belongs to the
failed build under the names of `inputs["attached"]`. The table of names is in `docs/replay.md`.
"""

import hashlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from journal import JournalError
from pipeline.build.report import Failure
from pipeline.embed.batcher import window_name
from pipeline.embed.cells import Window
from pipeline.engines.models.model import Model
from pipeline.errors import ErrorKind as WorkErrorKind
from pipeline.errors import PipelineError
from pipeline.stages.context import BuildContext
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator, SourceTile
from store.base import canonical_json
from store.base.identity import descriptor_id
from store.domain.attachments import ATTACHED
from store.domain.events import BuildFailed, EngineCompiled
from store.domain.state import STAND_IN
from store.errors import (
    Category,
    ErrorKind,
    ManifestCoverageError,
    StoreError,
    category_of,
    from_os_error,
    lacks_threads,
)
from store.formats import tile_pack
from store.policy.retention import INTERRUPTED

MAX_BYTES: Final = 1 << 20
"""Longest tile or network that is kept."""

MAX_WINDOW_BYTES: Final = 1 << 24
"""Longest window that is kept."""

_MAX_PROBLEMS: Final = 100
_MAX_LOCATORS: Final = 1 << 17
_MAX_RECORDED: Final = 1 << 19
"""Bytes of what is recorded; a record has at most 1 MiB, and a traceback takes its part."""

_TRACEBACK_LIMIT: Final = 16_384
_TEXT_LIMIT: Final = 32_768
_OF_A_STEP: Final = frozenset({Category.NO_GO, Category.INCOMPATIBLE, Category.INTERNAL})

_EXPECTED: Final = (OSError, JournalError, PipelineError, StoreError, ValueError)
"""What gathering may meet and leave out."""


def failure_of(error: BaseException, step: str, subject: str) -> Failure:
    """Return what a report says of an error, raised at `step` while it worked on `subject`."""
    if isinstance(error, OSError):
        error = from_os_error(error, f"{step} {subject}".strip())
    if isinstance(error, PipelineError):
        step, subject = error.step or step, error.subject or subject
    kind, message, hint = _described(error)
    return Failure(
        kind=kind, category=_category(error), step=step, message=message, hint=hint, subject=subject
    )


def _described(error: BaseException) -> tuple[str, str, str]:
    """Return kind, message and hint of an error."""
    match error:
        case PipelineError() | StoreError() | JournalError():
            return str(error.kind), error.message, error.hint
        case MemoryError():
            told = f": {error}" if str(error) else ""
            return (
                str(ErrorKind.RESOURCES),
                f"MemoryError: expected enough memory for this step, found none left{told}",
                "end other programs, or set fewer workers or a smaller batch, then run it again",
            )
        case KeyboardInterrupt() | SystemExit():
            return "interrupted", "interrupted", "run it again"
        case _:
            return "unexpected", f"{type(error).__name__}: {error}", "c10 show (has the traceback)"


def _category(error: BaseException) -> Category:
    """Return the category of a failure.

    What would be a NO-GO, or unfit, for somebody who looks at a cache is a failure of the step that met it; so is
    a step that memory did not suffice for, and an error that nobody foresaw, whose traceback is in the journal.
    """
    category = category_of(error)
    if category in _OF_A_STEP or isinstance(error, (MemoryError, RecursionError)) or lacks_threads(error):
        return Category.BUILD_FAILED
    return category


def failed_event(failure: Failure, error: BaseException, inputs: Mapping[str, object]) -> BuildFailed:
    """Return the event that records a failure, with its traceback."""
    trace = "".join(traceback.format_exception(error))
    return BuildFailed(
        step=failure.step,
        kind=failure.kind,
        subject=_escaped(failure.subject),
        message=_escaped(failure.message),
        hint=_escaped(failure.hint),
        traceback=_escaped(trace[-_TRACEBACK_LIMIT:]),
        inputs={name: _escaped(value) if isinstance(value, str) else value for name, value in inputs.items()},
    )


def failing_inputs(run: BuildContext, error: BaseException, failure: Failure) -> dict[str, Any]:
    """Return what the journal is to hold of a failed step's inputs; stores what is attached. Never raises an error.

    Args:
        run: The build, at the step that failed.
        error: What was raised.
        failure: What is reported of it.
    """
    found: dict[str, Any] = {"step": run.step, "subject": failure.subject}
    if failure.kind == INTERRUPTED:
        return found
    attached: dict[str, bytes] = {}
    for gather in (_machine, _coverage, _engine, _network, _index, _tile, _window):
        try:
            found.update(gather(run, error, failure, attached))
        except _EXPECTED:
            continue
    if failure.kind != ErrorKind.DISK_FULL:
        stored = dict(_stored(run, attached))
        found.update({ATTACHED: stored} if stored else {})
    return _bounded(found)


def _machine(
    run: BuildContext, _error: BaseException, _failure: Failure, _attached: dict[str, bytes]
) -> dict[str, Any]:
    disk = os.statvfs(run.store.layout.root)
    found: dict[str, Any] = {
        "disk": {"free": disk.f_bavail * disk.f_frsize, "total": disk.f_blocks * disk.f_frsize}
    }
    memory = dict(_memory())
    return {**found, "memory": memory} if memory else found


def _memory() -> Iterator[tuple[str, int]]:
    names = {"MemAvailable": "available", "MemTotal": "total"}
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - a pseudo file
        for line in lines:
            name, _, rest = line.partition(":")
            if name in names:
                yield names[name], int(rest.split()[0]) * 1024


def _coverage(
    run: BuildContext, error: BaseException, failure: Failure, attached: dict[str, bytes]
) -> dict[str, Any]:
    if run.geography is not None and failure.step == "coverage":
        attached["geography"] = run.geography.encoded()
    if isinstance(error, ManifestCoverageError):
        return {"problems": [problem[:500] for problem in error.problems[:_MAX_PROBLEMS]]}
    return {}


def _engine(
    run: BuildContext, _error: BaseException, failure: Failure, _attached: dict[str, bytes]
) -> dict[str, Any]:
    """The engine in use: the one that was checked, or the one that embeds."""
    if run.step not in {"cells", "check"}:
        return {}
    used = run.engines.get(failure.subject) or run.engines.get(run.inputs.descriptor.spec.name)
    if run.stand_in is not None and (used is None or used.model == run.stand_in.model):
        used = run.stand_in
    return {"engine": _of_engine(used)} if used else {}


def _of_engine(event: EngineCompiled) -> dict[str, Any]:
    artifact = event.artifact
    return {"model": event.model, "key": event.key, "sha256": artifact.sha256, "size": artifact.size}


def _network(
    run: BuildContext, _error: BaseException, failure: Failure, attached: dict[str, bytes]
) -> dict[str, Any]:
    model = next((model for model in run.inputs.models if model.spec.name == failure.subject), None)
    if failure.kind == WorkErrorKind.BAD_VECTORS:
        model = run.inputs.descriptor
    elif model is None or run.step not in {"engine", STAND_IN, "check"}:
        return {}
    if model.stand_in is not None and (run.step == STAND_IN or run.stand_in is not None):
        model = model.stand_in
    data = _small_network(model)
    if data is not None:
        attached["network"] = data
    names = ("onnx", "backend", "version", "target", "precision", "batch")
    components = {name: model.components[name] for name in names if name in model.components}
    file = None if model.spec.builtin else str(model.job.onnx)
    return {
        "network": {
            **components,
            "model": model.spec.name,
            "key": model.key,
            "file": file or model.spec.onnx,
            "size": model.size,
        }
    }


def _small_network(model: Model) -> bytes | None:
    """The file of a network, if it is small and whole: weights in other files are not kept."""
    if model.spec.builtin is not None or model.size > MAX_BYTES:
        return None
    try:
        data = model.job.onnx.read_bytes()
    except OSError:
        return None
    return data if len(data) == model.size else None


def _index(
    run: BuildContext, _error: BaseException, failure: Failure, _attached: dict[str, bytes]
) -> dict[str, Any]:
    build = run.store.state.builds.get(run.number)
    if build is None or build.index is None or "index" not in {run.step, failure.subject}:
        return {}
    built = build.index
    return {
        "index": {
            "key": built.key,
            "sha256": built.artifact.sha256,
            "size": built.artifact.size,
            "blocks": built.blocks.sha256,
            "rows": built.rows,
        }
    }


def _tile(
    run: BuildContext, _error: BaseException, failure: Failure, attached: dict[str, bytes]
) -> dict[str, Any]:
    tile = next((tile for tile in run.inputs.selection.tiles if str(tile.place) == failure.subject), None)
    if tile is None:
        return {}
    known: dict[str, Any] = {
        "place": str(tile.place),
        "sha256": tile.sha256,
        "size": tile.size,
        "locator": list(tile.locator),
    }
    try:
        data = read_tile(tile.locator)
    except _EXPECTED as error:
        return {"tile": {**known, "unreadable": str(error)}}
    if len(data) <= MAX_BYTES:
        attached["tile"] = data
    return {"tile": {**known, "found_sha256": hashlib.sha256(data).hexdigest(), "found_size": len(data)}}


def _window(
    run: BuildContext, _error: BaseException, failure: Failure, attached: dict[str, bytes]
) -> dict[str, Any]:
    window = next((window for window in run.windows.values() if window_name(window) == failure.subject), None)
    if window is None and failure.subject == "" and len(run.windows) == 1:
        (window,) = run.windows.values()
    if window is None or run.step != "cells":
        return {}
    found: dict[str, Any] = {
        "number": window.number,
        "cells": list(window.subjects),
        "tiles": [[str(tile.place), tile.sha256, tile.size] for tile in window.tiles],
    }
    locators = [list(tile.locator) for tile in window.tiles]
    if sum(len(str(part)) for locator in locators for part in locator) <= _MAX_LOCATORS:
        found["locators"] = locators
    pack = _pack(window)
    if pack:
        attached["window"] = pack
    return {"window": found}


def _pack(window: Window, read: Callable[[Locator], bytes] = read_tile) -> bytes:
    """The tiles of a window as they can still be read, or nothing if they are too many bytes."""
    if sum(tile.size for tile in window.tiles) > MAX_WINDOW_BYTES:
        return b""
    rows, size = list[tuple[int, bytes]](), 0
    for tile in window.tiles:
        data = _readable(tile, read)
        size += len(data)
        if size > MAX_WINDOW_BYTES:
            return b""
        if data:
            rows.append((descriptor_id(tile.z, tile.x, tile.y), data))
    return tile_pack.encode(rows) if rows else b""


def _readable(tile: SourceTile, read: Callable[[Locator], bytes]) -> bytes:
    try:
        return read(tile.locator)
    except _EXPECTED:
        return b""


def _stored(run: BuildContext, attached: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, data in sorted(attached.items()):
        if len(data) > MAX_WINDOW_BYTES + MAX_BYTES:
            continue
        try:
            ref = run.put(data)
        except _EXPECTED:
            continue
        yield name, {"sha256": ref.sha256, "size": ref.size}


def _bounded(found: dict[str, Any]) -> dict[str, Any]:
    """The same as text that a record can hold, without its largest parts if it is too long."""
    clean: dict[str, Any] = _text(found)
    for name in ("locators", "tiles", "cells"):
        if len(canonical_json.encode(clean)) <= _MAX_RECORDED:
            break
        if isinstance(clean.get("window"), dict):
            clean["window"].pop(name, None)
    return clean


def _text(value: Any) -> Any:  # noqa: ANN401 - a tree of plain data
    """The same tree, with every text in it escaped."""
    match value:
        case str():
            return _escaped(value, _MAX_LOCATORS)
        case Mapping():
            return {name: _text(inner) for name, inner in value.items()}
        case Sequence():
            return [_text(inner) for inner in value]
        case _:
            return value


def _escaped(text: str, limit: int = _TEXT_LIMIT) -> str:
    """The start of a text, with what UTF-8 cannot hold (bytes of a file name) written as escapes."""
    return text[:limit].encode("utf-8", "backslashreplace").decode("utf-8")
