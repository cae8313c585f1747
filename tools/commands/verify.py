"""`verify`: check a cache on the ground, and say whether it may fly."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from store.base.cache_warning import CacheWarning
from store.base.clock import SystemClock, utc_day
from store.trust.readiness import Readiness
from store.verify.report import CacheProblem, Depth, VerifyReport
from store.verify.verify import verify as verify_cache
from tools.command import Answer, Call, Number, print_error, shared_options, trust_options
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import byte_progress, shown_progress
from tools.output.readiness import fields, verdict

_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|min|m|h|)")


class _Duration(click.ParamType[float]):
    """A duration such as 20s, 1.5min or 500ms; a plain number is in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Return seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"expected a time such as 20s, 2min or 500ms, found {value!r}", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.option("--quick", is_flag=True, help="Check type and size of every file (the default).")
@click.option("--full", is_flag=True, help="Hash all files of all generations; load engine and index.")
@click.option(
    "--budget",
    type=_Duration(),
    help="Hash engines, index and tables, then blocks until this time, such as 20s, is over.",
)
@click.option("--seed", type=Number(0), metavar="N", help="Seed of the sample, to repeat an earlier one.")
@click.option("--strict", is_flag=True, help="Make every warning a NO-GO.")
@trust_options
@shared_options()
def verify(
    call: Call,
    *,
    strict: bool,
    quick: bool,
    full: bool,
    budget: float | None,
    seed: int | None,
    trusted_key: tuple[str, ...],
    unsigned: bool,
) -> Answer:
    """Say GO or NO-GO for the generation that the head shows, and list what is wrong and how to fix it."""
    if quick + full + (budget is not None) > 1:
        raise click.UsageError("expected one of --quick, --full and --budget, found more")
    if seed is not None and budget is None:
        raise click.UsageError("expected --budget with --seed, found none")
    depth = Depth.FULL if full else Depth.QUICK if budget is None else Depth.BUDGET
    hashing = depth is not Depth.QUICK
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    with shown_progress() as progress:
        on_total, on_bytes = byte_progress(progress, "verify")
        result = verify_cache(
            call.layout(),
            depth=depth,
            budget_s=budget or 0.0,
            seed=secrets.randbelow(1 << 31) if seed is None else seed,
            trusted_keys=trusted_keys,
            on_total=on_total if hashing else None,
            on_bytes=on_bytes if hashing else None,
        )
        if hashing:
            progress.finish()
    return _answer(result, result.readiness(utc_day(SystemClock())), call, strict=strict)


def _answer(result: VerifyReport, readiness: Readiness, call: Call, *, strict: bool) -> Answer:
    refused = readiness.warnings if strict else ()
    go = result.go and not refused
    document = _document(result, readiness, go=go, refused=refused)
    lines = _lines(result, document)
    if go:
        return Answer(document=document, lines=lines)
    if call.as_json:
        first, *others = document["problems"]
        more = f" (and {len(others)} more)" if others else ""
        print_error(f"NO-GO: {first['subject']}: {first['found']}{more}", first["mend"])
    only_device = result.only_device and not refused
    return Answer(
        document=document, lines=lines, code=ExitCode.INCOMPATIBLE if only_device else ExitCode.NO_GO
    )


def _document(
    result: VerifyReport, readiness: Readiness, *, go: bool, refused: Sequence[CacheWarning]
) -> dict[str, Any]:
    return {
        "go": go,
        "head_sound": result.head_sound,
        "depth": str(result.depth),
        "generation": result.generation,
        "build": result.origin,
        "identity": result.identity,
        "manifest_sha256": result.manifest_sha256,
        "body_sha256": result.body_sha256,
        "files": result.looked_at,
        "hashed_files": result.hashed.files,
        "hashed_bytes": result.hashed.size,
        "total_files": result.hashed.files_total,
        "total_bytes": result.hashed.size_total,
        "unreferenced_files": result.unreferenced,
        "unreferenced_bytes": result.unreferenced_size,
        "seed": result.seed,
        "signed_by": result.signed_by,
        "problems": [*map(_problem, result.problems), *(_refusal(each, result) for each in refused)],
        "warnings": [each.to_document() for each in readiness.warnings],
        "readiness": readiness.to_document(),
        "notes": list(result.notes),
        "not_loaded": list(result.not_loaded) if result.depth is Depth.FULL else None,
    }


def _problem(problem: CacheProblem) -> dict[str, Any]:
    return {
        "kind": str(problem.kind),
        "subject": problem.subject,
        "found": problem.found,
        "path": problem.path,
        "generations": list(problem.generations),
        "mend": problem.fix,
    }


def _refusal(warning: CacheWarning, result: VerifyReport) -> dict[str, Any]:
    """Return a warning as the problem that --strict makes of it."""
    return {
        "kind": warning.kind,
        "subject": "warning",
        "found": warning.message,
        "path": "",
        "generations": [result.generation],
        "mend": warning.hint,
    }


def _lines(result: VerifyReport, document: Mapping[str, Any]) -> list[str]:
    hashed = result.hashed
    share = 100 * hashed.size / hashed.size_total if hashed.size_total else 100.0
    seed = f", sample {result.seed}" if result.seed is not None else ""
    if result.depth is Depth.QUICK:
        how = f"type and size of {render.plural(result.looked_at, 'file')}"
    else:
        how = (
            f"hashed {hashed.files:,} of {render.plural(hashed.files_total, 'file')},"
            f" {render.size(hashed.size)} of {render.size(hashed.size_total)} ({share:.0f} %){seed}"
        )
    left = None
    if result.unreferenced:
        count = render.plural(result.unreferenced, "file")
        left = f"{count} that no record names, {render.size(result.unreferenced_size)}; harmless"
    problems, warnings = document["problems"], document["warnings"]
    what = f"generation {result.generation} (build {result.origin})"
    lines: list[str] = [verdict(what, go=document["go"], warnings=len(warnings))]
    for number, problem in enumerate(problems, start=1):
        lines += ["", *render.wrap(f"{number}. {problem['subject']}: {problem['found']}")]
        touched = ", ".join(map(str, problem["generations"])) or "none"
        lines += [f"   {line}" for line in render.fields(("file", problem["path"]), ("generations", touched))]
        lines.append(f"   {'mend':<13}{problem['mend']}")
    lines += [
        "",
        *render.fields(
            (str(result.depth), how),
            *fields(document["readiness"]),
            ("identity", result.identity),
            ("manifest", result.manifest_sha256),
            ("signed by", result.signed_by),
            ("left over", left),
            *(("note", note) for note in result.notes),
        ),
    ]
    if document["go"] and warnings:
        lines += ["", *render.warning_lines(warnings)]
    if result.problems and result.head_sound:
        intact = f"Generation {result.generation} itself is intact: none of these problems affects it."
        if len(problems) > len(result.problems):
            last = len(result.problems)
            intact = (
                f"The files of generation {result.generation} are intact: "
                + ("problem 1 does" if last == 1 else f"problems 1 to {last} do")
                + " not affect it. The others are warnings, for which --strict refuses it."
            )
        lines += ["", *render.wrap(intact)]
    return lines
