"""Reads an ONNX file: what it is, what it weighs, and whether it can become an engine.

The bytes come from a person's disk, so nothing here trusts them. Weights may lie in other files beside the model
("external data"); those are named by plain base names, never through links or folders, and they count into the
digest. Files are read once, and what was hashed is what is compiled.
"""

import hashlib
import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pipeline.engines.onnx.declaration import Declaration, ModelSignature, Size, TensorInfo
from pipeline.engines.port import Role
from pipeline.errors import CompileError, ErrorKind
from store.files.regular_file import NotRegularError, open_regular

Proto = Any
"""A protocol buffer message: onnx carries no types."""

MAX_MODEL_BYTES: Final = (1 << 31) - 1
"""Protocol buffers end at 2 GiB, and external weights are put into one."""

_EXTERNAL_DOMAIN: Final = b"c10/onnx-with-external-data/1\0"
_EXPORT_HINT: Final = "export the network with one float32 image input [N,3,H,W] and one output [N,D]"

_FREE_WEIGHTS: Final = 4
"""First version of the format in which weights need not be inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """A model that was read, with its weights inlined.

    Attributes:
        model: The `onnx.ModelProto`.
        sha256: Digest of the file, and of its external files if it has any.
    """

    model: Proto
    sha256: str


def onnx_digest(path: Path) -> str:
    """Return the SHA-256 of a model, in hexadecimal.

    A model in one file has that file's SHA-256. With external data it is the SHA-256 of a domain string, the digest of
    the model file, and for each external file in order of name: the length of its name (uint32, little-endian), its
    name and its digest.

    Raises:
        CompileError: BAD_MODEL, the file is unreadable, no ONNX, or names external data outside its own folder.
    """
    data = _read(path)
    names = external_files(_parse(data, path.name))
    parts = ((name, hashlib.sha256(weights).digest()) for name, weights in _read_external(path, names))
    return _digest(data, parts)


def read_onnx(path: Path, *, expected_sha256: str) -> OnnxFile:
    """Read a model and its external weights, each file once, and refuse any that is not the one expected.

    Weights that the file lists among its inputs, as early versions of the format demand, are inputs no more.

    Raises:
        CompileError: BAD_MODEL as for `onnx_digest`, an external tensor lies outside its file, or another digest.
    """
    data = _read(path)
    model = _parse(data, path.name)
    files = dict(_read_external(path, external_files(model)))
    found = _digest(data, ((name, hashlib.sha256(files[name]).digest()) for name in sorted(files)))
    if found != expected_sha256:
        raise _bad(
            f"expected the network with SHA-256 {expected_sha256}, found {found}: it changed after it was read",
            "keep the file still and run the build again",
            path.name,
        )
    for tensor in _tensors(model):
        _inline(tensor, files, path.name)
    _fix_weights(model)
    return OnnxFile(model=model, sha256=found)


def inspect_onnx(
    data: bytes,
    *,
    role: Role = "descriptor",
    input: str | None = None,  # noqa: A002 - the word of the request
    output: str | None = None,
    subject: str = "",
) -> ModelSignature:
    """Return what a model takes and gives, after checking that an engine of its role can be made of it.

    Args:
        data: The bytes of the ONNX file.
        role: A "descriptor" must take float32 images of rank 4 with 3 channels and give float32 [N, D].
        input: Which input takes the image; needed only when there are several.
        output: Which output is the descriptor; needed only when there are several.
        subject: Name of the model, for messages.

    Raises:
        CompileError: BAD_MODEL, with what was expected and found.
    """
    declared = declared_by(data, subject=subject)
    return declared.signature(role=role, input=input, output=output, subject=subject)


def declared_by(data: bytes, *, subject: str = "") -> Declaration:
    """Return what a model's bytes declare.

    Raises:
        CompileError: BAD_MODEL, they are no ONNX model, or it names external data outside its own folder.
    """
    model = _parse(data, subject)
    weights = {tensor.name for tensor in model.graph.initializer}
    return Declaration(
        inputs=tuple(_info(value) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_info(value) for value in model.graph.output),
        external=external_files(model),
    )


def external_files(model: Proto) -> tuple[str, ...]:
    """Return the base names of a model's external weight files, sorted.

    Raises:
        CompileError: BAD_MODEL, a location is not a plain file name.
    """
    names: set[str] = set()
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            location = _external_entries(tensor).get("location", "")
            if not location or location in {".", ".."} or any(mark in location for mark in "/\\\0"):
                raise _bad(
                    f"expected external weights as a file name in the model's own folder, found {location!r}",
                    "save the network again with its weights beside it or inside",
                    tensor.name,
                )
            names.add(location)
    return tuple(sorted(names))


def fix_sizes(
    model: Proto, signature: ModelSignature, *, batch: int, sample_shape: tuple[int, ...], model_name: str
) -> None:
    """Give a descriptor model's input fixed sizes in place: batch and sample shape; keep only the wanted output.

    What the model said of the sizes of other tensors is dropped where it was not a number: the compiler infers it
    again from the fixed input.

    Raises:
        CompileError: BAD_MODEL, the model fixes another size already.
    """
    wanted = (batch, *sample_shape)
    declared = signature.input.shape or ()
    for axis, (have, want) in enumerate(zip(declared, wanted, strict=True)):
        if isinstance(have, int) and have != want:
            what = "batch" if axis == 0 else f"size of axis {axis}"
            hint = (
                f"set engine.batch = {have}"
                if axis == 0
                else "set the model's size to what the network takes"
            )
            raise _bad(f"expected a {what} of {want}, found {have} fixed in the network", hint, model_name)
    graph = model.graph
    for value in graph.input:
        if value.name == signature.input.name:
            for dimension, size in zip(value.type.tensor_type.shape.dim, wanted, strict=True):
                dimension.dim_value = size
    keep = [value for value in graph.output if value.name == signature.output.name]
    del graph.output[:]
    graph.output.extend(keep)
    for value in (*graph.output, *graph.value_info):
        if any(size.WhichOneof("value") != "dim_value" for size in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")


def _info(value: Proto) -> TensorInfo:
    onnx = _onnx()
    kind = value.type.tensor_type
    shape: tuple[Size, ...] | None = None
    if kind.HasField("shape"):
        shape = tuple(
            size.dim_value if size.WhichOneof("value") == "dim_value" else size.dim_param or None
            for size in kind.shape.dim
        )
    try:
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    except ValueError:
        dtype = f"type {kind.elem_type}"
    return TensorInfo(name=value.name, dtype=dtype, shape=shape)


def is_repeated(field: Proto) -> bool:
    """Tell whether a field of a protocol buffer message is a list; older libraries know it under another name."""
    found: bool = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return found


def _tensors(message: Proto) -> Iterator[Proto]:
    """Yield every tensor in a message, wherever the format has room for one.

    A list of places would be wrong for the one that it lacks: the libraries look up external weights that they find
    there by themselves, in the folder that the process happens to run in, and no digest would know of them.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in value if is_repeated(field) else (value,):
            if field.message_type.name == "TensorProto":
                yield each
            else:
                yield from _tensors(each)


