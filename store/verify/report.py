"""What ground verification found, and what follows from it. Pure.

A finding says what was seen; judging it adds which generations it touches and the command that mends it.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, assert_never

from store.errors import UNREADABLE, IncompatibleDeviceError, NoGoError

_NEEDED_BY_REPAIR: Final = frozenset({"build.lock", "journal.mdb-lock"})
"""Lock files: where something else has their names, no command can begin."""


class Depth(StrEnum):
    """How closely to look."""

    QUICK = "quick"
    BUDGET = "budget"
    FULL = "full"


class ProblemKind(StrEnum):
    """What a problem concerns, hence what mends it. Append only."""

    ABSENT = "absent"
    DAMAGED = "damaged"
    PROJECTION_ABSENT = "projection-absent"
    PROJECTION_DAMAGED = "projection-damaged"
    STRANGER = "stranger"
    CONTENT = "content"
    MANIFEST = "manifest"
    DEVICE = "device"
    SIGNATURE = "signature"
    EXPOSED = "exposed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, as it was seen.

    Attributes:
        kind: What it concerns.
        subject: What a person calls it, such as "engine place" or "segments/00000002.events".
        found: What was expected and found.
        path: Where it is, relative to the cache; empty if it is no file.
        digest: The artifact it concerns, if it is one.
        generation: The one generation it concerns, if it is no artifact.
    """

    kind: ProblemKind
    subject: str
    found: str
    path: str = ""
    digest: str = ""
    generation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheProblem:
    """A finding with its consequences: which generations it touches, and the command that mends it.

    What mends it ends with a text in brackets where the command may fail for good; `last_resort` says the same alone.
    """

    kind: ProblemKind
    subject: str
    found: str
    path: str
    generations: tuple[int, ...]
    fix: str
    last_resort: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.subject}: {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedAmount:
    """How much was hashed, of how much the head names (in a full run: any generation); sizes in bytes."""

    files: int
    size: int
    files_total: int
    size_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of one run.

    Attributes:
        depth: How closely it looked.
        generation: The head.
        origin: The build that the head shows.
        identity: That build's identity.
        manifest_sha256: Digest of the head's manifest file, as committed.
        body_sha256: Digest of its body.
        looked_at: Files whose type and size were looked at.
        hashed: How much was read and hashed.
        problems: Everything that is wrong.
        notes: What was not done, or is worth knowing; no reason for a NO-GO.
        unreferenced: Artifacts that nothing names; collectable.
        unreferenced_size: Their size in bytes.
        seed: Of the sample, in a run with a budget.
        signed_by: The trusted key whose signature of the head was checked and held.
    """

    depth: Depth
    generation: int
    origin: int
    identity: str | None
    manifest_sha256: str
    body_sha256: str
    looked_at: int
    hashed: HashedAmount
    problems: tuple[CacheProblem, ...]
    notes: tuple[str, ...]
    unreferenced: int = 0
    unreferenced_size: int = 0
    seed: int | None = None
    signed_by: str | None = None

    @property
    def go(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def head_sound(self) -> bool:
        """Whether nothing is wrong with what the head shows, on this or another device."""
        return not any(self.generation in problem.generations for problem in self.problems)

    @property
    def only_device(self) -> bool:
        """Whether all that is wrong is that this is another device, or has other libraries."""
        return not self.go and all(problem.kind is ProblemKind.DEVICE for problem in self.problems)

    def without(self, collected: Collection[int]) -> Self:
        """Return the result without what concerns only generations that were collected meanwhile.

        A block that is absent and that no generation is known to name was listed by a table that went as well.
        """

        def lasts(problem: CacheProblem) -> bool:
            if not problem.generations:
                return problem.kind is not ProblemKind.ABSENT
            return not set(problem.generations) <= set(collected)

        return replace(self, problems=tuple(filter(lasts, self.problems)))

    def require(self) -> None:
        """Raise if anything is wrong.

        Raises:
            IncompatibleDeviceError: The cache is sound but made for another device or library version.
            NoGoError: Anything else; carries every problem.
        """
        if self.go:
            return
        reasons = [str(problem) for problem in self.problems]
        fix = self.problems[0].fix
        if self.only_device:
            raise IncompatibleDeviceError(reasons, hint=fix)
        raise NoGoError(reasons, hint=fix)


def diagnose(
    findings: Iterable[Finding],
    *,
    root: Path,
    named_in: Mapping[str, Sequence[int]],
    head: int,
    keep_without: Callable[[Iterable[int]], int],
) -> tuple[CacheProblem, ...]:
    """Say of every finding which generations it touches and what mends it. Pure.

    Args:
        findings: What was seen.
        root: The cache, for the commands.
        named_in: Digest to the generations that name the artifact.
        head: The generation that is shown.
        keep_without: How many builds a collection may keep at most to give up all of some generations; 0 if none does.
    """
    found = tuple(findings)
    earlier = {each.digest: of for each in found if (of := _earlier(each, named_in, head))}
    given_up = {of: keep for of in frozenset(earlier.values()) if (keep := keep_without(of))}
    # One number for all: a collection that keeps a damaged generation may be refused.
    keep = min(given_up.values(), default=0)
    return tuple(
        _problem(each, root, named_in, _otherwise(each, root, of, keep if of in given_up else 0))
        for each in found
        for of in (earlier.get(each.digest, ()),)
    )


def _earlier(finding: Finding, named_in: Mapping[str, Sequence[int]], head: int) -> tuple[int, ...]:
    """Return the generations that name a damaged artifact, if what is shown does without it."""
    generations = tuple(sorted(named_in.get(finding.digest, ()))) if finding.digest else ()
    return () if head in generations or finding.found.startswith(UNREADABLE) else generations


def _otherwise(finding: Finding, root: Path, generations: Sequence[int], keep: int) -> str:
    """Return what is left to do where an artifact of earlier generations cannot be made again; empty for others."""
    if not generations:
        return ""
    named = f"generation{'s' if len(generations) > 1 else ''} {', '.join(map(str, generations))}"
    copy = f"copy {finding.path} from a copy that c10 mirror made while {named} was shown"
    collect = f"c10 gc --keep {keep or 1} --yes --cache {shlex.quote(str(root))}"
    if keep:
        return f"{copy}, or give {named} up: {collect}"
    return (
        f"{copy}, or give {named} up once nobody can roll back to it any more, which is after the next c10 build unless"
        f" it was accepted: {collect}"
    )


def _problem(
    finding: Finding, root: Path, named_in: Mapping[str, Sequence[int]], last_resort: str
) -> CacheProblem:
    if finding.digest:
        generations = tuple(sorted(named_in.get(finding.digest, ())))
    else:
        generations = (finding.generation,) if finding.generation else ()
    more = f" (once; where it cannot make this again: {last_resort})" if last_resort else ""
    return CacheProblem(
        kind=finding.kind,
        subject=finding.subject,
        found=finding.found,
        path=finding.path,
        generations=generations,
        fix=_mend(finding, root) + more,
        last_resort=last_resort,
    )


def _mend(finding: Finding, root: Path) -> str:
    cache = shlex.quote(str(root))
    build = f"c10 build REQUEST --cache {cache}"
    if finding.found.startswith(UNREADABLE):
        return f"mend the permissions of {root / finding.path}, or the disk, then verify again"
    if finding.path in _NEEDED_BY_REPAIR:
        return f"move {root / finding.path} out of the cache: it is made anew"
    match finding.kind:
        case (
            ProblemKind.ABSENT
            | ProblemKind.DAMAGED
            | ProblemKind.PROJECTION_ABSENT
            | ProblemKind.PROJECTION_DAMAGED
            | ProblemKind.STRANGER
        ):
            return f"c10 repair --cache {cache}"
        case ProblemKind.CONTENT | ProblemKind.MANIFEST:
            return f"{build} --again"
        case ProblemKind.DEVICE:
            return f"{build} on that device, with its libraries"
        case ProblemKind.SIGNATURE | ProblemKind.EXPOSED:
            signed = finding.kind is ProblemKind.SIGNATURE
            sign = f"c10 sign --cache {cache} (with a signing_key that is trusted)"
            return sign if signed else f"chmod -R o-w {cache}"
        case _:
            assert_never(finding.kind)
