"""An engine that stands for a GPU: it copies each batch as TensorRT's does, and then sleeps for a given time.

Run as a module, this is the product's worker with such an engine. Each run is written down: when it began and
ended, how many pictures it had, and how much processor time the worker had taken by then.
"""

import json
import time
from pathlib import Path

import numpy as np

from pipeline.embed import worker
from pipeline.processes.serve import serve
from store.runtime.backends.registry import BACKENDS, EngineBackend

BACKEND = "sleeping"


class Sleeping:
    """Computes nothing; the bytes of an engine are its settings as JSON, which `settings` returns."""

    def __init__(self, source, expected):
        found = json.loads(bytes(source))
        self.sample_shape, self.dimensions = tuple(found["sample_shape"]), 512
        self.takes_any_batch = False
        self._batch, self._seconds, self._log = expected.batch, found["seconds"], Path(found["log"])
        self._staging = np.empty((self._batch, *self.sample_shape), np.float32)

    def execute_all(self, samples, out):
        """Take so many seconds for each whole batch, and less only if the copy takes longer."""
        began = until = time.monotonic()
        for first in range(0, len(samples), self._batch):
            some = samples[first : first + self._batch]
            np.copyto(self._staging[: len(some)], some)
            # The copy of a batch runs beside the computing of the one before.
            until = max(until, time.monotonic() - self._seconds) + self._seconds
            time.sleep(max(0.0, until - time.monotonic()))
        out[:] = 1.0
        line = [began, time.monotonic(), len(samples), time.process_time()]
        with self._log.open("a", encoding="ascii") as log:
            log.write(json.dumps(line) + "\n")


class SleepingRuntime:
    """Runs such engines, everywhere."""

    load = Sleeping

    def version(self):
        return "1"

    def runs(self, target):
        return True

    def device(self):
        return "none"


def settings(log, *, sample_shape, seconds):
    """Return the bytes of an engine that takes some seconds for a batch and writes its runs to a file."""
    found = {"sample_shape": list(sample_shape), "seconds": seconds, "log": str(log)}
    return json.dumps(found).encode()


for ahead in (True, False):
    name = BACKEND if ahead else f"{BACKEND}-waiting"
    # A worker prepares batches ahead where the backend runs on a GPU.
    BACKENDS[name] = EngineBackend(  # type: ignore[index]
        name=name, compiler="", runtime=f"{__name__}:SleepingRuntime", packages=(), on_gpu=ahead
    )

if __name__ == "__main__":
    serve(worker.start)
