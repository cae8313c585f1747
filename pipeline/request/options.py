"""The tables of a request as checked, immutable records, and the words that their fields may hold. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar

from pipeline.errors import Problem, RequestError
from pipeline.request import rules
from pipeline.request.head_options import HeadOptions
from pipeline.request.json_schema import table_schema, takes
from pipeline.request.shape_profile import ShapeProfile
from pipeline.request.validation import CheckedRecord, InvalidValueError, record_from
from store.backports import StrEnum
from store.base.cache_warning import CacheWarning
from store.manifest.levels import MAX_LEVELS
from store.runtime.backends.registry import AUTO, BACKENDS, DEFAULT_BACKEND
from store.trust.readiness import MAX_AGE_DAYS

BUILTIN = "builtin:"

DEFAULT_OVERLAP = 0.85
"""Part of its side that a chunk shares with the next one; a smaller part finds fewer places."""


class SectorClassification(StrEnum):
    """How fast the ground below changes, which bounds the age of a tile that may be trusted."""

    ACTIVE_CONFLICT = "active_conflict"
    STABLE_REAR = "stable_rear"

    @property
    def max_age_days(self) -> int:
        """Greatest age of a tile, in days, unless the request sets one."""
        return MAX_AGE_DAYS[self]


class BadTilePolicy(StrEnum):
    """What to do with a tile that cannot be decoded."""

    FAIL = "fail"
    SKIP = "skip"


class TooOldPolicy(StrEnum):
    """What to do with a tile that is older than allowed."""

    WARN = "warn"
    EXCLUDE = "exclude"
    FAIL = "fail"


class UnknownAgePolicy(StrEnum):
    """What to do with a tile whose capture date is unknown."""

    WARN = "warn"
    FAIL = "fail"


class Precision(StrEnum):
    """Number format of a network's computation."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class ModelRole(StrEnum):
    """What a network is for: to describe tiles, or only to be shipped as an engine."""

    DESCRIPTOR = "descriptor"
    AUXILIARY = "auxiliary"


class Colour(StrEnum):
    """Order of a network's colour channels."""

    RGB = "rgb"
    BGR = "bgr"


class AxisOrder(StrEnum):
    """Order of the axes of a network's input."""

    NCHW = "nchw"
    NHWC = "nhwc"


class IndexKind(StrEnum):
    """Structure of the descriptor index; `auto` is flat for few tiles and a graph for many."""

    AUTO = "auto"
    FLAT = "flat"
    HNSW = "hnsw"
    IVF_PQ = "ivf-pq"


