"""`rebuild`: rebuild a damaged or lost journal."""

import shlex

import click

from store.maintenance.rebuild_journal import RebuildResult
from tools.command import Answer, Call, print_message, shared_options, trust_options
from tools.commands.repair import repair_answer
from tools.output import render
from tools.output.progress import shown_progress
from tools.provisioner import provisioner


@click.command()
@trust_options
@shared_options()
def rebuild(call: Call, *, trusted_key: tuple[str, ...], unsigned: bool) -> Answer:
    """Rebuild the journal from its segments and from the readable part of the damaged file.

    Signatures that were added after the newest commit are recorded again if a trusted key confirms them. The
    damaged file is kept in quarantine. Exit code 0: the head now verifies in full; 5: run c10 repair next; 7:
    records are missing and nothing was changed.
    """
    with shown_progress() as progress:
        trusted_keys = call.trusted_keys_setting(trusted_key, unsigned=unsigned)
        rebuilt, report = provisioner(call, progress=progress, trusted_keys=trusted_keys).rebuild()
    answer = repair_answer(report, repaired=False)
    if rebuilt.signatures_left:
        _warn_of_signatures_left(call, rebuilt)
    facts = (
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
    return Answer(
        document=document, lines=[*answer.lines, "", *render.fields(*facts)], code=answer.code, lasting=True
    )


def _warn_of_signatures_left(call: Call, rebuilt: RebuildResult) -> None:
    """Say that signatures were set aside, and how to record them again."""
    first, *others = rebuilt.signatures_left
    more = f" (and {len(others)} more)" if others else ""
    cache = shlex.quote(str(call.layout().root))
    print_message(
        f"c10: warning: {first}: expected a record of this signature, or a trusted key that vouches for it, found neither:"
        f" set aside{more}\n"
        f"  -> c10 rebuild --trusted-key FILE --cache {cache} (records it again, from quarantine too, if it holds)"
    )
