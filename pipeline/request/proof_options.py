"""The table of a request that asks for a proof by photographs. Pure."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pipeline.request import rules
from pipeline.request.validation import CheckedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofOptions(CheckedRecord):
    """Photographs whose true place is known, and how many of them the cache must find before it is committed.

    Attributes:
        pictures: Table of true places (`pipeline.proof.truth_table`), relative to the request's folder.
        min: Least fraction of the photographs that must be right, 0 to 1.
        within_m: How far from the true place a right answer may be, metres.
        at: How many of the first candidates are looked at.
        near_m: If given, chunks within so many metres of a guess alone are searched.
    """

    table: ClassVar[str] = "proof"

    pictures: Annotated[str, rules.path_of("a CSV file")]
    min: Annotated[float, rules.number(0, 1)]
    within_m: Annotated[float, rules.number(0.001, 100_000)] = 50.0
    at: Annotated[int, rules.whole_number(1, 10)] = 1
    near_m: Annotated[float | None, rules.number(0.001, 1_000_000)] = None
