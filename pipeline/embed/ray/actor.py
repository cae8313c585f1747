"""The actor on a node of a Ray cluster: one engine, one thread.

Ray carries only bytes: frames of `pipeline.processes.framing`, the same plain data that local workers get
through a pipe. A node imports this class from its own installation; `software` proves that this installation
gives the same descriptors as that of the build.
"""

import hashlib
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL

from pipeline.embed.worker import load_embedder
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.framing import FrameReader, Message, Payload, encode
from pipeline.processes.serve import FAILED, FINISHED, Handler, Progress, describe_error
from pipeline.tiles.images import decode
from store.runtime.backends.registry import BACKENDS

_DESCRIPTOR_MODULES: Final = (
    "pipeline.tiles.images.decode",
    "pipeline.tiles.images.image_header",
    "pipeline.builtin_model.place",
    "pipeline.embed.ray.actor",
    "pipeline.embed.samples",
    "pipeline.embed.worker",
    "pipeline.processes.run_ahead",
    "store.base.geometry.lattice",
    "store.base.geometry.mosaic",
    "store.base.preprocessing",
    "store.runtime",
)
"""Modules whose source decides the bytes of a descriptor, besides those that execute engines."""


class TileEmbedder:
    """An actor that holds an engine. Its methods return failures as answers and do not raise."""

    def __init__(self) -> None:
        self._handler: Handler = _refuse_unloaded

    def node(self) -> bytes:
        """Return a frame: `FINISHED` and the id of this actor's node."""
        ray: Any = importlib.import_module("ray")
        return encode([FINISHED, ray.get_runtime_context().get_node_id()])

    def load(self, engine: bytes, setup: bytes) -> bytes:
        """Load the engine.

        Args:
            engine: Its bytes; refused if their digest is not the setup's.
            setup: A frame: `pipeline.embed.worker_messages.worker_setup`, and under `software` that of the build.

        Returns:
            A frame: `FINISHED` and None, or `FAILED` and the error as
                `pipeline.processes.serve.describe_error` returns it.
        """
        try:
            first = decode_frame(setup)
            _check_software(first["software"])
            self._handler = load_embedder(engine, first).embed
        except Exception as error:  # noqa: BLE001 - every failure must reach the other side
            return encode([FAILED, describe_error(error)])
        return encode([FINISHED, None])

    def embed(self, request: bytes) -> bytes:
        """Embed one window.

        Args:
            request: A frame: for each tile its expected SHA-256 in hexadecimal and its encoded bytes.

        Returns:
            A frame: `FINISHED` with the seconds that it took here and the answer of
            `pipeline.embed.worker.Embedder.embed`; or `FAILED` as above.
        """
        began = time.monotonic()
        try:
            answer = self._handler(decode_frame(request), lambda _: None)
            return encode([FINISHED, [time.monotonic() - began, answer]])
        except Exception as error:  # noqa: BLE001 - as above
            return encode([FAILED, describe_error(error)])


def software() -> Mapping[str, str]:
    """Return what decides a descriptor besides the engine: library versions, and a digest of our own code."""
    digest = hashlib.sha256()
    executing = (row.runtime.partition(":")[0] for row in BACKENDS.values())
    for name in (*_DESCRIPTOR_MODULES, *executing):
        digest.update(Path(importlib.import_module(name).__file__ or "").read_bytes())
    return {
        "c10": digest.hexdigest(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": decode.fast_jpeg_version(),
    }


def decode_frame(frame: bytes) -> Message:
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


def _refuse_unloaded(_request: Message, _progress: Progress) -> Payload:
    raise RuntimeError("expected an engine to be loaded first, found none")
