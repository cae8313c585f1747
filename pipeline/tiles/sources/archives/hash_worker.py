"""The worker process that hashes tiles of an archive; see `pipeline.tiles.sources.archives.hashing`."""

import importlib

from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve


def hash_task(request: Message, progress: Progress) -> Payload:
    """Answer a request: module and name of a function, and its arguments."""
    del progress
    module, function, arguments = request
    return list(getattr(importlib.import_module(module), function)(*arguments))


def start(first: Message) -> Handler:
    """Return the handler; there is nothing to load."""
    del first
    return hash_task


if __name__ == "__main__":
    serve(start)