def _fix_weights(model: Proto) -> None:
    """Take weights off the list of inputs: nobody replaces them, and a compiler may count on what they say."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, _FREE_WEIGHTS)


def _external_entries(tensor: Proto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _inline(tensor: Proto, files: dict[str, bytes], subject: str) -> None:
    if tensor.data_location != tensor.EXTERNAL:
        return
    entries = _external_entries(tensor)
    data = files[entries["location"]]
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(len(data) - offset)))
    except ValueError as error:
        raise _bad(
            f"expected whole numbers for the place of weights, found {entries}", _EXPORT_HINT, subject
        ) from error
    if not (offset >= 0 and length >= 0 and offset + length <= len(data)):
        raise _bad(
            f"expected the weights {tensor.name!r} within the {len(data)} bytes of {entries['location']!r}, found "
            f"{length} bytes at {offset}",
            "copy the external data file again",
            subject,
        )
    tensor.raw_data = data[offset : offset + length]
    tensor.data_location = tensor.DEFAULT
    del tensor.external_data[:]


def _digest(data: bytes, external: Iterable[tuple[str, bytes]]) -> str:
    own = hashlib.sha256(data)
    parts = list(external)
    if not parts:
        return own.hexdigest()
    whole = hashlib.sha256(_EXTERNAL_DOMAIN + own.digest())
    for name, digest in parts:
        encoded = name.encode("utf-8")
        whole.update(len(encoded).to_bytes(4, "little") + encoded + digest)
    return whole.hexdigest()


def _parse(data: bytes, subject: str) -> Proto:
    onnx = _onnx()
    decode_error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except decode_error as error:
        if "alloc" in str(error):
            raise MemoryError(f"no room for a network of {len(data)} bytes: {error}") from error
        raise _bad(
            f"expected an ONNX model, found {len(data)} bytes that are none: truncated or another format",
            "copy or export the network again",
            subject,
        ) from error
    if not model.graph.node or not model.opset_import:
        raise _bad(
            "expected an ONNX model with nodes and an operator set, found none: truncated or another format",
            "copy or export the network again",
            subject,
        )
    return model


def _read_external(model: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read the weights beside a model, one file after the other; together they must fit into one model."""
    left = MAX_MODEL_BYTES
    for name in names:
        data = _read(model.parent / name, limit=left, only_name=True)
        left -= len(data)
        yield name, data


def _read(path: Path, *, limit: int = MAX_MODEL_BYTES, only_name: bool = False) -> bytes:
    """Read a regular file without following a link at its last step.

    `only_name` refuses a file that has other names too: a model from elsewhere could bring a name for a file that
    is none of its own.
    """
    try:
        descriptor = open_regular(path)
    except NotRegularError as error:
        raise _bad(
            "expected a regular file, found something else", "name the ONNX file itself", str(path)
        ) from error
    except OSError as error:
        raise _bad(
            f"expected a readable network file, found: {error.strerror}",
            "check the path; links are not followed",
            str(path),
        ) from error
    status = os.fstat(descriptor)
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise _bad(
                f"expected a network below 2 GiB, weights included, found {status.st_size} bytes in one file",
                "export a smaller network",
                str(path),
            )
        if only_name and status.st_nlink != 1:
            raise _bad(
                f"expected external weights with one name, found a file with {status.st_nlink} (hard links)",
                "copy the file, so that it belongs to this network alone",
                str(path),
            )
        # Not `limit`: a reader may set aside as much memory as it is asked for.
        return file.read(status.st_size + 1)


def _bad(message: str, hint: str, subject: str) -> CompileError:
    return CompileError(message, hint=hint, kind=ErrorKind.BAD_MODEL, subject=subject or None)


def _onnx() -> ModuleType:
    try:
        import onnx  # noqa: PLC0415 - heavy, and not needed by a warm run
    except ImportError as error:
        raise CompileError(
            f"expected the Python package 'onnx' to read networks, found none: {error}",
            hint="pip install 'c10[cpu]'",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        ) from error
    module: ModuleType = onnx
    return module
