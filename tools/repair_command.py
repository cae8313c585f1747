"""`repair`: heal what can be healed, and tell what was done about each thing."""

import click

from pipeline.mends import Mend, RepairReport
from tools import render
from tools.build_command import provisioner
from tools.edge import Answer, Call, complain, shared_options, trust_options
from tools.exit_codes import ExitCode
from tools.progress import shown_progress


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be tried; do nothing.")
@trust_options
@shared_options()
def repair(call: Call, *, dry_run: bool, trusted_key: tuple[str, ...], unsigned: bool) -> Answer:
    """Heal manifests, signatures, segments and artifacts; damaged bytes stay in quarantine.

    Steps whose results are damaged run again from what their build recorded. Exit code 0 when the head verifies in
    full afterwards, 5 otherwise; a damaged journal is for c10 rebuild.
    """
    with shown_progress() as progress:
        trusted_keys = call.told_keys(trusted_key, unsigned=unsigned)
        report = provisioner(call, None, progress=progress, trusted_keys=trusted_keys).repair(dry_run=dry_run)
    return repair_answer(report, tried=not dry_run)


def repair_answer(report: RepairReport, *, tried: bool) -> Answer:
    """Turn a report into an answer; what is left is told on standard error, with what mends it.

    Args:
        report: What was done.
        tried: Whether a repair has done what it can, so that another one is no remedy.
    """
    if not report.go:
        left = [str(problem) for problem in report.left] or ["expected a committed generation, found none"]
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        mend = report.left[0].mend if report.left else ""
        complain(f"NO-GO: {left[0]}{more}", "" if tried and mend.startswith("c10 repair ") else mend)
    return Answer(
        document=report.to_document(),
        lines=repair_lines(report),
        code=ExitCode.DONE if report.go else ExitCode.NO_GO,
    )


def repair_lines(report: RepairReport) -> list[str]:
    """What was mended and how the cache stands, for people."""
    generation = report.verification.generation if report.verification else None
    shown = f"generation {generation}" if generation else "no committed generation"
    lines = [f"{'GO' if report.go else 'NO-GO'}  {shown}"]
    if not report.mends:
        return [*lines, "", "nothing to repair"]
    for mend in report.mends:
        lines += ["", *_mend(mend)]
    return lines


def _mend(mend: Mend) -> list[str]:
    mark = "mended" if mend.ok else "not mended"
    pairs = (("was", mend.was), (mark, mend.action), ("evidence", mend.quarantine))
    return [*render.wrap(mend.what), *(f"   {line}" for line in render.facts(pairs))]
