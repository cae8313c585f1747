"""Describe a failure: for the report, from what a step raised; for the journal, with the inputs of the step.

Whoever investigates a failure has the journal, not the machine. So the journal keeps the tile as it was read,
the network, the window in which a worker died, free memory and free disk. They are collected after the
failure; what cannot be collected is left out, and the failure is recorded in any case. The stored bytes are
bounded and belong to the failed build under the names of `inputs["attached"]`, which `docs/replay.md` lists.
"""

import hashlib
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from journal import JournalError
from pipeline.build.host_facts import memory_facts
from pipeline.build.report import Failure
from pipeline.embed.cells import Window
from pipeline.embed.worker_messages import window_name
from pipeline.engines.models.model import Model
from pipeline.errors import ErrorKind as WorkErrorKind
from pipeline.errors import PipelineError
from pipeline.stages.context import BuildContext
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import unit_name
from pipeline.tiles.sources.read_tile import read_tile
from store.base import canonical_json
from store.base.identity import descriptor_id
from store.base.values import ArtifactRef
from store.domain import problem_lines
from store.domain.attachments import ATTACHED
from store.domain.events import BuildFailed
from store.domain.proof import PROOF, SUBJECT
from store.domain.state import STAND_IN
from store.errors import (
    Category,
    ErrorKind,
    ManifestCoverageError,
    StoreError,
    category_of,
    from_os_error,
    is_shortage,
)
from store.formats import tile_pack
from store.policy.retention import INTERRUPTED

MAX_BYTES: Final = 1 << 20
"""Largest tile or network that is stored."""

MAX_WINDOW_BYTES: Final = 1 << 24
"""Largest window that is stored."""

_MAX_LOCATORS: Final = 1 << 17
_MAX_RECORDED: Final = 1 << 19
"""Largest recorded inputs in bytes; a record has at most 1 MiB, and the traceback needs some of it."""

_SLASHES_OF_CHUNK: Final = 3
_TRACEBACK_LIMIT: Final = 16_384
_TEXT_LIMIT: Final = 32_768
_FAILURES_OF_A_STEP: Final = frozenset({Category.NO_GO, Category.INCOMPATIBLE, Category.INTERNAL})

_EXPECTED: Final = (OSError, JournalError, PipelineError, StoreError, ValueError)
"""Errors of collecting an input, which is then left out."""


def failure_of(error: BaseException, step: str, subject: str) -> Failure:
    """Describe an error that was raised at `step` while it worked on `subject`."""
    if isinstance(error, OSError):
        error = from_os_error(error, f"{step} {subject}".strip())
    if isinstance(error, PipelineError):
        step, subject = error.step or step, error.subject or subject
    kind, message, hint = _kind_message_hint(error)
    return Failure(
        kind=kind, category=_category(error), step=step, message=message, hint=hint, subject=subject
    )


def _kind_message_hint(error: BaseException) -> tuple[str, str, str]:
    match error:
        case PipelineError() | StoreError() | JournalError():
            return str(error.kind), error.message, error.hint
        case _ if is_shortage(error):
            detail = f": {error}" if str(error) else ""
            return (
                str(ErrorKind.RESOURCES),
                f"{type(error).__name__}: expected enough memory and threads for this step, found too few{detail}",
                "end other programs, or set fewer workers or a smaller batch, then run it again",
            )
        case KeyboardInterrupt() | SystemExit():
            return "interrupted", "interrupted", "run it again"
        case _:
            return "unexpected", f"{type(error).__name__}: {error}", "c10 show (has the traceback)"


def _category(error: BaseException) -> Category:
    """Return the category of a failure.

    A step that meets a NO-GO or an incompatible device has failed, and so has one that ran out of memory, or
    raised an unexpected error, whose traceback is in the journal.
    """
    category = category_of(error)
    if (
        category in _FAILURES_OF_A_STEP
        or isinstance(error, RecursionError)
        or is_shortage(error)
        or _is_shortage_of_library(error)
    ):
        return Category.BUILD_FAILED
    return category


