"""Read an ONNX file with its weights, digest it, say what it declares, fix its input's sizes.

Nothing here trusts the bytes. The path of a model may be a link; what it leads to is hashed. Weights may be in
other files beside the model ("external data"): those have plain base names, are never reached through folders
or through links to elsewhere, and enter the digest. Each file is read once, so that the bytes that are hashed
are the bytes that are compiled.
"""

import errno
import hashlib
import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pipeline.engines.onnx.declaration import (
    EXPORT_HINT,
    Declaration,
    ModelSignature,
    Size,
    TensorInfo,
    bad_model,
)
from pipeline.errors import CompileError, ErrorKind
from store.files.regular_file import NotRegularError, open_regular

Proto = Any
"""A protocol buffer message: onnx carries no types."""

MAX_MODEL_BYTES: Final = (1 << 31) - 1
"""Protocol buffers end at 2 GiB, and a model is compiled as one with its external weights inside."""

_EXTERNAL_DOMAIN: Final = b"c10/onnx-with-external-data/1\0"

_QUANTIZING: Final = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"),
    }
)
"""Operators that quantise, and all that `pipeline.engines.onnx.eight_bit` rewrites."""

_WEIGHTS_NEED_NO_INPUT: Final = 4
"""First version of the format in which weights need not be inputs."""


def onnx_digest(path: Path) -> str:
    """Return the SHA-256 of a model, in hexadecimal.

    A model in one file has that file's SHA-256. With external data it is the SHA-256 of a domain string, the
    digest of the model file, and for each external file in order of name: the length of its name (uint32,
    little-endian), its name and its digest.

    Raises:
        CompileError: BAD_MODEL, the file is unreadable, no ONNX, or names external data outside its own
            folder.
    """
    data = _read(_target(path))
    names = _external_files(_parse(data, path.name))
    parts = ((name, hashlib.sha256(weights).digest()) for name, weights in _read_external(path, names))
    return _digest(data, parts)


def read_onnx(path: Path, *, expected_sha256: str) -> Proto:
    """Return a model with its external weights inlined; each file is read once.

    Weights that the file lists among its inputs, as early versions of the format demand, are removed from
    them.

    Raises:
        CompileError: BAD_MODEL as for `onnx_digest`, an external tensor is outside its file, or another
            digest.
    """
    data = _read(_target(path))
    model = _parse(data, path.name)
    files = dict(_read_external(path, _external_files(model)))
    found = _digest(data, ((name, hashlib.sha256(files[name]).digest()) for name in sorted(files)))
    if found != expected_sha256:
        raise bad_model(
            f"expected the network with SHA-256 {expected_sha256}, found {found}: it changed after it was read",
            "keep the file still and run the build again",
            path.name,
        )
    for tensor in _tensors(model):
        _inline_weights(tensor, files, path.name)
    _remove_weights_from_inputs(model)
    return model


def parse_declaration(data: bytes, *, subject: str = "") -> Declaration:
    """Return what a model's bytes declare; `subject` names the model in messages.

    Raises:
        CompileError: BAD_MODEL, they are no ONNX model, or it names external data outside its own folder.
    """
    return declaration_of(_parse(data, subject))


def declaration_of(model: Proto) -> Declaration:
    """Return what a model declares.

    Raises:
        CompileError: BAD_MODEL, it names external data outside its own folder.
    """
    return Declaration(
        inputs=tuple(_tensor_info(value) for value in inputs_of(model)),
        outputs=tuple(_tensor_info(value) for value in model.graph.output),
        external=_external_files(model),
        quantized=any(node.op_type in _QUANTIZING for node in _messages(model, "NodeProto")),
    )


def inputs_of(model: Proto) -> list[Proto]:
    """Return the inputs of a model that are not weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _external_files(model: Proto) -> tuple[str, ...]:
    """Return the base names of a model's external weight files, sorted.

    Raises:
        CompileError: BAD_MODEL, a location is not a plain file name.
    """
    names: set[str] = set()
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            location = _external_entries(tensor).get("location", "")
            if not location or location in {".", ".."} or any(mark in location for mark in "/\\\0"):
                raise bad_model(
                    f"expected external weights as a file name in the model's own folder, found {location!r}",
                    "save the network again with its weights beside it or inside",
                    tensor.name,
                )
            names.add(location)
    return tuple(sorted(names))


def fix_sizes(
    model: Proto, signature: ModelSignature, *, batch: int, sample_shape: tuple[int, ...], model_name: str
) -> None:
    """Fix the sizes of a descriptor model's input, in place; keep only the output that is wanted.

    Declared shapes of other tensors are dropped where a size was open: the compiler infers them again from
    the fixed input.

    Raises:
        CompileError: BAD_MODEL, the model fixes another size already.
    """
    wanted = (batch, *sample_shape)
    declared = signature.input.shape or ()
    for axis, (have, want) in enumerate(zip(declared, wanted, strict=True)):
        if isinstance(have, int) and have != want:
            what, hint = f"size of axis {axis}", "set the model's size to what the network takes"
            if axis == 0:
                what, hint = "batch", f"set engine.batch = {have}"
            raise bad_model(
                f"expected a {what} of {want}, found {have} fixed in the network", hint, model_name
            )
    graph = model.graph
    for value in graph.input:
        if value.name == signature.input.name:
            for dimension, size in zip(value.type.tensor_type.shape.dim, wanted, strict=True):
                dimension.dim_value = size
    keep = [value for value in graph.output if value.name == signature.output.name]
    del graph.output[:]
    graph.output.extend(keep)
    drop_open_shapes(model)


def drop_open_shapes(model: Proto) -> None:
    """Drop the declared shapes of outputs and inner tensors that leave a size open, in place."""
    for value in (*model.graph.output, *model.graph.value_info):
        if any(size.WhichOneof("value") != "dim_value" for size in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")


def _tensor_info(value: Proto) -> TensorInfo:
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
    """Tell whether a field of a protocol buffer message is a list."""
    # Older versions of the library have `label` only.
    found: bool = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return found


def _tensors(message: Proto) -> Iterator[Proto]:
    """Yield every tensor in a message."""
    return _messages(message, "TensorProto")


def _messages(message: Proto, kind: str) -> Iterator[Proto]:
    """Yield every message of a kind in a message, wherever the format allows one.

    Not from a list of known places: if it missed one, a library would find external weights there and load
    them from its working directory, and no digest would cover them.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in value if is_repeated(field) else (value,):
            if field.message_type.name == kind:
                yield each
            yield from _messages(each, kind)


