"""Every name of TensorRT that the product uses exists in every version that it promises to work with.

The Python bindings of a version can be had without its libraries. They load against a stub that exports the few C
functions which they look for; objects cannot be made then, but every class, method and constant can be looked up.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.contract.looked_up import MODULE, names_used

pytestmark = pytest.mark.contract

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")

ONLY_RTX = {
    (MODULE, "ComputeCapability"),
    ("ComputeCapability", "__members__"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("Runtime", "get_engine_validity"),
    (MODULE, "EngineValidity"),
    ("EngineValidity", "INVALID"),
    (MODULE, "EngineInvalidityDiagnostics"),
    (MODULE, "DynamicShapesKernelSpecializationStrategy"),
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("EngineInvalidityDiagnostics", "__members__"),
}
"""Names that the product asks for before it uses them, and that TensorRT for RTX alone has."""

NOT_IN_10_3 = {
    ("ICudaEngine", "create_runtime_config"),
    ("ICudaEngine", "create_execution_context", "runtime_config"),
}
"""Names that TensorRT got after 10.3, of JetPack 6. They set what `ONLY_RTX` names, and are used only where that is."""

OLD = {("ICudaEngine", "device_memory_size")}
"""Names that the product uses only where their successor is missing."""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder with stub libraries of a major version."""
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in FUNCTIONS))

    def of(major):
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source]
            subprocess.run(command, check=True)
        return folder

    return of


def missing(module, **environment):
    found = subprocess.run(
        [sys.executable, Path(__file__).with_name("missing_names.py"), module],
        input=json.dumps(names_used()),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    return answer["version"], {tuple(each) for each in answer["missing"]}


def test_the_source_is_understood():
    used = {(kind, name) for kind, name, _ in names_used()}
    assert used >= {
        (MODULE, "OnnxParser"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("BuilderFlag", "TF32"),
        ("ParserError", "node_operator"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("Severity", "INTERNAL_ERROR"),
    }
    assert used >= ONLY_RTX | OLD
    assert {(kind, name, *keywords) for kind, name, keywords in names_used()} >= NOT_IN_10_3
    assert ("IBuilderConfig", "set_timing_cache", ("ignore_mismatch",)) in names_used()


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_has_every_name(version, stubs, tmp_path):
    if version == "10.3.0" and sys.version_info >= (3, 13):
        pytest.skip("TensorRT 10.3 has no wheels for Python 3.13")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path]
    subprocess.run([*command, f"tensorrt-cu12-bindings=={version}"], check=True)
    libraries = stubs(version.partition(".")[0])
    found, lacking = missing("tensorrt_bindings", PYTHONPATH=str(tmp_path), LD_LIBRARY_PATH=str(libraries))
    assert found == version
    assert lacking - OLD == ONLY_RTX | (NOT_IN_10_3 if version == "10.3.0" else set())


def test_tensorrt_for_rtx_has_every_name():
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs TensorRT for RTX: pip install 'c10[rtx]'")
    assert missing("tensorrt_rtx")[1] - OLD == set()
