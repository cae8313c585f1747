"""Report what a verification found, which generations it concerns, and how to fix it. Pure."""

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

from store.backports import Self, StrEnum
from store.base.cache_warning import CacheWarning
from store.base.valueclass import valueclass
from store.disk.repair_commands import warned_of_mirror
from store.errors import UNREADABLE, IncompatibleDeviceError, NoGoError
from store.files.permissions import revoke_writing
from store.trust.readiness import Readiness, judge
from store.trust.readiness_facts import Facts

_NEEDED_BY_REPAIR: Final = frozenset({"build.lock", "journal.mdb-lock"})
"""Lock files: where something else has their names, no command can begin."""


class Depth(StrEnum):
    """How closely to check."""

    QUICK = "quick"
    BUDGET = "budget"
    FULL = "full"


class ProblemKind(StrEnum):
    """What a problem concerns, which decides how to fix it. Append only."""

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


_FIXES: Final = {
    ProblemKind.CONTENT: "c10 build REQUEST --cache {cache} --again",
    ProblemKind.MANIFEST: "c10 build REQUEST --cache {cache} --again",
    ProblemKind.DEVICE: "c10 build REQUEST --cache {cache} on that device, with its libraries",
    ProblemKind.SIGNATURE: "c10 sign --cache {cache} (with a signing_key that is trusted)",
}
"""How to fix problems that `c10 repair` does not."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: either an artifact, with its digest, or something of one generation.

    Attributes:
        subject: Its name for people, such as "engine place" or "segments/00000002.events".
        found: What was expected and found.
        path: The file, relative to the cache; empty if it is no file.
    """

    kind: ProblemKind
    subject: str
    found: str
    path: str = ""
    digest: str = ""
    generation: int | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
class CacheProblem:
    """A finding with the generations that it concerns and the command that fixes it.

    Where that command may fail for good, `last_resort` says what else to do, and `fix` ends with it in
    brackets.
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


@valueclass(frozen=True, slots=True, kw_only=True)
class HashedAmount:
    """How much was hashed, of how much the head names (in a full run: any generation). Sizes in bytes."""

    files: int
    size: int
    files_total: int
    size_total: int


@valueclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of one verification of a cache, whose head is `generation` and shows the build `origin`.

    Attributes:
        looked_at: How many files were checked for type and size.
        notes: What is worth knowing, and says nothing of the head.
        facts: What its readiness is judged by.
        warnings: What is to be said beside its readiness.
        unreferenced: How many artifacts nothing names; they can be collected. `unreferenced_size` is in
            bytes.
        seed: Seed of the sample, in a run with a budget.
        of_mirror: Whether this is a mirror, whose cache is elsewhere.
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
    facts: Facts
    warnings: tuple[CacheWarning, ...] = ()
    unreferenced: int = 0
    unreferenced_size: int = 0
    seed: int | None = None
    of_mirror: bool = False

    @property
    def signed_by(self) -> str | None:
        """The trusted key whose signature of the head holds."""
        return self.facts.signed_by

    @property
    def not_loaded(self) -> tuple[str, ...]:
        """The engines and index that a full verification could not load here."""
        reading = self.facts.reading
        return (
            ()
            if reading is None or self.depth is not Depth.FULL
            else (*reading.elsewhere, *reading.not_loaded)
        )

    def readiness(self, today: date) -> Readiness:
        """Say whether the head is fit to fly, with every warning.

        Args:
            today: The day of the flight, UTC.
        """
        found = judge(self.facts, today=today)
        warnings = (*found.warnings, *self.warnings)
        return replace(found, warnings=tuple(map(warned_of_mirror, warnings)) if self.of_mirror else warnings)

    @property
    def go(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def head_sound(self) -> bool:
        """Whether no problem concerns the head."""
        return not any(self.generation in problem.generations for problem in self.problems)

    @property
    def only_device(self) -> bool:
        """Whether the only problems are that this is another device, or has other libraries."""
        return not self.go and all(problem.kind is ProblemKind.DEVICE for problem in self.problems)

    @property
    def foreign_files(self) -> frozenset[str]:
        """The files that C10 did not put there."""
        return frozenset(each.subject for each in self.problems if each.kind is ProblemKind.STRANGER)

    def without(self, collected: Collection[int], passing: Collection[str] = ()) -> Self:
        """Return the report without the problems that a concurrent writer caused.

        An absent block that no generation is known to name was listed in a block table that was collected,
        too.

        Args:
            collected: Generations that were collected meanwhile.
            passing: Foreign files that an earlier look did not find: a writer was about to project them.
        """

        def lasts(problem: CacheProblem) -> bool:
            if problem.kind is ProblemKind.STRANGER:
                return problem.subject not in passing
            if not problem.generations:
                return problem.kind is not ProblemKind.ABSENT
            return not set(problem.generations) <= set(collected)

        return replace(self, problems=tuple(filter(lasts, self.problems)))

    def require(self) -> None:
        """Raise if anything is wrong.

        Raises:
            IncompatibleDeviceError: The cache is sound but made for another device or library version.
            NoGoError: Anything else; it has every problem.
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
    """Turn findings into problems: add the generations that each concerns, and how to fix it.

    Args:
        findings: What is wrong.
        root: The cache, for the commands.
        named_in: Digest to the generations that name the artifact.
        head: The newest generation.
        keep_without: Returns the most builds that a collection may keep to remove all of some generations; 0
            if it cannot remove them.
    """
    found = tuple(findings)
    earlier = {each.digest: of for each in found if (of := _earlier_generations(each, named_in, head))}
    given_up = {of: keep for of in frozenset(earlier.values()) if (keep := keep_without(of))}
    # The same number for all: a collection that keeps a damaged generation may be refused.
    keep = min(given_up.values(), default=0)
    return tuple(
        _problem(each, root, named_in, _last_resort(each, root, of, keep if of in given_up else 0))
        for each in found
        for of in (earlier.get(each.digest, ()),)
    )


def _earlier_generations(
    finding: Finding, named_in: Mapping[str, Sequence[int]], head: int
) -> tuple[int, ...]:
    """Return the generations that name a damaged artifact, if the head is not one of them."""
    generations = tuple(sorted(named_in.get(finding.digest, ()))) if finding.digest else ()
    return () if head in generations or finding.found.startswith(UNREADABLE) else generations


def _last_resort(finding: Finding, root: Path, generations: Sequence[int], keep: int) -> str:
    """Say what to do if an artifact of earlier generations cannot be built again; empty for others."""
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
        fix=_fix(finding, root) + more,
        last_resort=last_resort,
    )


def _fix(finding: Finding, root: Path) -> str:
    if finding.found.startswith(UNREADABLE):
        return f"fix the permissions of {root / finding.path}, or the disk, then verify again"
    if finding.path in _NEEDED_BY_REPAIR:
        return f"move {root / finding.path} out of the cache: C10 creates it again"
    if finding.kind is ProblemKind.EXPOSED:
        return revoke_writing(root)
    return _FIXES.get(finding.kind, "c10 repair --cache {cache}").format(cache=shlex.quote(str(root)))