def _is_shortage_of_library(error: BaseException) -> bool:
    return (
        isinstance(error, StoreError)
        and error.kind is ErrorKind.RESOURCES
        and not isinstance(error.__cause__, OSError | None)
    )


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
    """Return the inputs of the failed step to record, and store the bytes that belong to them.

    `run` is the build at the step that failed with `error`. Never raises an error itself.
    """
    found: dict[str, Any] = {"step": run.step, "subject": failure.subject}
    if failure.kind == INTERRUPTED:
        return found
    step = _FailedStep(run, error, failure)
    for collect in (
        *(step.machine, step.coverage, step.engine, step.network),
        *(step.index, step.tile, step.window),
    ):
        with suppress(*_EXPECTED):
            found.update(collect())
    if failure.kind != ErrorKind.DISK_FULL:
        stored = dict(step.store_attached())
        found.update({ATTACHED: stored} if stored else {})
    return _bounded(found)


@dataclass(slots=True)
class _FailedStep:
    """Collects the inputs of a failed step, each as an entry to record; `attached` holds bytes to store."""

    run: BuildContext
    error: BaseException
    failure: Failure
    attached: dict[str, bytes] = field(default_factory=dict)

    def machine(self) -> dict[str, Any]:
        disk = os.statvfs(self.run.store.layout.root)
        found: dict[str, Any] = {
            "disk": {"free": disk.f_bavail * disk.f_frsize, "total": disk.f_blocks * disk.f_frsize}
        }
        with suppress(*_EXPECTED, KeyError):
            found["memory"] = memory_facts()
        return found

    def coverage(self) -> dict[str, Any]:
        if self.run.geography is not None and self.failure.step == "coverage":
            self.attached["geography"] = self.run.geography.encoded()
        if self.run.proof is not None and self.failure.subject == SUBJECT:
            self.attached[PROOF] = self.run.proof
        if isinstance(self.error, ManifestCoverageError):
            return {"problems": problem_lines.shorten(self.error.problems)}
        return {}

    def engine(self) -> dict[str, Any]:
        """Return the engine in use: the one that is checked, or the one that embeds."""
        run = self.run
        if run.step not in {"cells", "check"}:
            return {}
        name = self.failure.subject if self.failure.subject in run.engines else self._embedding().spec.name
        used = run.stand_ins.get(name) or run.engines.get(name)
        if used is None:
            return {}
        return {"engine": {"model": used.model, "key": used.key, **_digest_and_size(used.artifact)}}

    def _embedding(self) -> Model:
        """Return the descriptor network that embeds, or the first one."""
        models = self.run.inputs.descriptors
        return next((model for model in models if model.spec.name == self.run.embedding), models[0])

    def network(self) -> dict[str, Any]:
        run, subject = self.run, self.failure.subject
        model = next((model for model in run.inputs.models if model.spec.name == subject), None)
        if self.failure.kind == WorkErrorKind.BAD_VECTORS:
            model = model or self._embedding()
        elif model is None or run.step not in {"engine", STAND_IN, "check"}:
            return {}
        if model.stand_in is not None and (run.step == STAND_IN or model.spec.name in run.stand_ins):
            model = model.stand_in
        data = _small_network(model)
        if data is not None:
            self.attached["network"] = data
        names = ("onnx", "backend", "version", "target", "precision", "batch")
        components = {name: model.components[name] for name in names if name in model.components}
        file = None if model.spec.builtin or model.fitted else str(model.job.onnx)
        return {
            "network": {
                **components,
                "model": model.spec.name,
                "key": model.key,
                "file": file or model.spec.onnx,
                "size": model.size,
            }
        }

    def index(self) -> dict[str, Any]:
        build = self.run.store.state.builds.get(self.run.number)
        if build is None or build.index is None or "index" not in {self.run.step, self.failure.subject}:
            return {}
        index = build.index
        return {
            "index": {
                "key": index.key,
                **_digest_and_size(index.artifact),
                "blocks": index.blocks.sha256,
                "rows": index.rows,
            }
        }

    def tile(self) -> dict[str, Any]:
        tiles, subject = self.run.inputs.selection.tiles, self.failure.subject
        tile = next((tile for tile in tiles if str(tile.place) == subject), None)
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
            self.attached["tile"] = data
        return {"tile": {**known, "found_sha256": hashlib.sha256(data).hexdigest(), "found_size": len(data)}}

    def window(self) -> dict[str, Any]:
        windows, subject = list(self.run.windows.values()), self.failure.subject
        window = next((window for window in windows if window_name(window) == subject), None)
        if window is None and subject == "" and len(windows) == 1:
            (window,) = windows
        window = window or _window_of_chunk(windows, subject)
        if window is None or self.run.step != "cells":
            return {}
        found: dict[str, Any] = {
            "number": window.number,
            "cells": list(window.subjects),
            "tiles": [[str(tile.place), tile.sha256, tile.size] for tile in window.tiles],
        }
        if window.shows_chunks:
            found["chunks"] = window.units.ids.tolist()
        locators = [list(tile.locator) for tile in window.tiles]
        if sum(len(str(part)) for locator in locators for part in locator) <= _MAX_LOCATORS:
            found["locators"] = locators
        pack = _pack(window)
        if pack:
            self.attached["window"] = pack
        return {"window": found}

    def store_attached(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Store the attached bytes; yield name and reference of each that could be stored."""
        for name, data in sorted(self.attached.items()):
            if len(data) > MAX_WINDOW_BYTES + MAX_BYTES:
                continue
            with suppress(*_EXPECTED):
                yield name, _digest_and_size(self.run.put(data))


def _window_of_chunk(windows: Sequence[Window], name: str) -> Window | None:
    """Return the part of a window that shows one chunk, given its name."""
    for window in windows if name.count("/") == _SLASHES_OF_CHUNK else ():
        for row in [row for row, each in enumerate(window.units.ids.tolist()) if unit_name(each) == name]:
            units = window.units.take(slice(row, row + 1))
            tiles = ShownTiles(window.tiles, window.tile_edges).under(units.ids)
            return replace(window, units=units, tiles=tiles)
    return None


def _digest_and_size(ref: ArtifactRef) -> dict[str, Any]:
    return {"sha256": ref.sha256, "size": ref.size}


def _small_network(model: Model) -> bytes | None:
    """Read the file of a network; None if it is large or incomplete, as with weights in other files."""
    if model.spec.builtin is not None or model.size > MAX_BYTES:
        return None
    try:
        data = model.fitted or model.job.onnx.read_bytes()
    except OSError:
        return None
    return data if len(data) == model.size else None


def _pack(window: Window) -> bytes:
    """Pack the tiles of a window that can still be read; empty if they are too many bytes."""
    if sum(tile.size for tile in window.tiles) > MAX_WINDOW_BYTES:
        return b""
    rows, size = list[tuple[int, bytes]](), 0
    for tile in window.tiles:
        try:
            data = read_tile(tile.locator)
        except _EXPECTED:
            continue
        size += len(data)
        if size > MAX_WINDOW_BYTES:
            return b""
        if data:
            rows.append((descriptor_id(tile.z, tile.x, tile.y), data))
    return tile_pack.encode(rows) if rows else b""


def _bounded(found: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs as escaped text, without the largest parts of a window if they are too long."""
    clean: dict[str, Any] = _escape_all(found)
    for name in ("locators", "tiles", "chunks", "cells"):
        if len(canonical_json.encode(clean)) <= _MAX_RECORDED:
            break
        if isinstance(clean.get("window"), dict):
            clean["window"].pop(name, None)
    return clean


def _escape_all(value: Any) -> Any:  # noqa: ANN401 - a tree of plain data
    match value:
        case str():
            return _escaped(value, _MAX_LOCATORS)
        case Mapping():
            return {name: _escape_all(inner) for name, inner in value.items()}
        case Sequence():
            return [_escape_all(inner) for inner in value]
        case _:
            return value


def _escaped(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Return the start of a text, with bytes that are not UTF-8 (of a file name) as escapes."""
    return text[:limit].encode("utf-8", "backslashreplace").decode("utf-8")
