"""Turn TensorRT's error reports into messages that name operator, node and reason. Pure.

The library's own text about a node that it cannot take is at times just "false". So a message has operator,
node and code first and the library's text last.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pipeline.engines.onnx.declaration import bad_model
from pipeline.errors import CompileError, ErrorKind
from store.base.valueclass import valueclass

_MAX_NODES: Final = 12
"""Nodes that a message names; the log has all of them."""
_MAX_LINE: Final = 300
_MEMORY_SIGNS: Final = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "cudaerrormemoryallocation",
    "std::bad_alloc",
    "failed to allocate",
)
_NO_REASON: Final = frozenset({"", "false", "true"})
_NAME_CHARACTERS: Final = r"[\w./:#-]"


@valueclass(frozen=True, slots=True, kw_only=True)
class ParseError:
    """One error that the parser reports.

    Attributes:
        code: Its code, such as "UNSUPPORTED_NODE".
        operator: Operator of the node, empty when the error is about no node.
        node: Name of the node.
        text: The library's text.
        within: Functions of the model that contain the node, outermost first.
    """

    code: str
    operator: str
    node: str
    text: str
    within: tuple[str, ...] = ()

    def __str__(self) -> str:
        reason = "" if self.text.strip() in _NO_REASON else f" ({_one_line(self.text)})"
        where = f" in {' > '.join(self.within)}" if self.within else ""
        if not self.operator:
            return f"{self.code}{reason}"
        return f"operator {self.operator} at node {self.node!r}{where}: {self.code}{reason}"


def parse_failure(errors: Sequence[ParseError], *, library: str, model: str) -> CompileError:
    """Return the error for a network that the parser refused, with what it reported."""
    shown = "; ".join(str(error) for error in errors[:_MAX_NODES]) or "no reason"
    more = f"; and {len(errors) - _MAX_NODES} more" if len(errors) > _MAX_NODES else ""
    operators = sorted({error.operator for error in errors if error.operator})
    hint = (
        f"export the network without {', '.join(operators[:_MAX_NODES])}, name a library that has it as engine.plugins, or "
        'set engine.backend = "onnxruntime"'
        if operators
        else "export the network again; it must be ONNX that the library reads"
    )
    return bad_model(
        f"expected a network that {library} can compile, found {shown}{more}",
        hint,
        model,
    )


def build_failure(
    errors: Sequence[str], nodes: Mapping[str, str], *, library: str, model: str
) -> CompileError:
    """Return the error for a build that gave no engine.

    Args:
        errors: The errors that the library logged, oldest first.
        nodes: Operator of each node of the network, by name; the message names those that the log names.
        library: Its name and version.
        model: The network.
    """
    text = "; ".join(_one_line(line) for line in errors[-3:]) or "it gave no reason"
    if _is_out_of_memory(errors):
        return CompileError(
            f"expected an engine, found that the memory of the device or of this machine ran out: {text}",
            hint="free memory, or lower engine.workspace_mb or engine.batch",
            kind=ErrorKind.COMPILE_OUT_OF_MEMORY,
            subject=model,
        )
    named = named_nodes(errors, nodes)
    where = "".join(f"operator {nodes[name]} at node {name!r}; " for name in named[:_MAX_NODES])
    return CompileError(
        f"expected an engine, found that {library} could not build one: {where}{text}",
        hint='try another precision or a newer library, or set engine.backend = "onnxruntime"',
        kind=ErrorKind.COMPILE_FAILED,
        subject=model,
    )


def _is_out_of_memory(errors: Iterable[str]) -> bool:
    """Tell whether the library logged that memory ran out; it may then report a missing implementation."""
    return any(sign in line.lower() for line in errors for sign in _MEMORY_SIGNS)


def named_nodes(lines: Iterable[str], nodes: Mapping[str, str]) -> list[str]:
    """Return the names of nodes that occur in lines as whole words, in the order of the network."""
    text = "\n".join(lines).replace("...", " ")  # "{ForeignNode[first...last]}"
    words = set(re.findall(f"{_NAME_CHARACTERS}+", text))
    return [name for name in nodes if name in words or (" " in name and name in text)]


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_LINE else flat[: _MAX_LINE - 3] + "..."
