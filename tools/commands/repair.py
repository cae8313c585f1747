"""`repair`: heal what can be healed, and tell what was done about each thing."""

from collections.abc import Sequence

import click

from pipeline.repair.report import RepairAction, RepairReport
from store.verify.report import CacheProblem
from tools.command import Answer, Call, complain, say, shared_options, trust_options
from tools.commands.build import executor_options, provisioner
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import shown_progress


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be tried; do nothing.")
@click.option(
    "--trust-plugins", is_flag=True, help="Load libraries that recorded requests name (engine.plugins)."
)
@trust_options
@executor_options
@shared_options()
def repair(
    call: Call,
    *,
    dry_run: bool,
    trust_plugins: bool,
    trusted_key: tuple[str, ...],
    unsigned: bool,
    **executor: object,
) -> Answer:
    """Heal manifests, signatures, segments and artifacts; damaged bytes stay in quarantine.

    Steps whose results are damaged run again from what their build recorded. Exit code 0 when the head verifies in
    full afterwards, 5 otherwise; what stays damaged of earlier generations is named with what to do. A damaged journal
    is for c10 rebuild.
    """
    with shown_progress() as progress:
        trusted_keys = call.told_keys(trusted_key, unsigned=unsigned)
        maker = provisioner(call, progress=progress, trusted_keys=trusted_keys, **executor)
        report = maker.repair(dry_run=dry_run, trust_plugins=trust_plugins)
    return repair_answer(report, tried=not dry_run)


def repair_answer(report: RepairReport, *, tried: bool) -> Answer:
    """Turn a report into an answer; what is left is told on standard error, with what mends it.

    Args:
        report: What was done.
        tried: Whether a repair has done what it can, so that another one is no remedy.
    """
    left = _head_first(report)
    if not report.go:
        first = str(left[0]) if left else "expected a committed generation, found none"
        complain(f"NO-GO: {first}{_more(left)}", _left_to_do(left[0], tried=tried) if left else "")
    elif left:
        say(f"c10: warning: not mended: {left[0]}{_more(left)}")
    return Answer(
        document=report.to_document(),
        lines=[*repair_lines(report), *(() if report.dry_run else _left_lines(left, tried=tried))],
        code=ExitCode.DONE if report.go else ExitCode.NO_GO,
    )


def _head_first(report: RepairReport) -> list[CacheProblem]:
    generation = report.verification.generation if report.verification else 0
    return sorted(report.left, key=lambda problem: generation not in problem.generations)


def _more(left: Sequence[CacheProblem]) -> str:
    return f" (and {len(left) - 1} more)" if len(left) > 1 else ""


def _left_to_do(problem: CacheProblem, *, tried: bool) -> str:
    """Return what mends a problem, other than what was tried just now."""
    if not tried:
        return problem.fix
    return problem.last_resort or ("" if problem.fix.startswith("c10 repair ") else problem.fix)


def _left_lines(left: Sequence[CacheProblem], *, tried: bool) -> list[str]:
    """What is still wrong, in which generations, and what to do about it."""
    lines = list[str]()
    for problem in left:
        generations = ", ".join(map(str, problem.generations))
        pairs = (("generations", generations), ("to do", _left_to_do(problem, tried=tried)))
        lines += [
            "",
            *render.wrap(f"still wrong: {problem}"),
            *(f"   {line}" for line in render.facts(pairs)),
        ]
    return lines


def repair_lines(report: RepairReport) -> list[str]:
    """What was mended and how the cache stands, for people."""
    generation = report.verification.generation if report.verification else None
    shown = f"generation {generation}" if generation else "no committed generation"
    lines = [f"{'GO' if report.go else 'NO-GO'}  {shown}"]
    if not report.actions:
        return [*lines, "", "nothing to repair"]
    for mend in report.actions:
        lines += ["", *_mend(mend)]
    return lines


def _mend(mend: RepairAction) -> list[str]:
    mark = "mended" if mend.ok else "not mended"
    pairs = (("was", mend.was), (mark, mend.action), ("evidence", mend.quarantine))
    return [*render.wrap(mend.what), *(f"   {line}" for line in render.facts(pairs))]
