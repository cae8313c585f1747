"""Carry out plans, one after the other: reads a plan a line from standard input, writes a result a line.

Started with the library of `shim.c` preloaded. What is slow is done once, before the first fork.
"""

import contextlib
import gc
import importlib.metadata
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.harness.plan import Plan, plan_of
from tests.crash.harness.salvage import salvage_in_forks
from tests.crash.harness.shim import Shim
from tests.crash.harness.sweep import Sweep
from tests.crash.harness.template import remove_tree

LIBRARY = "C10_TEST_CRASH_SHIM"
HEAVY, LIGHT = "heavy", "light"
ASKED_FOR = (
    *("c10", "faiss-cpu", "faiss-gpu", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
)
"""Distributions whose versions builders and readers ask for."""


def remembering(ask: Callable[[str], str]) -> Callable[[str], str]:
    """Ask for the version of each distribution once: the answer is searched in all that are installed."""
    known: dict[str, str | None] = {}

    def answer(name: str) -> str:
        if name not in known:
            try:
                known[name] = ask(name)
            except importlib.metadata.PackageNotFoundError:
                known[name] = None
        version = known[name]
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    for name in ASKED_FOR:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            answer(name)
    return answer


def prepare(kind: str) -> None:
    """Load what the writers of a kind need, and let children find out nothing that all of them would find out."""
    importlib.metadata.version = remembering(importlib.metadata.version)
    if kind == HEAVY:
        import faiss  # noqa: F401 - loaded once, before the first fork
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401

        import pipeline.build.steps  # noqa: F401
        import store.cache.own_records  # noqa: F401
        import tests.proven_builds  # noqa: F401
    salvage_in_forks()
    # A look at a quiet journal needs no pause for writers.
    pauses = [
        each for name, each in sys.modules.items() if name.startswith("journal.") and hasattr(each, "_IDLE_S")
    ]
    for module in pauses:
        module._IDLE_S = 0.0  # type: ignore[attr-defined]
    if not pauses:
        raise AssertionError("the pause of the journal's check has another name")
    # Children then copy fewer pages.
    gc.collect()
    gc.freeze()


def carry_out(plan: Plan, base: Path, shim: Shim) -> dict[str, Any]:
    """The result of a plan as a document, or a document that says how the rig itself broke down."""
    work = base / "work"
    work.mkdir()
    tempfile.tempdir = str(work)
    try:
        result = Sweep(plan, work, shim).run()
    except Exception:  # noqa: BLE001 - whoever asked for it is told
        return {"broken": traceback.format_exc()}
    finally:
        remove_tree(work)
    return result.document()


def main(kind: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    shared = Path("/dev/shm")
    folder = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    base = Path(tempfile.mkdtemp(prefix="c10-crash-", dir=folder))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        shim = Shim(os.environ[LIBRARY], base / "work" / "bench" / "cache")
        prepare(kind)
        while line := sys.stdin.readline():
            answers.write(json.dumps(carry_out(plan_of(json.loads(line)), base, shim)) + "\n")
            answers.flush()
    finally:
        remove_tree(base)


if __name__ == "__main__":
    main(sys.argv[1])
