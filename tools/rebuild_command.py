"""`rebuild`: make the journal again."""

import click

from tools import render
from tools.build_command import provisioner
from tools.edge import Answer, Call, shared_options, trust_options
from tools.progress import shown_progress
from tools.repair_command import repair_answer


@click.command()
@trust_options
@shared_options()
def rebuild(call: Call, *, trusted_key: tuple[str, ...], unsigned: bool) -> Answer:
    """Make the journal again from its segments, and from what still reads of the damaged file.

    The damaged file stays in quarantine. Exit code 0 when the head verifies in full afterwards, 5 if c10 repair has
    more to do, 7 if records are missing: nothing was changed then.
    """
    with shown_progress() as progress:
        trusted_keys = call.told_keys(trusted_key, unsigned=unsigned)
        rebuilt, report = provisioner(call, None, progress=progress, trusted_keys=trusted_keys).rebuild()
    answer = repair_answer(report, tried=False)
    made = (
        ("records", render.number(rebuilt.records)),
        ("salvaged", render.number(rebuilt.salvaged)),
        ("evidence", rebuilt.quarantine),
    )
    document = {
        **answer.document,
        "records": rebuilt.records,
        "salvaged": rebuilt.salvaged,
        "segments_replaced": list(rebuilt.segments_replaced),
        "quarantine": rebuilt.quarantine or None,
    }
    document.pop("dry_run")
    return Answer(document=document, lines=[*answer.lines, "", *render.facts(made)], code=answer.code)
