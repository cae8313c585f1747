"""What a repair did, or would do, as values. Pure."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.base.values import ArtifactRef
from store.verify.report import CacheProblem, ProblemKind, VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """One thing that was not as it should be.

    Attributes:
        what: What a person calls it: a path relative to the cache, or the role of an artifact.
        was: What was wrong.
        action: What was done about it, or why nothing could be.
        ok: Whether it is as it should be now.
        sha256: Digest of the artifact, if it is one.
        quarantine: Where the damaged bytes lie, relative to the cache; empty if there were none.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What was mended, and what a full verification says afterwards; nothing if there is no generation."""

    mends: tuple[Mend, ...]
    verification: VerifyReport | None
    dry_run: bool = False

    @property
    def go(self) -> bool:
        """Whether what the head shows is whole, on this or another device."""
        found = self.verification
        return found is not None and not any(
            found.generation in problem.generations and problem.kind is not ProblemKind.DEVICE
            for problem in found.problems
        )

    @property
    def left(self) -> tuple[CacheProblem, ...]:
        """What is still wrong, with the cache alone."""
        problems = () if self.verification is None else self.verification.problems
        return tuple(problem for problem in problems if problem.kind is not ProblemKind.DEVICE)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON report."""
        return {
            "go": self.go,
            "generation": self.verification.generation if self.verification else None,
            "dry_run": self.dry_run,
            "repairs": [mend.to_document() for mend in self.mends],
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


def rehearsed(verification: VerifyReport | None) -> RepairReport:
    """Tell what a repair would try, from what a full verification found."""
    problems = () if verification is None else verification.problems
    mends = (
        Mend(what=problem.path or problem.subject, was=problem.found, action=_intent(problem), ok=False)
        for problem in problems
        if problem.kind is not ProblemKind.DEVICE
    )
    return RepairReport(mends=tuple(mends), verification=verification, dry_run=True)


def remedy(root: Path, ref: ArtifactRef, *, of_head: bool) -> str:
    """Return what mends an artifact that its step did not give back."""
    if of_head:
        return f"c10 build --again REQUEST --cache {shlex.quote(str(root))} makes a generation that does without it"
    return f"copy artifacts/{ref.sha256[:2]}/{ref.sha256} from a mirror of this cache"


def _intent(problem: CacheProblem) -> str:
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
