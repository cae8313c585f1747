"""The build request: what a flight cache must contain, as one checked, immutable value.

A request comes from a TOML file (`BuildRequest.load`), from its text (`BuildRequest.parse`) or straight from Python;
all three meet the same rules and report every problem at once. An unknown key is an error, since a misspelt option
that is silently ignored would leave the ground station sure of something that is not so.

Everything here is pure except `BuildRequest.load`, which reads one file.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self, assert_never, cast

from pipeline.errors import Problem, RequestError
from pipeline.request import rules as rules_module
from pipeline.request import validation as rules
from pipeline.request.files import folder_of, read_request_text
from pipeline.request.geometry import BoxE7, contains, degrees_to_e7, metres_to_mm
from pipeline.request.validation import (
    Checked,
    RefusedError,
    check_fields,
    checked,
    record_from,
    records_from,
    request_error,
)
from store.runtime.backends.registry import BACKENDS, DEFAULT_BACKEND

BUILTIN = "builtin:"


class SectorClassification(StrEnum):
    """How fast the ground below changes, which bounds the age of a tile that may be trusted."""

    ACTIVE_CONFLICT = "active_conflict"
    STABLE_REAR = "stable_rear"

    @property
    def max_age_days(self) -> int:
        """Greatest age of a tile, in days, unless the request sets one."""
        match self:
            case SectorClassification.ACTIVE_CONFLICT:
                return 180
            case SectorClassification.STABLE_REAR:
                return 365
            case _:
                assert_never(self)


class BadTilePolicy(StrEnum):
    """What becomes of a tile that cannot be decoded."""

    FAIL = "fail"
    SKIP = "skip"


class TooOldPolicy(StrEnum):
    """What becomes of a tile that is older than allowed."""

    WARN = "warn"
    EXCLUDE = "exclude"
    FAIL = "fail"


class UnknownAgePolicy(StrEnum):
    """What becomes of a tile whose capture date nobody knows."""

    WARN = "warn"
    FAIL = "fail"


class Precision(StrEnum):
    """Number format that a network computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class ModelRole(StrEnum):
    """What a network is for: describing tiles, or merely to be carried as an engine."""

    DESCRIPTOR = "descriptor"
    AUXILIARY = "auxiliary"


class Colour(StrEnum):
    """Order of the colour channels that a network expects."""

    RGB = "rgb"
    BGR = "bgr"


