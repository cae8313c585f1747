"""`repair`: repair what is damaged, and say what was done about each file."""

from collections.abc import Sequence

import click

from pipeline.repair.report import RepairAction, RepairReport
from store.verify.report import CacheProblem
from tools.command import Answer, Call, print_error, print_message, shared_options, trust_options
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import executor_options, provisioner


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be tried.")
@click.option(
    "--trust-plugins", is_flag=True, help="Load the libraries that recorded requests name (engine.plugins)."
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
    """Repair manifests, signatures, segments and artifacts. Damaged bytes are kept in quarantine.

    A step with a damaged result runs again from its recorded inputs. Exit code 0: the head now verifies in
    full; 5: it does not. Damage that is left in earlier generations is listed with what to do. A damaged
    journal needs c10 rebuild.
    """
    with shown_progress() as progress:
        trusted_keys = call.trusted_keys_setting(trusted_key, unsigned=unsigned)
        report = provisioner(call, progress=progress, trusted_keys=trusted_keys, **executor).repair(
            dry_run=dry_run, trust_plugins=trust_plugins
        )
    return repair_answer(report, repaired=not dry_run)


def repair_answer(report: RepairReport, *, repaired: bool) -> Answer:
    """Return the answer of a repair; print on standard error what is still wrong, and how to fix it.

    Args:
        report: What was done.
        repaired: Whether a repair has just run, so that running it again would not help.
    """
    left = _head_first(report)
    if not report.go:
        first = str(left[0]) if left else "expected a committed generation, found none"
        print_error(f"NO-GO: {first}{_more(left)}", _next_step(left[0], repaired=repaired) if left else "")
    elif left:
        print_message(f"c10: warning: not mended: {left[0]}{_more(left)}")
    return Answer(
        document=report.to_document(),
        lines=[*repair_lines(report), *(() if report.dry_run else _left_lines(left, repaired=repaired))],
        code=ExitCode.DONE if report.go else ExitCode.NO_GO,
        lasting=not report.dry_run,
    )


def _head_first(report: RepairReport) -> list[CacheProblem]:
    generation = report.verification.generation if report.verification else 0
    return sorted(report.left, key=lambda problem: generation not in problem.generations)


def _more(left: Sequence[CacheProblem]) -> str:
    return f" (and {len(left) - 1} more)" if len(left) > 1 else ""


def _next_step(problem: CacheProblem, *, repaired: bool) -> str:
    """Return how to fix a problem, leaving out what was just tried."""
    if not repaired:
        return problem.fix
    return problem.last_resort or ("" if problem.fix.startswith("c10 repair ") else problem.fix)


def _left_lines(left: Sequence[CacheProblem], *, repaired: bool) -> list[str]:
    """Return what is still wrong, in which generations, and what to do about it."""
    lines = list[str]()
    for problem in left:
        generations = ", ".join(map(str, problem.generations))
        pairs = (("generations", generations), ("to do", _next_step(problem, repaired=repaired)))
        lines += [
            "",
            *render.wrap(f"still wrong: {problem}"),
            *(f"   {line}" for line in render.fields(*pairs)),
        ]
    return lines


def repair_lines(report: RepairReport) -> list[str]:
    """Return whether the cache may fly, and what was repaired."""
    generation = report.verification.generation if report.verification else None
    shown = f"generation {generation}" if generation else "no committed generation"
    lines = [f"{'GO' if report.go else 'NO-GO'}  {shown}"]
    if not report.actions:
        return [*lines, "", "nothing to repair"]
    for action in report.actions:
        lines += ["", *_action_lines(action)]
    return lines


def _action_lines(action: RepairAction) -> list[str]:
    mark = "mended" if action.ok else "not mended"
    pairs = (("was", action.was), (mark, action.action), ("evidence", action.quarantine))
    return [*render.wrap(action.what), *(f"   {line}" for line in render.fields(*pairs))]
