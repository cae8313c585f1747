"""Turns what TensorRT says into what a person needs: which operator of which node, and why. Pure.

The library's own words for a node that it cannot take are at times just "false". So a message is made of operator, node
and code first, and of the library's words last.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import CompileError, ErrorKind

_MOST: Final = 12
"""Nodes that a message names; the log has all of them."""
_LINE_LIMIT: Final = 300
_MEMORY_SIGNS: Final = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "cudaerrormemoryallocation",
    "std::bad_alloc",
    "failed to allocate",
)
_UNTOLD: Final = frozenset({"", "false", "true"})
_NAME_CHARACTERS: Final = r"[\w./:#-]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseError:
    """One complaint of the parser.

    Attributes:
        code: Its code, such as "UNSUPPORTED_NODE".
        operator: Operator of the node, empty when the complaint is about no node.
        node: Name of the node.
        text: What the library says.
        within: Functions of the model that the node lies in, outermost first.
    """

    code: str
    operator: str
    node: str
    text: str
    within: tuple[str, ...] = ()

    def __str__(self) -> str:
        reason = "" if self.text.strip() in _UNTOLD else f" ({_one_line(self.text)})"
        where = f" in {' > '.join(self.within)}" if self.within else ""
        if not self.operator:
            return f"{self.code}{reason}"
        return f"operator {self.operator} at node {self.node!r}{where}: {self.code}{reason}"


def parse_failure(errors: Sequence[ParseError], *, library: str, model: str) -> CompileError:
    """Return the failure of a network that the parser refused, with every complaint."""
    shown = "; ".join(str(error) for error in errors[:_MOST]) or "no reason told"
    more = f"; and {len(errors) - _MOST} more" if len(errors) > _MOST else ""
    operators = sorted({error.operator for error in errors if error.operator})
    hint = (
        f"export the network without {', '.join(operators[:_MOST])}, name a library that has it as engine.plugins, or "
        'set engine.backend = "onnxruntime"'
        if operators
        else "export the network again; it must be ONNX that the library reads"
    )
    return CompileError(
        f"expected a network that {library} can compile, found {shown}{more}",
        hint=hint,
        kind=ErrorKind.BAD_MODEL,
        subject=model,
    )


def build_failure(said: Sequence[str], nodes: Mapping[str, str], *, library: str, model: str) -> CompileError:
    """Return the failure of a build that gave nothing.

    Args:
        said: What the library logged as errors, oldest first.
        nodes: Operator of each node of the network, by name; those that the log names are blamed.
        library: Its name and version.
        model: The network.
    """
    text = "; ".join(_one_line(line) for line in said[-3:]) or "it gave no reason"
    if is_out_of_memory(said):
        return CompileError(
            f"expected an engine, found that the memory of the device or of this machine ran out: {text}",
            hint="free memory, or lower engine.workspace_mb or engine.batch",
            kind=ErrorKind.COMPILE_OUT_OF_MEMORY,
            subject=model,
        )
    blamed = named_nodes(said, nodes)
    where = "".join(f"operator {nodes[name]} at node {name!r}; " for name in blamed[:_MOST])
    return CompileError(
        f"expected an engine, found that {library} could not build one: {where}{text}",
        hint='try another precision or a newer library, or set engine.backend = "onnxruntime"',
        kind=ErrorKind.COMPILE_FAILED,
        subject=model,
    )


def is_out_of_memory(said: Iterable[str]) -> bool:
    """Tell whether the library logged a want of memory, which it may then call a missing implementation."""
    return any(sign in line.lower() for line in said for sign in _MEMORY_SIGNS)


def named_nodes(said: Iterable[str], nodes: Mapping[str, str]) -> list[str]:
    """Return the names of nodes that occur in lines as whole words, in the order of the network."""
    text = "\n".join(said).replace("...", " ")  # "{ForeignNode[first...last]}"
    words = set(re.findall(f"{_NAME_CHARACTERS}+", text))
    return [name for name in nodes if name in words or (" " in name and name in text)]


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LINE_LIMIT else flat[: _LINE_LIMIT - 3] + "..."