class Layout(StrEnum):
    """Order of the axes that a network expects."""

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
class TileOptions(Checked):
    """Where the tiles come from and how old they may be.

    Attributes:
        source: Tiles of a kind in `pipeline.tiles.sources.registry.SOURCES`, such as "x.mbtiles"; relative to the request's folder.
        on_bad: What becomes of a tile that cannot be decoded.
        captured: Capture date of all tiles, or a CSV file with the columns z, x, y, captured.
        as_of: Day on which ages are judged; the day of the build when absent.
        max_age_days: Greatest age; the sector's when absent.
        too_old: What becomes of older tiles.
        unknown_age: What becomes of tiles without a capture date.
    """

    table: ClassVar[str] = "tiles"

    source: str = field(metadata=checked(rules.text()))
    on_bad: BadTilePolicy = field(default=BadTilePolicy.FAIL, metadata=checked(rules.one_of(BadTilePolicy)))
    captured: date | str | None = field(default=None, metadata=checked(rules_module.capture_source))
    as_of: date | None = field(default=None, metadata=checked(rules.day))
    max_age_days: int | None = field(default=None, metadata=checked(rules.whole(1, 36_500)))
    too_old: TooOldPolicy = field(default=TooOldPolicy.WARN, metadata=checked(rules.one_of(TooOldPolicy)))
    unknown_age: UnknownAgePolicy = field(
        default=UnknownAgePolicy.WARN, metadata=checked(rules.one_of(UnknownAgePolicy))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions(Checked):
    """How networks become engines.

    Attributes:
        backend: Who compiles and runs the networks: a row of `store.runtime.backends.registry`.
        precision: Number format of the computation.
        target: Device to compile for, in the backend's words; this one when absent.
        batch: Fixed batch size; the planner's choice when absent.
        workspace_mb: Scratch memory that the compiler may plan for, MiB.
        timeout_s: Wall-clock limit of one compilation, seconds.
        tf32: Allow TensorFloat-32 in place of fp32; off, since it changes results.
        plugins: Shared libraries with operators of their own, for TensorRT; relative to the request's folder.
    """

    table: ClassVar[str] = "engine"

    backend: str = field(default=DEFAULT_BACKEND, metadata=checked(rules.key_of(BACKENDS)))
    precision: Precision = field(default=Precision.FP32, metadata=checked(rules.one_of(Precision)))
    target: str | None = field(default=None, metadata=checked(rules.text(64)))
    batch: int | None = field(default=None, metadata=checked(rules.whole(1, 4096)))
    workspace_mb: int | None = field(default=None, metadata=checked(rules.whole(1, 1 << 20)))
    timeout_s: float = field(default=3600.0, metadata=checked(rules.number(1, 7 * 86_400)))
    tf32: bool = field(default=False, metadata=checked(rules.flag))
    plugins: tuple[str, ...] = field(default=(), metadata=checked(rules_module.files))

    @property
    def on_gpu(self) -> bool:
        """Whether the backend is one of those for GPUs, which alone know workspace, TF32 and profiles."""
        return BACKENDS[self.backend].on_gpu

    def warnings(self) -> Iterator[str]:
        """Options that mean nothing to the backend."""
        given = {"workspace_mb": self.workspace_mb is not None, "tf32": self.tf32}
        for name in () if self.on_gpu else (name for name, told in given.items() if told):
            yield f"engine.{name}: it means nothing to the backend {self.backend}; remove it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile(Checked):
    """Shapes that the model's input may take, batch first: smallest, the one to tune for, greatest."""

    table: ClassVar[str] = "profile"

    min: tuple[int, ...] = field(metadata=checked(rules_module.shape))
    opt: tuple[int, ...] = field(metadata=checked(rules_module.shape))
    max: tuple[int, ...] = field(metadata=checked(rules_module.shape))

    def relations(self) -> Iterator[Problem]:
        """Equal rank and min <= opt <= max along every axis."""
        same_rank = len(self.min) == len(self.opt) == len(self.max)
        if not same_rank or any(
            not a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True)
        ):
            shown = ", ".join(rules.shown(shape) for shape in (self.min, self.opt, self.max))
            yield Problem("min", f"expected min <= opt <= max with equally many axes, found {shown}")


def _profile(value: object) -> ShapeProfile:
    if isinstance(value, ShapeProfile):
        return value
    if not isinstance(value, dict):
        raise RefusedError("a table {min = [...], opt = [...], max = [...]}")
    try:
        return record_from(ShapeProfile, value, "profile")
    except RequestError as error:
        problem = error.problems[0]
        raise RefusedError(
            "a table {min = [...], opt = [...], max = [...]}", found=f"one with {problem}"
        ) from None