def _remove_weights_from_inputs(model: Proto) -> None:
    """Make weights constants, so that a compiler can rely on their values."""
    kept = inputs_of(model)
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, _WEIGHTS_NEED_NO_INPUT)


def _external_entries(tensor: Proto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _inline_weights(tensor: Proto, files: dict[str, bytes], subject: str) -> None:
    if tensor.data_location != tensor.EXTERNAL:
        return
    entries = _external_entries(tensor)
    data = files[entries["location"]]
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(len(data) - offset)))
    except ValueError as error:
        raise bad_model(
            f"expected whole numbers for the place of weights, found {entries}", EXPORT_HINT, subject
        ) from error
    if not (offset >= 0 and length >= 0 and offset + length <= len(data)):
        raise bad_model(
            f"expected the weights {tensor.name!r} within the {len(data):,} bytes of {entries['location']!r}, found "
            f"{length:,} bytes at {offset}",
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
            raise MemoryError(f"no room for a network of {len(data):,} bytes: {error}") from error
        raise bad_model(
            f"expected an ONNX model, found {len(data):,} bytes that are none: truncated or another format",
            "copy or export the network again",
            subject,
        ) from error
    if not model.graph.node or not model.opset_import:
        raise bad_model(
            "expected an ONNX model with nodes and an operator set, found none: truncated or another format",
            "copy or export the network again",
            subject,
        )
    _open_sizes(model)
    return model


def _open_sizes(model: Proto) -> None:
    """Make sizes open that are declared as 0 or -1, as some exporters write an open batch."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.WhichOneof("value") == "dim_value" and size.dim_value <= 0:
                size.ClearField("dim_value")


def _read_external(model: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file of weights beside a model; together they must fit into one model.

    In a download cache, model and weights are links into one folder. So a link is followed if it leads to the
    folder of the model that is a link itself; any other link could lead to a file that is not the model's.
    """
    left, home = MAX_MODEL_BYTES, _target(model).parent
    for name in names:
        path = model.parent / name
        target = _target(path) if model.is_symlink() else path
        data = _read(target if target.parent == home else path, limit=left, only_name=True)
        left -= len(data)
        yield name, data


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _read(path: Path, *, limit: int = MAX_MODEL_BYTES, only_name: bool = False) -> bytes:
    """Read a regular file that is no link.

    `only_name` refuses a file with other hard links: a model from elsewhere could name a file that is not its
    own.
    """
    try:
        descriptor = open_regular(path)
    except NotRegularError as error:
        raise bad_model(
            "expected a regular file, found something else", "name the ONNX file itself", str(path)
        ) from error
    except OSError as error:
        raise bad_model(
            f"expected a readable network file, found {'a link' if error.errno == errno.ELOOP else error.strerror}",
            "copy what it leads to into its place" if error.errno == errno.ELOOP else "check the path",
            str(path),
        ) from error
    status = os.fstat(descriptor)
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise bad_model(
                f"expected a network below 2 GiB, weights included, found {status.st_size:,} bytes in one file",
                "export a smaller network",
                str(path),
            )
        if only_name and status.st_nlink != 1:
            raise bad_model(
                f"expected external weights with one name, found a file with {status.st_nlink} (hard links)",
                "copy the file, so that it belongs to this network alone",
                str(path),
            )
        # Not `limit`: `read` may allocate as many bytes as it is asked for.
        return file.read(status.st_size + 1)


def _onnx() -> ModuleType:
    try:
        import onnx  # noqa: PLC0415 - heavy, and not needed by an up-to-date build
    except ImportError as error:
        raise CompileError(
            f"expected the Python package 'onnx' to read networks, found none: {error}",
            hint="pip install 'c10[cpu]'",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        ) from error
    module: ModuleType = onnx
    return module
