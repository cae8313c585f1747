"""The reference for engines: ONNX Runtime on the network as it was given."""

import numpy as np

from pipeline.engines.onnx.file import read_onnx
from pipeline.engines.port import EngineJob
from store.runtime.backends.onnxruntime import onnxruntime
from store.runtime.golden_vectors import Run, Vectors
from store.runtime.load import EngineLoadError, EngineRunError


def reference_run(job: EngineJob) -> Run:
    """Return a function from samples, float32 [n, ...], to descriptors, float32 [n, d]; nothing is optimised.

    The library gets the bytes that the engine's key names, weights included, and opens no file itself.

    Raises:
        CompileError: BAD_MODEL, the network is no longer the one that was compiled.
        RuntimeUnavailableError: ONNX Runtime is not installed.
        EngineLoadError: It refuses the network.
    """
    runtime = onnxruntime(f"the reference of {job.model}")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    network = read_onnx(job.onnx, expected_sha256=job.onnx_sha256).SerializeToString()
    try:
        session = runtime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises a private class per status code
        raise EngineLoadError(f"expected ONNX Runtime to load {job.model}, found: {error}") from error
    fixed = session.get_inputs()[0].shape[0]

    def run(samples: Vectors) -> Vectors:
        size = fixed if isinstance(fixed, int) else 1
        rows = []
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            padded = np.zeros((size, *samples.shape[1:]), np.float32)
            padded[: len(chunk)] = chunk
            try:
                (answer,) = session.run([job.output], {job.input: padded})
            except Exception as error:  # the library raises a private class per status code
                raise EngineRunError(f"ONNX Runtime failed on {job.model}: {error}") from error
            rows.append(np.asarray(answer, np.float32)[: len(chunk)])
        return np.concatenate(rows)

    return run
