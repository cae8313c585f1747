"""Read what ONNX Runtime says of a network that it refuses. Pure."""

import re
from typing import Final

from pipeline.engines.onnx.declaration import bad_model

_NEWER_OPERATORS: Final = re.compile(r"Opset (\d+) is under development.* domain (\S+) is till opset (\d+)")
_NEWER_FORMAT: Final = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")


def refuse_newer(text: str, library: str, name: str) -> None:
    """Refuse a network that is newer than the library, if its message says so.

    Args:
        text: The message.
        library: Version of the library.
        name: Name of the network.

    Raises:
        CompileError: BAD_MODEL, with the version that was found and the newest that the library knows.
    """
    if found := _NEWER_OPERATORS.search(text):
        version, domain, newest = found.groups()
        what, hint = (
            f"operator set {newest} of {domain} at most",
            f"export the network with opset {newest} or older",
        )
    elif found := _NEWER_FORMAT.search(text):
        version, newest = found.groups()
        what, hint = (
            f"format (IR) version {newest} at most",
            f"save the network with ir_version {newest} or older",
        )
    else:
        return
    raise bad_model(
        f"expected {what}, which is the newest that onnxruntime {library} knows, found {version}", hint, name
    )
