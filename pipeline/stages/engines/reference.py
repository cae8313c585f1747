"""The reference for engines: ONNX Runtime on the network as it was given, products of 8-bit integers in floats."""

from collections.abc import Sequence

import numpy as np

from pipeline.engines.backends.onnxruntime_messages import refuse_newer
from pipeline.engines.onnx.declaration import EXPORT_HINT
from pipeline.engines.onnx.eight_bit import rewrite_integer_products
from pipeline.engines.onnx.file import read_onnx
from pipeline.engines.port import EngineJob
from store.runtime.backends.onnxruntime import onnxruntime
from store.runtime.golden_vectors import Vectors
from store.runtime.load import EngineLoadError, EngineRunError


class BadShapeError(EngineRunError):
    """The network's answer is no list of descriptors."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(
            f"expected a descriptor output of float [N,D], found {[*shape]} in a run, which the network does not declare",
            hint=EXPORT_HINT,
        )


class FixedBatchError(EngineRunError):
    """The network gives another number of descriptors than it got images; `rows` is what it gives."""

    def __init__(self, rows: int, images: int) -> None:
        super().__init__(
            f"expected a descriptor for each of {images} images, found {rows}: the network fixes its batch inside",
            hint=f"set engine.batch = {rows}, or export the network with an open batch",
        )
        self.rows = rows


class Reference:
    """A network in ONNX Runtime; nothing is optimised.

    The library gets the bytes that the engine's key names, weights included, and opens no file itself.
    """

    def __init__(self, job: EngineJob) -> None:
        """Load the network.

        Raises:
            CompileError: BAD_MODEL, the network is no longer the one that was compiled, has an operator that
                processors compute differently, or is newer than the library.
            RuntimeUnavailableError: ONNX Runtime is not installed.
            EngineLoadError: It refuses the network.
        """
        runtime = onnxruntime(f"the reference of {job.model}")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        model = rewrite_integer_products(read_onnx(job.onnx, expected_sha256=job.onnx_sha256), job.model)
        network = model.SerializeToString()
        try:
            session = runtime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises a private class per status code
            refuse_newer(str(error), runtime.__version__, job.model)
            raise EngineLoadError(f"expected ONNX Runtime to load {job.model}, found: {error}") from error
        found = session.get_inputs()[0].shape[0]
        self.fixed_batch = found if isinstance(found, int) and found > 0 else None
        self._session, self._job = session, job

    def run(self, samples: Vectors) -> Vectors:
        """Return descriptors, float32 [n, d], of samples, float32 [n, ...], one after the other if it can.

        Raises:
            EngineRunError: The library failed.
        """
        try:
            return self.run_together(samples, self.fixed_batch or 1)
        except BadShapeError:
            raise
        except EngineRunError:
            # The network may fix a batch that it does not declare.
            if self.fixed_batch or self._job.batch == 1:
                raise
            return self.run_together(samples, self._job.batch)

    def run_together(self, samples: Vectors, batch: int) -> Vectors:
        """Return descriptors of samples that are run in batches; the last one is filled up with zeros.

        Raises:
            BadShapeError: The answer has not two dimensions.
            FixedBatchError: The answer has another number of rows.
            EngineRunError: The library failed.
        """
        job, rows = self._job, []
        for start in range(0, len(samples), batch):
            chunk = samples[start : start + batch]
            padded = np.zeros((batch, *samples.shape[1:]), np.float32)
            padded[: len(chunk)] = chunk
            try:
                (answer,) = self._session.run([job.output], {job.input: padded})
            except Exception as error:  # the library raises a private class per status code
                raise EngineRunError(f"ONNX Runtime failed on {job.model}: {error}") from error
            if answer.ndim != 2:
                raise BadShapeError(answer.shape)
            if len(answer) != batch:
                raise FixedBatchError(len(answer), batch)
            rows.append(np.asarray(answer, np.float32)[: len(chunk)])
        return np.concatenate(rows)
