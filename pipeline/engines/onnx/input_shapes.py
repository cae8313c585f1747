"""Gives every input of a network its sizes: fixed ones, or the range of an optimisation profile.

A compiler for one device wants to know what will come. A descriptor network has one image input and a fixed batch; its
profile, if it has one, may widen the batch around that. An auxiliary network may have several inputs: the profile is for
the one that the engine is asked by, and other inputs take what they share with it: named sizes, and the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.engines.onnx.file import Proto, fix_sizes, inspect_onnx
from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.errors import CompileError, ErrorKind

_BATCH: Final = "batch"
_Range = tuple[int, int, int]


def settle_sizes(model: Proto, job: EngineJob) -> Mapping[str, ShapeRange]:
    """Write the sizes that a job fixes into a model, in place.

    Args:
        model: An `onnx.ModelProto` with its weights inlined.
        job: What is asked for.

    Returns:
        The shapes that the inputs may take which still have an open size, by name, each with its batch dimension.

    Raises:
        CompileError: BAD_MODEL, the network fixes other sizes, or nothing tells an open one.
    """
    ranges = _descriptor(model, job) if job.role == "descriptor" else _auxiliary(model, job)
    return {name: each for name, each in ranges.items() if each.min != each.max}


def _descriptor(model: Proto, job: EngineJob) -> dict[str, ShapeRange]:
    wanted = (job.batch, *job.sample_shape)
    profile = job.profile or ShapeRange(min=wanted, opt=wanted, max=wanted)
    inside = all(len(shape) == len(wanted) for shape in (profile.min, profile.max)) and all(
        low <= size <= high for low, size, high in zip(profile.min, wanted, profile.max, strict=True)
    )
    if not inside or profile.min[1:] != profile.max[1:]:
        raise _bad(
            f"expected a profile around {list(wanted)} that leaves only the batch open, found {list(profile.min)} to "
            f"{list(profile.max)}",
            f"write it as min = [1, ...], max = [{job.batch}, ...] with the network's own image size, or remove it",
            job.model,
        )
    signature = inspect_onnx(_without_weights(model), input=job.input, output=job.output, subject=job.model)
    if profile.min != profile.max and signature.fixed_batch() is not None:
        raise _bad(
            f"expected a network with an open batch for a profile from {profile.min[0]} to {profile.max[0]}, found one "
            f"that fixes a batch of {signature.fixed_batch()}",
            "remove the profile, or export the network with a named batch size",
            job.model,
        )
    fix_sizes(model, signature, batch=job.batch, sample_shape=job.sample_shape, model_name=job.model)
    if profile.min != profile.max:
        _reopen(model, job.input)
    return {job.input: profile}


def _without_weights(model: Proto) -> bytes:
    """Return a model whose weights are mere names: as much as its signature needs, and small."""
    light = type(model)()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.node.extend(model.graph.node[:1])
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        light.graph.initializer.add().name = tensor.name
    data: bytes = light.SerializeToString()
    return data


def _reopen(model: Proto, name: str) -> None:
    """Open the batch again, of which everything that follows was dropped when it was fixed."""
    for value in model.graph.input:
        if value.name == name:
            value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    for value in (*model.graph.output, *model.graph.value_info):
        value.type.tensor_type.ClearField("shape")


def _auxiliary(model: Proto, job: EngineJob) -> dict[str, ShapeRange]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    # The input that the profile is for comes first, since it tells what the named sizes are.
    inputs.sort(key=lambda value: value.name != job.input)
    known = _Known(job, (job.batch, job.batch, job.batch))
    found: dict[str, ShapeRange] = {}
    for value in inputs:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise _bad(
                f"expected inputs that are tensors of a known rank, found {value.name!r} without",
                "export the network with the ranks of its inputs",
                job.model,
            )
        dims = list(value.type.tensor_type.shape.dim)
        profile = job.profile if value.name == job.input else None
        if profile is not None and len(profile.opt) != len(dims):
            raise _bad(
                f"expected a profile with {len(dims)} sizes for the input {value.name!r}, found {len(profile.opt)}",
                f"write all sizes of {value.name!r}, the batch first",
                job.model,
            )
        sizes = [
            known.size(value.name, axis, dim, given)
            for axis, (dim, given) in enumerate(zip(dims, _columns(profile, len(dims)), strict=True))
        ]
        low, usual, high = (tuple(size[which] for size in sizes) for which in range(3))
        found[value.name] = ShapeRange(min=low, opt=usual, max=high)
        for dim, size in zip(dims, sizes, strict=True):
            if size[0] == size[2]:
                dim.dim_value = size[0]
    for value in (*model.graph.output, *model.graph.value_info):
        if any(dim.WhichOneof("value") != "dim_value" for dim in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")
    return found


def _columns(profile: ShapeRange | None, rank: int) -> list[_Range | None]:
    if profile is None:
        return [None] * rank
    return list(zip(profile.min, profile.opt, profile.max, strict=True))


@dataclass(slots=True)
class _Known:
    """Sizes that are known by now: of the batch, and by the names that the network gives them."""

    job: EngineJob
    batch: _Range
    named: dict[str, _Range] = field(default_factory=dict)

    def size(self, name: str, axis: int, dim: Proto, given: _Range | None) -> _Range:
        """Return the least, usual and greatest size along one axis of an input.

        Raises:
            CompileError: BAD_MODEL, nothing tells it, or the network and the profile tell two.
        """
        if dim.WhichOneof("value") == "dim_value":
            return self._fixed(name, axis, int(dim.dim_value), given)
        label = str(dim.dim_param)
        size = given or (self.named.get(label) if label else None) or (self.batch if axis == 0 else None)
        if size is None:
            raise _bad(
                f"expected a size for axis {axis} of the input {name!r}, which the network leaves open, found none",
                f'add profile = {{min = [...], opt = [...], max = [...]}} and input = "{name}" to the model, or fix the '
                "size",
                self.job.model,
            )
        if label:
            self.named.setdefault(label, size)
        if axis == 0 and name == self.job.input:
            self.batch = size
        return size

    def _fixed(self, name: str, axis: int, own: int, given: _Range | None) -> _Range:
        if given is not None and given != (own, own, own):
            raise _bad(
                f"expected {own} along axis {axis} of {name!r}, which the network fixes, found {list(given)} in the "
                "profile",
                f"write {own} there, three times",
                self.job.model,
            )
        return own, own, own


def _bad(message: str, hint: str, model: str) -> CompileError:
    return CompileError(message, hint=hint, kind=ErrorKind.BAD_MODEL, subject=model)
