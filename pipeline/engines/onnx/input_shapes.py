"""Give every input of a network its sizes: fixed ones, or the range of an optimisation profile.

A descriptor network has one image input and a fixed batch; a profile may widen its batch only, and another
one is for a single sample. An auxiliary network may have several inputs: the profile is for the one that the
job names, and the others take from it the sizes that they share with it: the batch, and sizes of the same
name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto, declaration_of, drop_open_shapes, fix_sizes, inputs_of
from pipeline.engines.port import EngineJob, ShapeRange

_BATCH: Final = "batch"

_SizeRange = tuple[int, int, int]
"""Least, usual and greatest size along one axis."""


def set_input_sizes(model: Proto, job: EngineJob) -> Sequence[Mapping[str, ShapeRange]]:
    """Write the sizes that a job fixes into a model, in place.

    Args:
        model: An `onnx.ModelProto` with its weights inlined.
        job: What is asked for.

    Returns:
        The optimisation profiles, none where all sizes are fixed: for each input that still has an open size,
        the shapes that it may take, with the batch. The profile for the job's batch comes first, then the one
        for a single sample.

    Raises:
        CompileError: BAD_MODEL, the network fixes other sizes, or a size stays unknown.
    """
    if job.role == "descriptor":
        return [{job.input: each} for each in _set_descriptor_sizes(model, job)]
    ranges = _set_auxiliary_sizes(model, job)
    opened = {name: each for name, each in ranges.items() if each.min != each.max}
    return [opened] if opened else []


def _set_descriptor_sizes(model: Proto, job: EngineJob) -> list[ShapeRange]:
    wanted = (job.batch, *job.sample_shape)
    profile = job.profile or ShapeRange(min=wanted, opt=wanted, max=wanted)
    inside = all(len(shape) == len(wanted) for shape in (profile.min, profile.max)) and all(
        low <= size <= high for low, size, high in zip(profile.min, wanted, profile.max, strict=True)
    )
    if not inside or profile.min[1:] != profile.max[1:]:
        raise bad_model(
            f"expected a profile around {list(wanted)} that leaves only the batch open, found {list(profile.min)} to "
            f"{list(profile.max)}",
            f"write it as min = [1, ...], max = [{job.batch}, ...] with the network's own image size, or remove it",
            job.model,
        )
    signature = declaration_of(model).signature(input=job.input, output=job.output, subject=job.model)
    opened = job.single or profile.min != profile.max
    if opened and signature.fixed_batch() is not None:
        raise bad_model(
            f"expected a network with an open batch for a profile from {profile.min[0]} to {profile.max[0]}, found one "
            f"that fixes a batch of {signature.fixed_batch()}",
            "remove the profile, or export the network with a named batch size",
            job.model,
        )
    fix_sizes(model, signature, batch=job.batch, sample_shape=job.sample_shape, model_name=job.model)
    if not opened:
        return []
    _open_batch(model, job.input)
    one = (1, *job.sample_shape)
    return [profile, ShapeRange(min=one, opt=one, max=one)] if job.single else [profile]


def _open_batch(model: Proto, name: str) -> None:
    """Open the batch of an input, and drop all declared shapes that may contain it."""
    for value in model.graph.input:
        if value.name == name:
            value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    for value in (*model.graph.output, *model.graph.value_info):
        value.type.tensor_type.ClearField("shape")


def _set_auxiliary_sizes(model: Proto, job: EngineJob) -> dict[str, ShapeRange]:
    # The input that the profile is for comes first, since it gives the named sizes.
    inputs = sorted(inputs_of(model), key=lambda value: value.name != job.input)
    known = _KnownSizes(job, (job.batch, job.batch, job.batch))
    found: dict[str, ShapeRange] = {}
    for value in inputs:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise bad_model(
                f"expected inputs that are tensors of a known rank, found {value.name!r} without",
                "export the network with the ranks of its inputs",
                job.model,
            )
        dims = list(value.type.tensor_type.shape.dim)
        profile = job.profile if value.name == job.input else None
        if profile is not None and len(profile.opt) != len(dims):
            raise bad_model(
                f"expected a profile with {len(dims)} sizes for the input {value.name!r}, found {len(profile.opt)}",
                f"write all sizes of {value.name!r}, the batch first",
                job.model,
            )
        sizes = [
            known.size(value.name, axis, dim, given)
            for axis, (dim, given) in enumerate(zip(dims, _sizes_by_axis(profile, len(dims)), strict=True))
        ]
        low, usual, high = (tuple(size[which] for size in sizes) for which in range(3))
        found[value.name] = ShapeRange(min=low, opt=usual, max=high)
        for dim, size in zip(dims, sizes, strict=True):
            if size[0] == size[2]:
                dim.dim_value = size[0]
    drop_open_shapes(model)
    return found


def _sizes_by_axis(profile: ShapeRange | None, rank: int) -> list[_SizeRange | None]:
    if profile is None:
        return [None] * rank
    return list(zip(profile.min, profile.opt, profile.max, strict=True))


@dataclass(slots=True)
class _KnownSizes:
    """Sizes that are known so far: the batch, and those that the network names."""

    job: EngineJob
    batch: _SizeRange
    named: dict[str, _SizeRange] = field(default_factory=dict)

    def size(self, name: str, axis: int, dim: Proto, given: _SizeRange | None) -> _SizeRange:
        """Return the sizes along one axis of an input; refuse unknown sizes, and those of a wrong profile."""
        if dim.WhichOneof("value") == "dim_value":
            return self._fixed_size(name, axis, int(dim.dim_value), given)
        label = str(dim.dim_param)
        size = given or (self.named.get(label) if label else None) or (self.batch if axis == 0 else None)
        if size is None:
            raise bad_model(
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

    def _fixed_size(self, name: str, axis: int, own: int, given: _SizeRange | None) -> _SizeRange:
        if given is not None and given != (own, own, own):
            raise bad_model(
                f"expected {own} along axis {axis} of {name!r}, which the network fixes, found {list(given)} in the "
                "profile",
                f"write {own} there, three times",
                self.job.model,
            )
        return own, own, own
