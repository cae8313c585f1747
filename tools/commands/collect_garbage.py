"""`gc`: remove what no kept generation needs."""

import shlex
from typing import Any, Final

import click

from store.cache.view import open_view
from store.domain.state import State
from store.maintenance.collect_garbage import CollectionResult
from store.policy.retention import KeepPolicy
from tools.command import Answer, Call, Number, shared_options
from tools.output import render
from tools.provisioner import provisioner

_MOST_KEPT: Final = 1_000_000_000
"""More than there are builds, and a number that the journal can record."""


@click.command()
@click.option(
    "--keep",
    type=Number(1, _MOST_KEPT),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of builds to keep.",
)
@click.option("--yes", is_flag=True, help="Remove the files; without it only list them.")
@click.option(
    "--unfinished", is_flag=True, help="Also collect the work of a build that died or was interrupted."
)
@shared_options()
def gc(call: Call, *, keep: int, yes: bool, unfinished: bool) -> Answer:
    """List what no kept generation needs, and remove it with --yes.

    Kept are the last N builds that were shown, accepted generations, and the build that a rollback would
    show.
    """
    policy = KeepPolicy(keep=keep, unfinished=not unfinished)
    found = provisioner(call).collect(policy, dry_run=not yes)
    state = open_view(call.layout()).state
    document = _document(found, state)
    more = " --unfinished" if unfinished else ""
    command = f"c10 gc --keep {keep}{more} --yes --cache {shlex.quote(str(call.layout().root))}"
    return Answer(document=document, lines=_lines(found, document, command), lasting=found.done)


def _document(found: CollectionResult, state: State) -> dict[str, Any]:
    decision = found.decision
    shown: dict[int, list[int]] = {}
    for number, generation in state.generations.items():
        shown.setdefault(generation.origin, []).append(number)
    return {
        "done": found.done,
        "policy": dict(decision.policy.to_document()),
        "kept": [
            {"build": origin, "generations": shown[origin], "why": str(why)}
            for origin, why in sorted(decision.origins.items(), reverse=True)
        ],
        "kept_files": {
            str(why): {"files": files, "bytes": size} for why, (files, size) in decision.kept.items()
        },
        "collected_generations": list(decision.collected_generations),
        "removed": {
            str(why): {"files": files, "bytes": size} for why, (files, size) in decision.removed.items()
        },
        "projections": {"files": found.projections[0], "bytes": found.projections[1]},
        "files": found.files,
        "bytes": found.size,
    }


def _lines(found: CollectionResult, document: dict[str, Any], command: str) -> list[str]:
    what = f"{render.plural(found.files, 'file')}, {render.size(found.size)}"
    if found.empty:
        first = "nothing to collect"
    else:
        first = f"removed {what}" if found.done else f"would remove {what}"
    lines = [first, ""]
    for each in document["kept"]:
        numbers = ", ".join(map(str, each["generations"]))
        lines += render.fields(("keep", f"build {each['build']} (generation {numbers}): {each['why']}"))
    for why, each in document["kept_files"].items():
        lines += render.fields(("stay", _amount(each, why)))
    gone = ", ".join(map(str, document["collected_generations"]))
    lines += render.fields(("collect", f"generation {gone}" if gone else None))
    for why, each in document["removed"].items():
        lines += render.fields(("go", _amount(each, why)))
    if found.projections[0]:
        lines += render.fields(("go", _amount(document["projections"], "manifests and signatures")))
    if not found.empty and not found.done:
        lines += ["", f"nothing was removed yet: {command}"]
    return lines


def _amount(each: dict[str, int], why: str) -> str:
    return f"{render.plural(each['files'], 'file')}, {render.size(each['bytes'])}: {why}"
