"""The table of a request that names a file of an area, as a checked, immutable record. Pure."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pipeline.request import rules
from pipeline.request.validation import CheckedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaOptions(CheckedRecord):
    """The ground as a file has it.

    Attributes:
        file: Path of a GeoJSON, KML, KMZ, QGroundControl (.plan) or Mission Planner (.waypoints) file.
        width_m: Full width of the corridor along each route of the file, metres.
        name: The features to take, by name; all without one.
    """

    table: ClassVar[str] = "area"

    file: Annotated[str, rules.path_of("a GeoJSON, KML, KMZ or plan file")]
    width_m: Annotated[float | None, rules.number(1, 50_000)] = None
    name: Annotated[str | None, rules.text(256)] = None
