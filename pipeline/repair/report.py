"""The report of a repair: what it did, or would do. Pure."""

import shlex
from pathlib import Path
from typing import Any

from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.verify.report import CacheProblem, ProblemKind, VerifyReport


@valueclass(frozen=True, slots=True, kw_only=True)
class RepairAction:
    """One damaged file, and what was done about it.

    Attributes:
        what: Its path relative to the cache, or the role of an artifact.
        was: What was wrong.
        action: What was done, or why nothing could be done.
        ok: Whether it is intact now.
        quarantine: Path of the damaged bytes, relative to the cache; empty if there are none.
    """

    what: str
    was: str
    action: str
    ok: bool
    sha256: str = ""
    quarantine: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "what": self.what,
            "was": self.was,
            "action": self.action,
            "ok": self.ok,
            "sha256": self.sha256 or None,
            "quarantine": self.quarantine or None,
        }


@valueclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What was repaired, and the result of a full verification afterwards; None if there is no generation."""

    actions: tuple[RepairAction, ...]
    verification: VerifyReport | None
    dry_run: bool = False

    @property
    def go(self) -> bool:
        """Whether the head is complete and intact, on this or another device."""
        found = self.verification
        return found is not None and not any(
            found.generation in problem.generations and problem.kind is not ProblemKind.DEVICE
            for problem in found.problems
        )

    @property
    def left(self) -> tuple[CacheProblem, ...]:
        """The problems that are left in the cache, without those of this device."""
        problems = () if self.verification is None else self.verification.problems
        return tuple(problem for problem in problems if problem.kind is not ProblemKind.DEVICE)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "go": self.go,
            "generation": self.verification.generation if self.verification else None,
            "dry_run": self.dry_run,
            "repairs": [action.to_document() for action in self.actions],
            "problems": [str(problem) for problem in self.left],
            "left": [
                {
                    "problem": str(problem),
                    "path": problem.path or None,
                    "generations": list(problem.generations),
                    "mend": problem.fix,
                    "otherwise": problem.last_resort or None,
                }
                for problem in self.left
            ],
        }


def preview_repair(verification: VerifyReport | None) -> RepairReport:
    """Return what a repair would try, from the result of a full verification."""
    problems = () if verification is None else verification.problems
    actions = (
        RepairAction(
            what=problem.path or problem.subject, was=problem.found, action=_planned_action(problem), ok=False
        )
        for problem in problems
        if problem.kind is not ProblemKind.DEVICE
    )
    return RepairReport(actions=tuple(actions), verification=verification, dry_run=True)


def repair_hint(root: Path, ref: ArtifactRef, *, of_head: bool) -> str:
    """Return the hint for an artifact that could not be rebuilt."""
    if of_head:
        return f"c10 build --again REQUEST --cache {shlex.quote(str(root))} makes a generation that does without it"
    return f"copy artifacts/{ref.sha256[:2]}/{ref.sha256} from a mirror of this cache"


def _planned_action(problem: CacheProblem) -> str:
    match problem.kind:
        case ProblemKind.ABSENT:
            return "would be made again by its step"
        case ProblemKind.DAMAGED:
            return "would be made again by its step, and the damaged bytes kept in quarantine"
        case ProblemKind.PROJECTION_ABSENT:
            return "would be projected again from the journal"
        case ProblemKind.PROJECTION_DAMAGED:
            return "would be projected again from the journal, and the damaged bytes kept in quarantine"
        case ProblemKind.STRANGER:
            return "would be set aside in quarantine"
        case _:
            return f"nothing: {problem.fix}"
