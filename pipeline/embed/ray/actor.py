"""What runs on a node of a Ray cluster: one actor, one engine, one thread.

Ray carries nothing but bytes for us: frames of `pipeline.processes.framing`, so that what crosses the network is the same plain
data as what crosses a pipe. The class is found by its name in the node's own installation; `software` is how a node
shows that this installation makes the same descriptors as the one that asks.
"""

import hashlib
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL

from pipeline.embed.worker import serve_engine
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import FrameReader, Message, Payload, encode
from pipeline.processes.serve import FAILED, FINISHED, Handler, Progress, describe_error
from pipeline.tiles import decode
from store.runtime.backends.registry import BACKENDS

_DECIDING: Final = (
    "pipeline.tiles.decode",
    "pipeline.tiles.image_header",
    "pipeline.builtin_model.place",
    "pipeline.embed.ray.actor",
    "pipeline.embed.worker",
    "store.base.preprocessing",
    "store.runtime",
)
"""Modules whose text decides over the bytes of a descriptor, beside those that execute engines."""


class TileEmbedder:
    """An actor that holds an engine. No method raises for a reason of ours: failures are answers."""

    def __init__(self) -> None:
        self._handler: Handler = _unloaded

    def node(self) -> bytes:
        """Return a frame: `FINISHED` and the id of the node that this runs on."""
        ray: Any = importlib.import_module("ray")
        return encode([FINISHED, ray.get_runtime_context().get_node_id()])

    def load(self, engine: bytes, setup: bytes) -> bytes:
        """Load the engine.

        Args:
            engine: Its bytes; those with another digest than the setup's are refused.
            setup: A frame: `pipeline.embed.batcher.worker_setup`, and under `software` what the asking side runs.

        Returns:
            A frame: `FINISHED` and None, or `FAILED` and what `pipeline.processes.serve.describe_error` tells.
        """
        try:
            first = decoded(setup)
            _check_software(first["software"])
            self._handler = serve_engine(engine, first)
        except Exception as error:  # noqa: BLE001 - every failure must reach the other side
            return encode([FAILED, describe_error(error)])
        return encode([FINISHED, None])

    def embed(self, request: bytes) -> bytes:
        """Embed one window.

        Args:
            request: A frame: for each tile its expected SHA-256 in hexadecimal and its encoded bytes.

        Returns:
            A frame: `FINISHED` and a pair, the seconds that it took here and the answer of
            `pipeline.embed.worker.Embedder.embed`; or `FAILED` as above.
        """
        began = time.monotonic()
        try:
            answer = self._handler(decoded(request), _silent)
            return encode([FINISHED, [time.monotonic() - began, answer]])
        except Exception as error:  # noqa: BLE001 - as above
            return encode([FAILED, describe_error(error)])


def software() -> Mapping[str, str]:
    """Return what decides over a descriptor besides the engine: versions, and a digest of this project's own part."""
    digest = hashlib.sha256()
    executing = (row.runtime.partition(":")[0] for row in BACKENDS.values())
    for name in (*_DECIDING, *executing):
        digest.update(Path(importlib.import_module(name).__file__ or "").read_bytes())
    return {
        "c10": digest.hexdigest(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": decode.fast_jpeg_version(),
    }


def decoded(frame: bytes) -> Message:
    """Return the message in one whole frame.

    Raises:
        FrameError: The bytes are no frame.
    """
    (message,) = FrameReader().feed(frame)
    return message


def _check_software(wanted: Mapping[str, str]) -> None:
    found = software()
    for name, value in wanted.items():
        if found.get(name) != value:
            raise EmbedError(
                f"expected {name} {value} on every node, as where the build runs, found {found.get(name)}",
                hint="install the same release of c10 and its libraries on every node",
                kind=ErrorKind.EMBED_FAILED,
            )


def _unloaded(_request: Message, _progress: Progress) -> Payload:
    raise RuntimeError("expected an engine to be loaded first, found none")


def _silent(_value: Payload) -> None:
    """Tell nobody: a window is short."""
