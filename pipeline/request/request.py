"""The build request: what a flight cache must contain, as one checked, immutable value.

A request comes from a TOML file (`BuildRequest.load`), from its text (`BuildRequest.parse`) or directly from
Python. All three obey the same rules and report every problem at once. An unknown key is an error: a misspelt
option that was silently ignored would build something else than was asked for.

Everything here is pure except `BuildRequest.load`, which reads one file.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pipeline.errors import Problem, RequestError
from pipeline.request import options, rules
from pipeline.request.area import Area
from pipeline.request.area_options import AreaOptions
from pipeline.request.files import base_folder, read_request_text
from pipeline.request.geometry import BoxE7, degrees_to_e7, metres_to_mm
from pipeline.request.json_schema import DRAFT, table_schema, takes
from pipeline.request.proof_options import ProofOptions
from pipeline.request.validation import (
    CheckedRecord,
    InvalidValueError,
    check_fields,
    records_from,
    request_error,
    rules_of,
)
from store.backports import Self
from store.base.cache_warning import CacheWarning
from store.base.canonical_json import Document
from store.toml import tomllib

MAX_MODELS = 64


@takes(
    lambda: {"type": "array", "items": table_schema(options.ModelSpec), "minItems": 1, "maxItems": MAX_MODELS}
)
def _models(value: object) -> tuple[options.ModelSpec, ...]:
    described = f'1 to {MAX_MODELS} models, at least one of them with role = "descriptor"'
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_MODELS:
        raise InvalidValueError(described, "add a [[models]] table")
    models = tuple(map(rules.record(options.ModelSpec), value))
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidValueError(
            "a different name for each model", "rename one", found=f"{twice[0]!r} more than once"
        )
    if all(model.role is not options.ModelRole.DESCRIPTOR for model in models):
        raise InvalidValueError(described, found="none")
    return models


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest(CheckedRecord):
    """What a flight cache must contain.

    Attributes:
        flight_id: Printable label of the flight.
        sector: How fast the ground changes.
        bbox: West, south, east, north; degrees, WGS 84. West greater than east crosses the antimeridian.
        bboxes: Several such boxes, in place of one.
        area: A file that holds the ground, in place of boxes.
        zoom: Lowest and highest zoom, inclusive.
        origin: Take-off point: longitude, latitude (degrees), altitude (metres).
        calibration: Path of the camera calibration, any JSON object.
        tiles: Where tiles come from.
        models: Networks; at least one is a descriptor.
        altitude_m: Lowest and highest height above ground of the flight, metres; with the camera of the
            calibration it says how large the chunks of ground are that get a descriptor each.
        chunks: How the ground is cut into chunks. Without it and without an altitude, each tile gets a descriptor.
        carry: What the cache carries to the aircraft besides, and how large all may be; without it no limit.
        engine: How networks become engines.
        index: How descriptors are indexed.
        coverage: How much must be present.
        checks: Thresholds before a commit.
        proof: Photographs whose place must be found before a commit; none without it.
        base: Folder that relative paths start from.
        bbox_e7: The one box in units of 1e-7 degree, rounded half to even; all computations use it.
        bboxes_e7: The several boxes, likewise; empty without.
        origin_e7: Longitude and latitude of the origin in units of 1e-7 degree.
        altitude_mm: Altitude of the origin in millimetres.
    """

    flight_id: Annotated[str, rules.text(128)]
    sector: Annotated[options.SectorClassification, rules.one_of(options.SectorClassification)]
    zoom: Annotated[tuple[int, int], rules.zoom]
    origin: Annotated[tuple[float, float, float], rules.origin]
    calibration: Annotated[str, rules.path_of("a JSON file")]
    tiles: Annotated[options.TileOptions, rules.record(options.TileOptions)]
    models: Annotated[tuple[options.ModelSpec, ...], _models]
    bbox: Annotated[tuple[float, float, float, float] | None, rules.box] = None
    bboxes: Annotated[tuple[tuple[float, float, float, float], ...] | None, rules.boxes] = None
    area: Annotated[AreaOptions | None, rules.record(AreaOptions)] = None
    altitude_m: Annotated[tuple[float, float] | None, rules.altitudes] = None
    chunks: Annotated[options.ChunkOptions | None, rules.record(options.ChunkOptions)] = None
    carry: Annotated[options.CarryOptions | None, rules.record(options.CarryOptions)] = None
    engine: Annotated[options.EngineOptions, rules.record(options.EngineOptions)] = field(
        default_factory=options.EngineOptions
    )
    index: Annotated[options.IndexOptions, rules.record(options.IndexOptions)] = field(
        default_factory=options.IndexOptions
    )
    coverage: Annotated[options.CoverageOptions, rules.record(options.CoverageOptions)] = field(
        default_factory=options.CoverageOptions
    )
    checks: Annotated[options.CheckOptions, rules.record(options.CheckOptions)] = field(
        default_factory=options.CheckOptions
    )
    proof: Annotated[ProofOptions | None, rules.record(ProofOptions)] = None
    base: Annotated[Path, rules.folder] = Path()

    bbox_e7: BoxE7 | None = field(init=False)
    bboxes_e7: tuple[BoxE7, ...] = field(init=False)
    origin_e7: tuple[int, int] = field(init=False)
    altitude_mm: int = field(init=False)

    def __post_init__(self) -> None:
        """Check everything, then turn degrees and metres into integers, once.

        Raises:
            RequestError: with all the problems.
        """
        # super() without arguments fails here: a slotted dataclass is not the class that the compiler saw.
        CheckedRecord.__post_init__(self)
        longitude, latitude, altitude = self.origin
        object.__setattr__(self, "bbox_e7", None if self.bbox is None else _box_e7(self.bbox))
        object.__setattr__(self, "bboxes_e7", tuple(map(_box_e7, self.bboxes or ())))
        object.__setattr__(self, "origin_e7", (degrees_to_e7(longitude), degrees_to_e7(latitude)))
        object.__setattr__(self, "altitude_mm", metres_to_mm(altitude))
        if self.bbox is not None:
            object.__setattr__(self, "bbox", tuple(float(value) for value in self.bbox))
        if self.bboxes is not None:
            floats = tuple(tuple(float(value) for value in box) for box in self.bboxes)
            object.__setattr__(self, "bboxes", floats)
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))

    def check_relations(self) -> Iterator[Problem]:
        """Require one area; one source of the sizes of chunks: an altitude, or levels; and chunks for a proof."""
        yield from _area_problems(name for name in _AREAS if getattr(self, name) is not None)
        if self.proof is not None and not self.cuts_chunks:
            yield Problem(
                "proof",
                "expected altitude_m or [chunks] beside it, found neither: tiles have no scale that a photograph "
                "could be cut to; add one",
            )
        if self.chunks is None:
            return
        if self.altitude_m is None and not self.chunks.level:
            yield Problem(
                "chunks",
                "expected altitude_m beside it, or [[chunks.level]] with side_m, found neither; add one",
            )
        if self.altitude_m is not None and self.chunks.level:
            yield Problem("chunks.level", "expected either levels or altitude_m, found both; remove one")

    def area_of_boxes(self) -> Area:
        """Return the area of the box or boxes.

        Raises:
            ValueError: The request names a file (`pipeline.request.area_files.read_area`).
        """
        if self.bbox_e7 is not None:
            return Area(self.bbox_e7)
        if not self.bboxes_e7:
            raise ValueError("a request whose area is a file has no boxes")
        return Area.of_boxes(self.bboxes_e7)

    @property
    def has_heads(self) -> bool:
        """Whether a network has a head that is fitted on the area."""
        return any(model.head is not None for model in self.models)

    @property
    def cuts_chunks(self) -> bool:
        """Whether chunks of ground get the descriptors, and not tiles."""
        return self.altitude_m is not None or self.chunks is not None

    @property
    def carries_tiles(self) -> bool:
        """Whether the encoded tiles fly as well."""
        return self.carry is not None and self.carry.tiles

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """What is allowed, but probably a mistake."""
        found = [each for model in self.models for each in model.warnings()]
        found += self.engine.warnings()
        for model in () if self.engine.on_gpu else self.models:
            if model.profile is not None:
                found.append(rules.ignored_option(f"models.{model.name}.profile", self.engine.backend))
        return tuple(found)

    @property
    def max_age_days(self) -> int:
        """Greatest age of a tile in days: the one set, else the sector's."""
        return self.sector.max_age_days if self.tiles.max_age_days is None else self.tiles.max_age_days

    def resolve(self, path: str) -> Path:
        """Return a path of the request, relative to the request's folder."""
        return self.base / path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a request file.

        Raises:
            RequestError: when it cannot be read, is not TOML, or is not a valid request.
        """
        where = Path(path)
        return cls.parse(read_request_text(where), base=base_folder(where), name=str(path))

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
            raise RequestError(
                f"{name}: expected TOML, found {reason}",
                hint="correct that place in the request",
                subject=name,
            ) from None
        given, problems = records_from(document, tables=_TABLES, lists={"models": options.ModelSpec})
        if given.pop("base", None) is not None:
            problems.append(Problem("base", "expected a known key, found 'base'; remove it"))
        broken = {problem.key.partition(".")[0].partition("[")[0] for problem in problems}
        more = check_fields(cls, {**given, "base": base})[1]
        problems += [problem for problem in more if problem.key not in broken]
        if problems:
            problems += _area_problems(name for name in _AREAS if name in document)
            raise request_error(map(_with_its_table, problems), subject=name)
        return cls(base=base, **given)


_AREAS = ("bbox", "bboxes", "area")


def _area_problems(given: Iterable[str]) -> Iterator[Problem]:
    """Yield what is wrong with the number of areas that a request names."""
    names = list(given)
    if not names:
        yield Problem("bbox", "expected a value, found none; add this key, or bboxes, or [area] file")
    elif len(names) > 1:
        yield Problem(names[-1], f"expected one area, found {' and '.join(names)}; keep one")


def _box_e7(box: tuple[float, float, float, float]) -> BoxE7:
    west, south, east, north = (degrees_to_e7(value) for value in box)
    return west, south, east, north


_TABLES: Mapping[str, type[CheckedRecord]] = {
    "tiles": options.TileOptions,
    "area": AreaOptions,
    "chunks": options.ChunkOptions,
    "carry": options.CarryOptions,
    "engine": options.EngineOptions,
    "index": options.IndexOptions,
    "coverage": options.CoverageOptions,
    "checks": options.CheckOptions,
    "proof": ProofOptions,
}


def _with_its_table(problem: Problem) -> Problem:
    """Return a problem; of a key that is unknown where it stands and known elsewhere, it says where that is."""
    word, unknown = problem.key.rpartition(".")[2], "expected a known key"
    if not problem.text.startswith(unknown):
        return problem
    tables: dict[str, type] = {f"in [{name}]": kind for name, kind in _TABLES.items()}
    tables |= {"in [[models]]": options.ModelSpec, "in [[chunks.level]]": options.ChunkLevelOptions}
    homes = [where for where, kind in tables.items() if word in rules_of(kind)]
    if word not in {"base", "models", *_TABLES} and word in rules_of(BuildRequest):
        homes = ["above the first table"]
    return (
        Problem(problem.key, f"{unknown}, found {word!r}; it goes {' or '.join(homes)}") if homes else problem
    )


def request_schema() -> Document:
    """Return the JSON Schema of a request file; what concerns several keys is checked by `BuildRequest` alone."""
    return {
        "$schema": DRAFT,
        "title": "C10 build request",
        **table_schema(BuildRequest, without=frozenset({"base"})),
        "oneOf": [{"required": [name]} for name in _AREAS],
    }