_THREE = "three finite numbers, one for each colour channel, on the scale 0 to 255"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Checked):
    """One network.

    What is absent is taken from the model: a builtin knows its own preprocessing, and an ONNX file its input's
    name and fixed size.

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
    """

    table: ClassVar[str] = "models"

    name: str = field(
        metadata=checked(
            rules.matching(
                r"[a-z0-9][a-z0-9._-]{0,63}",
                "1 to 64 of a-z, 0-9, dot, underscore and hyphen, the first a letter or digit",
            )
        )
    )
    role: ModelRole = field(metadata=checked(rules.one_of(ModelRole)))
    onnx: str = field(metadata=checked(rules.text()))
    input: str | None = field(default=None, metadata=checked(rules.text(256)))
    output: str | None = field(default=None, metadata=checked(rules.text(256)))
    size: tuple[int, int] | None = field(
        default=None,
        metadata=checked(rules.sequence_of(rules.whole(16, 4096), 2, "[height, width] in pixels")),
    )
    mean: tuple[float, float, float] | None = field(
        default=None, metadata=checked(rules.sequence_of(rules.number(-1e6, 1e6), 3, _THREE))
    )
    std: tuple[float, float, float] | None = field(
        default=None, metadata=checked(rules.sequence_of(rules.number(1e-6, 1e6), 3, _THREE))
    )
    colour: Colour = field(default=Colour.RGB, metadata=checked(rules.one_of(Colour)))
    layout: Layout = field(default=Layout.NCHW, metadata=checked(rules.one_of(Layout)))
    profile: ShapeProfile | None = field(default=None, metadata=checked(_profile))

    @property
    def builtin(self) -> str | None:
        """Name of the embedded model that is meant, if one is."""
        return self.onnx.removeprefix(BUILTIN) if self.onnx.startswith(BUILTIN) else None

    def relations(self) -> Iterator[Problem]:
        """A builtin must have a name."""
        if self.builtin == "":
            yield Problem("onnx", f'expected "{BUILTIN}NAME" or a path, found {self.onnx!r}')

    def warnings(self) -> Iterator[str]:
        """A mean and deviation that look like the ones for pixel values from 0 to 1."""
        if self.mean and self.std and any(self.mean) and max(*self.mean, *self.std) <= 1.0:
            yield (
                f"models.{self.name}: mean and std apply to pixel values from 0 to 255, "
                "these look like values for 0 to 1; multiply both by 255"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(Checked):
    """How descriptors are indexed; what is absent is the index builder's choice.

    Attributes:
        kind: Structure.
        m: Links per node (hnsw), or bytes per vector (ivf-pq).
        ef: Candidates kept while a graph is built and searched.
        storage: Number format of stored vectors.
        nprobe: Lists visited by a search (ivf-pq).
        delta: Whether few changes may lie beside the index of the build before, instead of being written into a new one.
    """

    table: ClassVar[str] = "index"

    kind: IndexKind = field(default=IndexKind.AUTO, metadata=checked(rules.one_of(IndexKind)))
    m: int | None = field(default=None, metadata=checked(rules.whole(2, 256)))
    ef: int | None = field(default=None, metadata=checked(rules.whole(8, 4096)))
    storage: Storage = field(default=Storage.FP32, metadata=checked(rules.one_of(Storage)))
    nprobe: int | None = field(default=None, metadata=checked(rules.whole(1, 65_536)))
    delta: bool = field(default=True, metadata=checked(rules.flag))


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageOptions(Checked):
    """How much of the wanted area must be there.

    Attributes:
        min_fraction: Least fraction of wanted tiles that are present and localisable, 0 to 1.
    """

    table: ClassVar[str] = "coverage"

    min_fraction: float = field(default=0.0, metadata=checked(rules.number(0, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(Checked):
    """Thresholds of the checks before a commit.

    Attributes:
        parity: Least cosine between an engine's output and the reference's; the usual of its precision if absent.
        recall: Least fraction of sampled tiles that find themselves first.
    """

    table: ClassVar[str] = "checks"

    parity: float | None = field(default=None, metadata=checked(rules.number(0, 1)))
    recall: float = field(default=0.9, metadata=checked(rules.number(0, 1)))


def _models(value: object) -> tuple[ModelSpec, ...]:
    described = '1 to 64 models, exactly one of them with role = "descriptor"'
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 64:
        raise RefusedError(described, "add a [[models]] table")
    models = tuple(cast("ModelSpec", rules.record(ModelSpec)(item)) for item in value)
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RefusedError(
            "a different name for each model", "rename one", found=f"{twice[0]!r} more than once"
        )
    descriptors = [model.name for model in models if model.role is ModelRole.DESCRIPTOR]
    if len(descriptors) != 1:
        raise RefusedError(described, found=" and ".join(descriptors) or "none")
    return models


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest(Checked):
    """What a flight cache must contain.

    Attributes:
        flight_id: Printable label of the flight.
        sector: How fast the ground changes.
        bbox: West, south, east, north; degrees, WGS 84. West greater than east crosses the antimeridian.
        zoom: Lowest and highest zoom, inclusive.
        origin: Take-off point: longitude, latitude (degrees), altitude (metres).
        calibration: Path of the camera calibration, any JSON object.
        tiles: Where tiles come from.
        models: Networks; exactly one is the descriptor.
        engine: How networks become engines.
        index: How descriptors are indexed.
        coverage: How much must be there.
        checks: Thresholds before a commit.
        base: Folder that relative paths start from.
        bbox_e7: The box in units of 1e-7 degree, rounded half to even; what everything computes with.
        origin_e7: Longitude and latitude of the origin in units of 1e-7 degree.
        altitude_mm: Altitude of the origin in millimetres.
    """

    flight_id: str = field(metadata=checked(rules.text(128)))
    sector: SectorClassification = field(metadata=checked(rules.one_of(SectorClassification)))
    bbox: tuple[float, float, float, float] = field(metadata=checked(rules_module.box))
    zoom: tuple[int, int] = field(metadata=checked(rules_module.zoom))
    origin: tuple[float, float, float] = field(metadata=checked(rules_module.origin))
    calibration: str = field(metadata=checked(rules.text()))
    tiles: TileOptions = field(metadata=checked(rules.record(TileOptions)))
    models: tuple[ModelSpec, ...] = field(metadata=checked(_models))
    engine: EngineOptions = field(
        default_factory=EngineOptions, metadata=checked(rules.record(EngineOptions))
    )
    index: IndexOptions = field(default_factory=IndexOptions, metadata=checked(rules.record(IndexOptions)))
    coverage: CoverageOptions = field(
        default_factory=CoverageOptions, metadata=checked(rules.record(CoverageOptions))
    )
    checks: CheckOptions = field(default_factory=CheckOptions, metadata=checked(rules.record(CheckOptions)))
    base: Path = field(default=Path(), metadata=checked(rules_module.folder))

    bbox_e7: BoxE7 = field(init=False)
    origin_e7: tuple[int, int] = field(init=False)
    altitude_mm: int = field(init=False)

    def __post_init__(self) -> None:
        """Check everything, then turn degrees and metres into integers, once.

        Raises:
            RequestError: with all the problems.
        """
        # super() without arguments fails here: a slotted dataclass is not the class that the compiler saw.
        Checked.__post_init__(self)
        west, south, east, north = (degrees_to_e7(value) for value in self.bbox)
        longitude, latitude, altitude = self.origin
        object.__setattr__(self, "bbox_e7", (west, south, east, north))
        object.__setattr__(self, "origin_e7", (degrees_to_e7(longitude), degrees_to_e7(latitude)))
        object.__setattr__(self, "altitude_mm", metres_to_mm(altitude))
        object.__setattr__(self, "bbox", tuple(float(value) for value in self.bbox))
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, but probably not meant."""
        found = [line for model in self.models for line in model.warnings()]
        found += self.engine.warnings()
        for model in () if self.engine.on_gpu else self.models:
            if model.profile is not None:
                found.append(
                    f"models.{model.name}.profile: it means nothing to the backend {self.engine.backend}; remove it"
                )
        if not contains(self.bbox_e7, *self.origin_e7):
            found.insert(0, f"origin: {list(self.origin[:2])} lies outside the box {list(self.bbox)}")
        return tuple(found)

    @property
    def max_age_days(self) -> int:
        """Greatest age of a tile in days: the one set, else the sector's."""
        return self.sector.max_age_days if self.tiles.max_age_days is None else self.tiles.max_age_days

    @property
    def descriptor(self) -> ModelSpec:
        """The one model that describes tiles."""
        return next(model for model in self.models if model.role is ModelRole.DESCRIPTOR)

    def resolve(self, path: str) -> Path:
        """A path of the request, seen from the request's folder."""
        return self.base / path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a request file.

        Raises:
            RequestError: when it cannot be read, is not TOML, or is not a valid request.
        """
        where = Path(path)
        return cls.parse(read_request_text(where), base=folder_of(where), name=str(path))

    @classmethod
    def parse(cls, text: str, *, base: Path, name: str = "request") -> Self:
        """Make a request from TOML text.

        Args:
            text: The whole file.
            base: Folder that relative paths start from.
            name: What messages call the text.

        Raises:
            RequestError: with every problem found.
        """
        try:
            # Decimals keep the digits as written, so that degrees are rounded once, from the decimal.
            document = tomllib.loads(text, parse_float=Decimal)
        except (ValueError, ArithmeticError, RecursionError) as error:
            reason = "tables nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise RequestError(f"{name}: expected TOML, found {reason}", subject=name) from None
        given, problems = records_from(document, tables=_TABLES, lists={"models": ModelSpec})
        if given.pop("base", None) is not None:
            problems.append(Problem("base", "expected a known key, found 'base'; remove it"))
        broken = {problem.key.partition(".")[0].partition("[")[0] for problem in problems}
        more = check_fields(cls, {**given, "base": base})[1]
        problems += [problem for problem in more if problem.key not in broken]
        if problems:
            raise request_error(problems, subject=name)
        return cls(base=base, **given)


_TABLES: Mapping[str, type[Checked]] = {
    "tiles": TileOptions,
    "engine": EngineOptions,
    "index": IndexOptions,
    "coverage": CoverageOptions,
    "checks": CheckOptions,
}
