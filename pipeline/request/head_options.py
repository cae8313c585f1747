"""The table of a network's head: what turns its local features into one descriptor. Pure."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from pipeline.request import rules
from pipeline.request.validation import CheckedRecord
from store.backports import StrEnum

MOST_DIMENSIONS: Final = 1000
"""A projection has fewer dimensions than the sample has chunks."""


class HeadKind(StrEnum):
    """What a head computes."""

    VLAD = "vlad"


class Fit(StrEnum):
    """What a head is fitted on: `area` keeps what an earlier build fitted, `anew` only on the same chunks."""

    AREA = "area"
    ANEW = "anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions(CheckedRecord):
    """A head that is fitted on the area: sums of differences from words (VLAD), projected.

    Attributes:
        kind: What it computes.
        words: How many words the local features are compared with.
        dimensions: Length of the descriptors.
        fit: Whether an earlier head is kept.
    """

    table: ClassVar[str] = "head"

    kind: Annotated[HeadKind, rules.one_of(HeadKind)]
    words: Annotated[int, rules.whole_number(2, 256)] = 32
    dimensions: Annotated[int, rules.whole_number(2, MOST_DIMENSIONS)] = 512
    fit: Annotated[Fit, rules.one_of(Fit)] = Fit.AREA
