"""What the child process that compiles a network is asked for, as a message."""

import dataclasses
import os
from pathlib import Path

from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.processes.framing import Message, Payload
from store.backports import Self
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class CompileRequest:
    """One network to be compiled by a child process.

    Attributes:
        job: What to compile.
        backend: The backend that compiles it.
        version: Version of the backend's library, which is in the engine's key; the child refuses another.
        engine: Where the child writes the engine.
    """

    job: EngineJob
    backend: str
    version: str
    engine: Path

    def to_message(self) -> Payload:
        """Return the request as plain data, with absolute paths."""
        job, profile, preprocessing = self.job, self.job.profile, self.job.preprocessing
        return {
            "backend": self.backend,
            "version": self.version,
            "engine": str(self.engine.absolute()),
            "job": {
                **{field.name: getattr(job, field.name) for field in dataclasses.fields(job)},
                "onnx": str(job.onnx.absolute()),
                "profile": profile and dataclasses.asdict(profile),
                "plugins": [[str(path.absolute()), digest] for path, digest in job.plugins],
                "preprocessing": preprocessing and preprocessing.to_document(),
            },
        }

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Return the request that `to_message` turned into plain data, with a path of the engine that libraries take."""
        job = message["job"]
        profile, preprocessing = job["profile"], job["preprocessing"]
        changed = {
            "onnx": Path(job["onnx"]),
            "sample_shape": tuple(job["sample_shape"]),
            "profile": profile and ShapeRange(**{name: tuple(sizes) for name, sizes in profile.items()}),
            "plugins": tuple((Path(path), digest) for path, digest in job["plugins"]),
            "preprocessing": preprocessing and Preprocessing.from_document(preprocessing),
        }
        engine = _utf8_path(Path(message["engine"]))
        return cls(**{**message, "job": EngineJob(**{**job, **changed}), "engine": engine})


def _utf8_path(path: Path) -> Path:
    """Return a path itself, or one in UTF-8 that holds in this process alone: libraries take no other.

    Raises:
        OSError: Its folder cannot be opened.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Path(f"/proc/self/fd/{os.open(path.parent, os.O_PATH)}") / path.name
    return path
