"""`rebuild`: make the journal again."""

import shlex

import click

from store.maintenance.rebuild_journal import RebuildResult
from tools.command import Answer, Call, say, shared_options, trust_options
from tools.commands.build import provisioner
from tools.commands.repair import repair_answer
from tools.output import render
from tools.output.progress import shown_progress


@click.command()
@trust_options
@shared_options()
def rebuild(call: Call, *, trusted_key: tuple[str, ...], unsigned: bool) -> Answer:
    """Make the journal again from its segments, and from what still reads of the damaged file.

    Signatures that were added after the newest commit are recorded again where a trusted key vouches for them. The
    damaged file stays in quarantine. Exit code 0 when the head verifies in full afterwards, 5 if c10 repair has
    more to do, 7 if records are missing: nothing was changed then.
    """
    with shown_progress() as progress:
        trusted_keys = call.told_keys(trusted_key, unsigned=unsigned)
        rebuilt, report = provisioner(call, progress=progress, trusted_keys=trusted_keys).rebuild()
    answer = repair_answer(report, tried=False)
    if rebuilt.signatures_left:
        _tell_left(call, rebuilt)
    made = (
        ("records", render.number(rebuilt.records)),
        ("salvaged", render.number(rebuilt.salvaged)),
        ("signatures", f"{rebuilt.signatures} recorded again" if rebuilt.signatures else ""),
        ("evidence", rebuilt.quarantine),
    )
    document = {
        **answer.document,
        "records": rebuilt.records,
        "salvaged": rebuilt.salvaged,
        "segments_replaced": list(rebuilt.segments_replaced),
        "quarantine": rebuilt.quarantine or None,
        "signatures": rebuilt.signatures,
        "signatures_left": list(rebuilt.signatures_left),
    }
    document.pop("dry_run")
    return Answer(document=document, lines=[*answer.lines, "", *render.facts(made)], code=answer.code)


def _tell_left(call: Call, rebuilt: RebuildResult) -> None:
    """Say that signatures were set aside, and how they count again."""
    first, *others = rebuilt.signatures_left
    more = f" (and {len(others)} more)" if others else ""
    cache = shlex.quote(str(call.layout().root))
    say(
        f"c10: warning: {first}: expected a record of this signature, or a trusted key that vouches for it, found neither:"
        f" set aside{more}\n"
        f"  -> c10 rebuild --trusted-key FILE --cache {cache} (records it again, from quarantine too, if it holds)"
    )
