"""What a network declares: its inputs, outputs and weight files, and whether it can become an engine. Pure.

A declaration is a value, so that it can be checked again without reading the file again.
"""

from typing import Final

from pipeline.engines.port import Role
from pipeline.errors import CompileError, ErrorKind
from store.base.valueclass import valueclass

CHANNELS: Final = 3
_IMAGE_RANK: Final = 4
EXPORT_HINT: Final = "export the network with one float32 image input [N,3,H,W] and one output [N,D]"
_HEAD: Final = 'head = {kind = "vlad"}'
LOCAL_RANKS: Final = (3, 4)
"""Ranks of local features: [N, T, C] and [N, C, H, W]."""

Size = int | str | None
"""A dimension: fixed, named, or unknown."""


@valueclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output as the model declares it.

    Attributes:
        name: Its name.
        dtype: ONNX element type in lower case, such as "float" or "int64".
        shape: Its sizes; None when the model declares no rank.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...] | None

    def __str__(self) -> str:
        sizes = "unknown rank" if self.shape is None else f"[{', '.join(str(s or '?') for s in self.shape)}]"
        return f"{self.name!r} {self.dtype} {sizes}"


@valueclass(frozen=True, slots=True, kw_only=True)
class ModelSignature:
    """The input and the output that the engine of a model will have."""

    input: TensorInfo
    output: TensorInfo

    def fixed_batch(self) -> int | None:
        """Return the batch size that the model fixes, None when it takes any."""
        size = self.input.shape[0] if self.input.shape else None
        return size if isinstance(size, int) else None

    def fixed_dimensions(self) -> int | None:
        """Return the last size of the output, None when the model leaves it open."""
        size = self.output.shape[-1] if self.output.shape else None
        return size if isinstance(size, int) else None


@valueclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a model's file declares.

    Attributes:
        inputs: All inputs that are not weights.
        outputs: All outputs.
        external: Base names of the files that hold its external weights, sorted.
        quantized: Whether it quantises explicitly, or computes with integers of 8 bits.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    external: tuple[str, ...]
    quantized: bool

    def signature(
        self,
        *,
        role: Role = "descriptor",
        input: str | None = None,  # noqa: A002 - the word of the request
        output: str | None = None,
        subject: str = "",
        headless: bool = False,
    ) -> ModelSignature:
        """Return the engine's input and output, after checking that an engine of this role can be made.

        Args:
            role: A "descriptor" must take float32 images of rank 4 with 3 channels and give float32 [N, D].
            input: Which input takes the image; a descriptor network may have no other.
            output: Which output is the descriptor; needed only when there are several.
            subject: Name of the model, for messages.
            headless: Whether its output may have any shape, since a head will be put on it.

        Raises:
            CompileError: BAD_MODEL, with what was expected and found.
        """
        if role == "descriptor" and len(self.inputs) > 1:
            _refuse_inputs(self.inputs, input, subject)
        signature = ModelSignature(
            input=_choose("input", self.inputs, input, role, subject),
            output=_choose("output", self.outputs, output, role, subject),
        )
        if role == "descriptor":
            _check_image(signature.input, subject)
            if not headless:
                _check_descriptor(signature.output, subject)
        return signature


def _refuse_inputs(inputs: tuple[TensorInfo, ...], image: str | None, subject: str) -> None:
    """Refuse a network with inputs that nothing fills: all but the image."""
    if image not in {each.name for each in inputs}:
        image = next((each.name for each in inputs if each.shape and len(each.shape) == _IMAGE_RANK), None)
    unfilled = ", ".join(repr(each.name) for each in inputs if each.name != image)
    raise bad_model(
        f"expected the image as the only input, found {', '.join(map(str, inputs))}: nothing fills {unfilled}",
        "export the network with its other inputs as constants, or without them",
        subject,
    )


def _check_image(image: TensorInfo, subject: str) -> None:
    if image.dtype != "float" or image.shape is None or len(image.shape) != _IMAGE_RANK:
        raise bad_model(
            f"expected an image input of float [N,3,H,W] or [N,H,W,3], found {image}", EXPORT_HINT, subject
        )
    channels = (image.shape[1], image.shape[3])
    if CHANNELS not in channels and all(isinstance(size, int) for size in channels):
        raise bad_model(f"expected an image input with 3 channels, found {image}", EXPORT_HINT, subject)


def _check_descriptor(vector: TensorInfo, subject: str) -> None:
    # A model may leave its output's rank undeclared; then the compiled engine is checked instead.
    if vector.dtype != "float" or (vector.shape is not None and len(vector.shape) != 2):
        local = vector.shape is not None and len(vector.shape) in LOCAL_RANKS
        raise bad_model(
            f"expected a descriptor output of float [N,D], found {vector}",
            f"{EXPORT_HINT}; or make descriptors of local features: {_HEAD}" if local else EXPORT_HINT,
            subject,
        )


def _choose(
    what: str, tensors: tuple[TensorInfo, ...], name: str | None, role: Role, subject: str
) -> TensorInfo:
    listed = ", ".join(str(each) for each in tensors) or "none"
    if name is not None:
        for each in tensors:
            if each.name == name:
                return each
        raise bad_model(
            f"expected an {what} called {name!r}, found {listed}", f"name one of them as `{what}`", subject
        )
    if not tensors or (len(tensors) > 1 and role == "descriptor"):
        raise bad_model(
            f"expected one {what}, found {listed}", f"name the one to use as `{what}` of the model", subject
        )
    return tensors[0]


def bad_model(message: str, hint: str, subject: str = "") -> CompileError:
    """Return the error of a network that cannot become an engine."""
    return CompileError(message, hint=hint, kind=ErrorKind.BAD_MODEL, subject=subject or None)
