"""Which batch an engine is compiled for where the request names none."""

import pytest

from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.models.network import inspect_models
from pipeline.request.options import EngineOptions
from tests.ground import SIDES
from tests.small_builds import Site, tiny_network


class OfAnotherName(OnnxRuntimeCompiler):
    def __init__(self, backend):
        self._name = backend

    @property
    def backend(self):
        return self._name


def job_of(tmp_path, backend, **fields):
    site = Site(tmp_path)
    site.write("net.onnx", tiny_network(batch="N"))
    request = site.request(**fields)
    (model,) = inspect_models(request, OfAnotherName(backend), None)
    return model.job


@pytest.mark.parametrize(
    ("backend", "fields", "batch", "single"),
    [
        ("onnxruntime", {}, 8, False),
        ("onnxruntime", {"chunks": SIDES}, 8, True),
        ("openvino", {}, 8, False),
        ("openvino", {"chunks": SIDES}, 1, False),
        ("openvino", {"chunks": SIDES, "engine": EngineOptions(batch=8)}, 8, True),
        ("onnxruntime", {"chunks": SIDES, "engine": EngineOptions(batch=1)}, 1, False),
    ],
)
def test_a_frame_of_a_flight_costs_a_frame(tmp_path, backend, fields, batch, single):
    job = job_of(tmp_path, backend, **fields)
    assert (job.batch, job.single) == (batch, single)
