"""The proof of a build: how often it found photographs whose true place is known. Pure.

It is a check whose result names an artifact of its own, the answers: their digest is the `artifact` of the event,
their size is in what it measured.
"""

from collections.abc import Mapping
from typing import Any

from store.base.canonical_json import is_digest
from store.base.values import ArtifactRef
from store.domain.events import CheckFailed, CheckPassed
from store.errors import DamagedHistoryError, ErrorKind
from store.manifest.proof_figures import PROOF_CHECK, parse_figures

PROOF = PROOF_CHECK
"""Name of the check, and kind of the step that is reused."""

SUBJECT = "photographs"
"""What it is about."""


def is_proof(event: CheckPassed | CheckFailed) -> bool:
    """Return whether a check is the proof by photographs."""
    return event.check == PROOF


def answers_of(event: CheckPassed | CheckFailed) -> ArtifactRef:
    """Return the reference of the answers.

    Raises:
        DamagedHistoryError: The event of a proof names none.
    """
    size = event.measured.get("size")
    if not is_digest(event.artifact) or type(size) is not int or size < 0:
        raise _invalid("its answers", f"{event.artifact!r:.70} of {size!r:.20} bytes")
    return ArtifactRef(sha256=event.artifact, size=size)


def figures_of(event: CheckPassed | CheckFailed) -> dict[str, Any]:
    """Return what a proof found, for programs: metres, and fractions of the photographs.

    Raises:
        DamagedHistoryError: The event of a proof does not say it.
    """
    figures = parse_figures(event.measured)
    if figures is None:
        raise _invalid("how many photographs were found", f"{event.measured!r:.100}")
    return figures


def described(figures: Mapping[str, Any]) -> str:
    """Return what a proof found in a line, from its figures."""
    among = "" if figures["at"] == 1 else f" by one of the first {figures['at']} candidates"
    better = figures["better_half_right"]
    near = "" if figures["near_m"] is None else f", searched within {figures['near_m']:g} m of a guess"
    half = "" if better is None else f"; of the half with the larger margin {100 * better:.0f} % are right"
    return (
        f"{figures['right']} of {figures['pictures']} photographs found within {figures['within_m']:g} m"
        f"{among}{near}, at least {100 * figures['min']:g} % asked for{half}"
    )


def _invalid(expected: str, found: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"expected a proof to name {expected}, found {found}",
        kind=ErrorKind.INVALID_EVENT,
        hint="c10 verify --full",
    )
