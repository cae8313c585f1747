"""Messages that are made of TensorRT's error reports."""

import pytest

from pipeline.engines.backends.tensorrt_messages import ParseError, build_failure, named_nodes, parse_failure
from pipeline.errors import ErrorKind

NODES = {"stem/conv": "Conv", "stem/conv2": "Conv", "my norm": "LpNormalization"}


def complaint(**fields):
    return ParseError(
        **({"code": "UNSUPPORTED_NODE", "operator": "Det", "node": "d", "text": "false"} | fields)
    )


def test_every_refused_node_is_named_with_operator_and_code():
    error = parse_failure(
        [complaint(), complaint(operator="NetVLAD", node="v", code="INVALID_NODE", text="no\nplugin")],
        library="tensorrt 10.13.3.9",
        model="place",
    )
    assert error.kind is ErrorKind.BAD_MODEL
    assert "operator Det at node 'd': UNSUPPORTED_NODE; " in error.message
    assert "operator NetVLAD at node 'v': INVALID_NODE (no plugin)" in error.message
    assert "without Det, NetVLAD" in error.hint
    assert error.subject == "place"


def test_an_error_about_no_node_is_reported_too():
    error = parse_failure(
        [complaint(operator="", node="", code="MODEL_DESERIALIZE_FAILED", text="truncated")],
        library="x",
        model="m",
    )
    assert "MODEL_DESERIALIZE_FAILED (truncated)" in error.message
    assert "within" not in str(complaint())
    assert "in Outer > Inner: " in str(complaint(within=("Outer", "Inner")))
    assert "no reason" in parse_failure([], library="x", model="m").message


def test_long_lists_of_errors_are_cut():
    error = parse_failure([complaint(node=str(n)) for n in range(40)], library="x", model="m")
    assert "and 28 more" in error.message
    assert len(parse_failure([complaint(text="w " * 5000)], library="x", model="m").message) < 600


@pytest.mark.parametrize(
    "line",
    [
        "Error Code 2: OutOfMemory (Requested size was 1024 bytes.)",
        "Could not find any implementation for node stem/conv due to insufficient memory",
        "CUDA: out of memory",
    ],
)
def test_missing_memory_is_distinguished_from_missing_kernels(line):
    error = build_failure(["first", line], NODES, library="x", model="m")
    assert error.kind is ErrorKind.COMPILE_OUT_OF_MEMORY
    assert "workspace_mb" in error.hint


def test_a_failed_build_names_the_nodes_that_the_log_names():
    line = "Error Code 10: Could not find any implementation for node {ForeignNode[stem/conv...my norm]}."
    error = build_failure([line], NODES, library="x", model="m")
    assert error.kind is ErrorKind.COMPILE_FAILED
    assert "operator Conv at node 'stem/conv'; operator LpNormalization at node 'my norm'" in error.message
    assert "conv2" not in error.message
    assert named_nodes(["at stem/conv2"], NODES) == ["stem/conv2"]
    assert "it gave no reason" in build_failure([], NODES, library="x", model="m").message
