"""Jobs for the compilers of engines, and what they compile, on real networks."""

from pipeline.engines.onnx.file import onnx_digest
from pipeline.engines.port import EngineJob
from store.runtime.load import load_engine

SAMPLE = (3, 64, 64)


def job_of(folder, network, /, **fields):
    """A job for a network, which is written to the folder."""
    path = folder / "network.onnx"
    path.write_bytes(network if isinstance(network, bytes) else network.SerializeToString())
    return job_for(path, **fields)


def job_for(path, **fields):
    settings = {
        "model": "toy",
        "role": "descriptor",
        "onnx": path,
        "onnx_sha256": onnx_digest(path),
        "input": "input",
        "output": "descriptor",
        "sample_shape": SAMPLE,
        "target": "cpu",
    }
    return EngineJob(**(settings | fields))


def load_compiled(compiler, source, **changes):
    """Load an engine for this processor that a compiler made."""
    settings = {
        "backend": compiler.backend,
        "version": compiler.version,
        "target": compiler.target(None),
        "precision": "fp32",
        "input": "input",
        "output": "descriptor",
        "batch": 8,
    }
    return load_engine(source, **(settings | changes))


def reference(job):
    """What computes the descriptors of a job's network without an engine."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(job.onnx), providers=["CPUExecutionProvider"])
    return lambda samples: session.run(["descriptor"], {"input": samples})[0]
