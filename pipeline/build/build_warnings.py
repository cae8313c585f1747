"""Collect what a build warns of."""

from collections.abc import Sequence

from journal.errors import JournalError
from pipeline.build.report import counts_of
from pipeline.stages.context import BuildContext
from store.base.cache_warning import CacheWarning
from store.domain import problem_lines
from store.domain.events import CoverageWalked
from store.domain.proof import figures_of
from store.domain.state import Generation
from store.trust.signatures import TrustedKey


def warnings_of_build(run: BuildContext, before: Generation | None) -> tuple[CacheWarning, ...]:
    """Return what a build warns of, as far as it came.

    Args:
        run: The build.
        before: The head before its commit.
    """
    try:
        build = run.store.state.builds.get(run.number)
    except JournalError:  # closed after an error, which is what the report is about
        build = None
    area = None if build is None else build.coverage
    proof = figures_of(build.proof) if build and build.proof else None
    found = (*run.warnings, *run.inputs.judge(counts_of(area), proof).warnings)
    if area is None:
        return found
    number, signed = 1 + (before.number if before else 0), run.store.signer is not None
    return (*found, *_foreign_files(area), *warn_if_unsigned(before, number, run.keys, signed=signed))


def warn_if_unsigned(
    before: Generation | None, number: int, keys: Sequence[TrustedKey] = (), *, signed: bool
) -> tuple[CacheWarning, ...]:
    """Return a warning if a generation is unsigned although keys are trusted, or the one before it was signed."""
    if signed:
        return ()
    if keys:
        wanted = " or ".join(key.key_id for key in keys)
        found, so = f"by {wanted}", "c10 verify refuses it until it is signed"
    elif before is not None and before.signatures:
        found, so = f"as {before.number} is", "where a signature is wanted, it will be refused"
    else:
        return ()
    return (
        CacheWarning(
            kind="unsigned",
            message=f"expected generation {number} to be signed {found}, found no signing_key: {so}",
            hint=f"c10 sign {number}",
        ),
    )


def _foreign_files(area: CoverageWalked) -> tuple[CacheWarning, ...]:
    """Return a warning of the foreign files that a build which is not strict about them went on with."""
    if not area.problems:
        return ()
    number = problem_lines.count(area.problems)
    return (
        CacheWarning(
            kind="foreign-files",
            message=f"{number} {'files' if number > 1 else 'file'} among the artifacts that C10 did not make"
            f" ({area.problems[0]:.120}): c10 verify --full calls that NO-GO",
            hint="c10 repair sets them aside",
        ),
    )