class Storage(StrEnum):
    """Number format in which the index keeps vectors."""

    FP32 = "fp32"
    FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileOptions(CheckedRecord):
    """Where the tiles come from and how old they may be.

    Attributes:
        source: Path such as "x.mbtiles", relative to the request's folder, or a list of paths;
            `pipeline.tiles.sources.registry` has the kinds.
        on_bad: What to do with a tile that cannot be decoded.
        captured: Capture date of all tiles, or a CSV file with the columns z, x, y, captured.
        as_of: Day on which ages are computed; the day of the build when absent.
        max_age_days: Greatest age; the sector's when absent.
        too_old: What to do with older tiles.
        unknown_age: What to do with tiles without a capture date.
    """

    table: ClassVar[str] = "tiles"

    source: Annotated[str | tuple[str, ...], rules.tile_source]
    on_bad: Annotated[BadTilePolicy, rules.one_of(BadTilePolicy)] = BadTilePolicy.FAIL
    captured: Annotated[date | str | None, rules.capture_source] = None
    as_of: Annotated[date | None, rules.calendar_date] = None
    max_age_days: Annotated[int | None, rules.whole_number(1, 36_500)] = None
    too_old: Annotated[TooOldPolicy, rules.one_of(TooOldPolicy)] = TooOldPolicy.WARN
    unknown_age: Annotated[UnknownAgePolicy, rules.one_of(UnknownAgePolicy)] = UnknownAgePolicy.WARN

    @property
    def source_name(self) -> str:
        """The source in messages and records: the path, or the first of a list and how many more there are."""
        if isinstance(self.source, str):
            return self.source
        return self.source[0] + (f" and {len(self.source) - 1} more" if len(self.source) > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLevelOptions(CheckedRecord):
    """One size of chunks, chosen by hand.

    Attributes:
        side_m: Side of a chunk in metres.
        overlap: Part of the side that neighbours share, 0 to below 1.
    """

    table: ClassVar[str] = "chunks.level"

    side_m: Annotated[float, rules.number(1, 100_000)]
    overlap: Annotated[float, rules.number(0, 0.97)] = DEFAULT_OVERLAP


@takes(
    lambda: {
        "type": "array",
        "items": table_schema(ChunkLevelOptions),
        "maxItems": MAX_LEVELS,
        "uniqueItems": True,
    }
)
def _chunk_levels(value: object) -> tuple[ChunkLevelOptions, ...]:
    described = f"1 to {MAX_LEVELS} tables {{side_m = ..., overlap = ...}}"
    if not isinstance(value, (list, tuple)):
        raise InvalidValueError(described)
    if len(value) > MAX_LEVELS:
        raise InvalidValueError(described, found=f"{len(value)}; build another cache for the other sizes")
    try:
        levels = tuple(
            item
            if isinstance(item, ChunkLevelOptions)
            else record_from(ChunkLevelOptions, item, f"level[{number}]")
            for number, item in enumerate(value)
        )
    except RequestError as error:
        raise InvalidValueError(described, found=f"one with {error.problems[0]}") from None
    if len(set(levels)) < len(levels):
        raise InvalidValueError(f"{described} that differ", found="the same twice; remove one")
    return levels


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOptions(CheckedRecord):
    """How the ground is cut into chunks, the squares that get one descriptor each.

    Attributes:
        overlap: Part of the side that neighbours share, 0 to below 1; for levels that follow from the altitude.
        level: Sizes chosen by hand, in place of those that follow from the altitude.
    """

    table: ClassVar[str] = "chunks"

    overlap: Annotated[float, rules.number(0, 0.97)] = DEFAULT_OVERLAP
    level: Annotated[tuple[ChunkLevelOptions, ...], _chunk_levels] = ()


DEFAULT_MAX_BYTES = 10_000_000_000
"""What an aircraft's storage holds, unless the request says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryOptions(CheckedRecord):
    """What a cache carries beside engines, index and descriptors.

    Attributes:
        tiles: Whether the encoded tiles that descriptors show fly as well.
        max_bytes: Most bytes of all files that the manifest names.
    """

    table: ClassVar[str] = "carry"

    tiles: Annotated[bool, rules.boolean] = False
    max_bytes: Annotated[int, rules.whole_number(1, 1 << 50)] = DEFAULT_MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions(CheckedRecord):
    """How networks become engines.

    Attributes:
        backend: What compiles and runs the networks: a row of `store.runtime.backends.registry`, or "auto" for
            what suits the machine that builds (`pipeline.engines.backends.registry.compiler_for`).
        precision: Number format of the computation.
        target: Device to compile for, as the backend names it; this one when absent.
        batch: Fixed batch size; the planner's choice when absent.
        workspace_mb: Scratch memory that the compiler may plan for, MiB.
        timeout_s: Wall-clock limit of one compilation, seconds.
        tf32: Allow TensorFloat-32 in place of fp32; off by default, since it changes results.
        plugins: Shared libraries with custom operators, for TensorRT; relative to the request's folder.
    """

    table: ClassVar[str] = "engine"

    backend: Annotated[str, rules.key_of(BACKENDS, AUTO)] = DEFAULT_BACKEND
    precision: Annotated[Precision, rules.one_of(Precision)] = Precision.FP32
    target: Annotated[str | None, rules.text(64)] = None
    batch: Annotated[int | None, rules.whole_number(1, 4096)] = None
    workspace_mb: Annotated[int | None, rules.whole_number(1, 1 << 20)] = None
    timeout_s: Annotated[float, rules.number(1, 7 * 86_400)] = 3600.0
    tf32: Annotated[bool, rules.boolean] = False
    plugins: Annotated[tuple[str, ...], rules.files] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether the backend runs on GPUs, or may; only those have a workspace, TF32 and profiles."""
        return self.backend == AUTO or BACKENDS[self.backend].on_gpu

    def warnings(self) -> Iterator[CacheWarning]:
        """Yield a warning for each option that the backend ignores."""
        given = {"workspace_mb": self.workspace_mb is not None, "tf32": self.tf32}
        for name in () if self.on_gpu else (name for name, is_given in given.items() if is_given):
            yield rules.ignored_option(f"engine.{name}", self.backend)


_NAME = rules.matching(
    r"[a-z0-9][a-z0-9._-]{0,63}",
    "1 to 64 of a-z, 0-9, dot, underscore and hyphen, the first a letter or digit",
)
_SIZE = rules.sequence_of(rules.whole_number(16, 4096), 2, "[height, width] in pixels")
_CHANNELS = "three finite numbers, one for each colour channel, on the scale 0 to 255"
_MEAN = rules.sequence_of(rules.number(-1e6, 1e6), 3, _CHANNELS)
_STD = rules.sequence_of(rules.number(1e-6, 1e6), 3, _CHANNELS)
_WEIGHT = rules.number(1e-6, 1e6)
_PROFILE = rules.table_of(ShapeProfile, "profile", "a table {min = [...], opt = [...], max = [...]}")
_HEAD = rules.table_of(HeadOptions, "head", 'a table {kind = "vlad", words = ..., dimensions = ...}')


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(CheckedRecord):
    """One network.

    What is absent comes from the model: a builtin has its own preprocessing, an ONNX file its input's name
    and fixed size.

    Attributes:
        name: Label, unique in the request.
        role: Descriptor or auxiliary.
        onnx: "builtin:NAME" or a path relative to the request's folder.
        input: Name of the input tensor.
        output: Name of the output tensor.
        size: Height and width that the network sees, pixels.
        mean: Subtracted from each channel, in the network's colour order, on the scale 0 to 255.
        std: Divides each channel after that.
        colour: Order of colour channels.
        layout: Order of axes.
        profile: Shapes of a dynamic input.
        weight: How much the descriptors count among those of several networks.
        normalise: Whether descriptors get length 1 here, for a network that does not end in an L2 normalisation.
        head: What is fitted on the area to turn local features into descriptors; `output` names the features.
    """

    table: ClassVar[str] = "models"

    name: Annotated[str, _NAME]
    role: Annotated[ModelRole, rules.one_of(ModelRole)]
    onnx: Annotated[str, rules.path_of("an ONNX file, or the name of a built-in network")]
    input: Annotated[str | None, rules.text(256)] = None
    output: Annotated[str | None, rules.text(256)] = None
    size: Annotated[tuple[int, int] | None, _SIZE] = None
    mean: Annotated[tuple[float, float, float] | None, _MEAN] = None
    std: Annotated[tuple[float, float, float] | None, _STD] = None
    colour: Annotated[Colour, rules.one_of(Colour)] = Colour.RGB
    layout: Annotated[AxisOrder, rules.one_of(AxisOrder)] = AxisOrder.NCHW
    profile: Annotated[ShapeProfile | None, _PROFILE] = None
    weight: Annotated[float, _WEIGHT] = 1.0
    normalise: Annotated[bool, rules.boolean] = False
    head: Annotated[HeadOptions | None, _HEAD] = None

    @property
    def weight_ppm(self) -> int:
        """The weight in units of 1e-6."""
        return round(self.weight * 1_000_000)

    @property
    def builtin(self) -> str | None:
        """Name of the built-in model, if it is one."""
        return self.onnx.removeprefix(BUILTIN) if self.onnx.startswith(BUILTIN) else None

    def check_relations(self) -> Iterator[Problem]:
        """Require a name of a builtin."""
        if self.builtin == "":
            yield Problem("onnx", f'expected "{BUILTIN}NAME" or a path, found {self.onnx!r}')
        if self.builtin and self.head is not None:
            yield Problem("head", f"expected none, since {self.onnx} gives descriptors; remove it")
        if self.role is not ModelRole.DESCRIPTOR:
            for name, default in (("weight", 1.0), ("normalise", False), ("head", None)):
                if getattr(self, name) != default:
                    yield Problem(
                        name, 'expected role = "descriptor" beside it, found "auxiliary"; remove it'
                    )

    def warnings(self) -> Iterator[CacheWarning]:
        """Yield a warning for a mean and deviation that look like those for pixel values from 0 to 1."""
        if self.mean and self.std and any(self.mean) and max(*self.mean, *self.std) <= 1.0:
            yield CacheWarning(
                kind="pixel-scale",
                message=f"models.{self.name}: mean and std apply to pixel values from 0 to 255, "
                "these look like values for 0 to 1",
                hint="multiply both by 255",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(CheckedRecord):
    """How descriptors are indexed; what is absent is the index builder's choice.

    Attributes:
        kind: Structure.
        m: Links per node (hnsw), or bytes per vector (ivf-pq).
        ef: Candidates kept while a graph is built and searched.
        storage: Number format of stored vectors.
        nprobe: Lists visited by a search (ivf-pq).
        delta: Whether a few changes may be stored beside the previous build's index, without writing a new
            one.
    """

    table: ClassVar[str] = "index"

    kind: Annotated[IndexKind, rules.one_of(IndexKind)] = IndexKind.AUTO
    m: Annotated[int | None, rules.whole_number(2, 256)] = None
    ef: Annotated[int | None, rules.whole_number(8, 4096)] = None
    storage: Annotated[Storage, rules.one_of(Storage)] = Storage.FP32
    nprobe: Annotated[int | None, rules.whole_number(1, 65_536)] = None
    delta: Annotated[bool, rules.boolean] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageOptions(CheckedRecord):
    """How much of the wanted area must be present.

    Attributes:
        min_fraction: Least fraction of the area in which a place can be found, 0 to 1: of its tiles, or of its
            ground for each level of chunks.
    """

    table: ClassVar[str] = "coverage"

    min_fraction: Annotated[float, rules.number(0, 1)] = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(CheckedRecord):
    """Thresholds of the checks before a commit.

    Attributes:
        parity: Least cosine between an engine's output and the reference's; the default of its precision if
            absent.
        recall: Least fraction of sampled tiles that find themselves first.
    """

    table: ClassVar[str] = "checks"

    parity: Annotated[float | None, rules.number(0, 1)] = None
    recall: Annotated[float, rules.number(0, 1)] = 0.9
