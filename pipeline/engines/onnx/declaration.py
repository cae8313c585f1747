"""What a network says of itself: its inputs, outputs and files of weights, and whether an engine can be made of it. Pure.

A declaration is a value, so that what was read from a file once can be judged again without the file.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.engines.port import Role
from pipeline.errors import CompileError, ErrorKind

_CHANNELS: Final = 3
_EXPORT_HINT: Final = "export the network with one float32 image input [N,3,H,W] and one output [N,D]"

Size = int | str | None
"""A dimension: fixed, named, or unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output as the model declares it.

    Attributes:
        name: Its name.
        dtype: ONNX element type in lower case, such as "float" or "int64".
        shape: Its sizes; None as a whole when the model declares no rank.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...] | None

    def __str__(self) -> str:
        sizes = "unknown rank" if self.shape is None else f"[{', '.join(str(s or '?') for s in self.shape)}]"
        return f"{self.name!r} {self.dtype} {sizes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSignature:
    """What an ONNX model takes and gives.

    Attributes:
        input: The input that the engine will have.
        output: The output that the engine will have.
        inputs: All inputs, without those that are weights.
        outputs: All outputs.
        external: Base names of the files that hold its external weights, sorted.
    """

    input: TensorInfo
    output: TensorInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    external: tuple[str, ...]

    def fixed_batch(self) -> int | None:
        """Return the batch size that the model fixes, None when it takes any."""
        size = self.input.shape[0] if self.input.shape else None
        return size if isinstance(size, int) else None

    def fixed_dimensions(self) -> int | None:
        """Return the last size of the output, None when the model leaves it open."""
        size = self.output.shape[-1] if self.output.shape else None
        return size if isinstance(size, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a model's file declares.

    Attributes:
        inputs: All inputs, without those that are weights.
        outputs: All outputs.
        external: Base names of the files that hold its external weights, sorted.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    external: tuple[str, ...]

    def signature(
        self,
        *,
        role: Role = "descriptor",
        input: str | None = None,  # noqa: A002 - the word of the request
        output: str | None = None,
        subject: str = "",
    ) -> ModelSignature:
        """Return what the engine takes and gives, after checking that one of its role can be made.

        Args:
            role: A "descriptor" must take float32 images of rank 4 with 3 channels and give float32 [N, D].
            input: Which input takes the image; needed only when there are several.
            output: Which output is the descriptor; needed only when there are several.
            subject: Name of the model, for messages.

        Raises:
            CompileError: BAD_MODEL, with what was expected and found.
        """
        signature = ModelSignature(
            input=_choose("input", self.inputs, input, role, subject),
            output=_choose("output", self.outputs, output, role, subject),
            inputs=self.inputs,
            outputs=self.outputs,
            external=self.external,
        )
        if role == "descriptor":
            _check_descriptor(signature, subject)
        return signature


def _check_descriptor(signature: ModelSignature, subject: str) -> None:
    image, vector = signature.input, signature.output
    if image.dtype != "float" or image.shape is None or len(image.shape) != 4:
        raise _bad(
            f"expected an image input of float [N,3,H,W] or [N,H,W,3], found {image}", _EXPORT_HINT, subject
        )
    channels = (image.shape[1], image.shape[3])
    if _CHANNELS not in channels and all(isinstance(size, int) for size in channels):
        raise _bad(f"expected an image input with 3 channels, found {image}", _EXPORT_HINT, subject)
    # A model may leave its output's rank undeclared; then the compiled engine is checked instead.
    if vector.dtype != "float" or (vector.shape is not None and len(vector.shape) != 2):
        raise _bad(f"expected a descriptor output of float [N,D], found {vector}", _EXPORT_HINT, subject)


def _choose(
    role: str, found: tuple[TensorInfo, ...], name: str | None, kind: Role, subject: str
) -> TensorInfo:
    listed = ", ".join(str(each) for each in found) or "none"
    if name is not None:
        for each in found:
            if each.name == name:
                return each
        raise _bad(
            f"expected an {role} called {name!r}, found {listed}", f"name one of them as `{role}`", subject
        )
    if not found or (len(found) > 1 and kind == "descriptor"):
        raise _bad(
            f"expected one {role}, found {listed}", f"name the one to use as `{role}` of the model", subject
        )
    return found[0]


def _bad(message: str, hint: str, subject: str) -> CompileError:
    return CompileError(message, hint=hint, kind=ErrorKind.BAD_MODEL, subject=subject or None)
