"""The table of a network's dynamic shapes, as a checked, immutable record. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pipeline.errors import Problem
from pipeline.request import rules
from pipeline.request.validation import CheckedRecord, format_value


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile(CheckedRecord):
    """Shapes of a model's dynamic input, batch first.

    Attributes:
        min: Smallest shape.
        opt: Shape to tune for.
        max: Greatest shape.
    """

    table: ClassVar[str] = "profile"

    min: Annotated[tuple[int, ...], rules.shape]
    opt: Annotated[tuple[int, ...], rules.shape]
    max: Annotated[tuple[int, ...], rules.shape]

    def check_relations(self) -> Iterator[Problem]:
        """Require equal rank, and min <= opt <= max along every axis."""
        same_rank = len(self.min) == len(self.opt) == len(self.max)
        if not same_rank or any(
            not a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True)
        ):
            shown = ", ".join(format_value(shape) for shape in (self.min, self.opt, self.max))
            yield Problem("min", f"expected min <= opt <= max with equally many axes, found {shown}")
