"""`accept`: mark a generation as good. It does not wait for a build."""

import click

from pipeline.build.host_facts import host_facts
from store.base.clock import SystemClock
from store.cache.optimistic_append import accept as accept_generation
from tools.command import NUMBER, Answer, Call, shared_options
from tools.output import render


@click.command()
@click.argument("generation", metavar="GENERATION", type=NUMBER)
@click.option("--why", default="", metavar="TEXT", help="Reason to record.")
@shared_options()
def accept(call: Call, *, generation: int, why: str) -> Answer:
    """Mark GENERATION as good: gc keeps what it shows. Does not wait for a running build."""
    found = accept_generation(call.layout(), generation, why=why, host=host_facts(), clock=SystemClock())
    document = {
        "generation": found.generation,
        "build": found.origin,
        "changed": found.changed,
        "accepted": list(found.accepted),
    }
    what = f"generation {found.generation} (build {found.origin})"
    first = f"accepted {what}" if found.changed else f"nothing to do: {what} was accepted before"
    accepted = ", ".join(map(str, found.accepted))
    return Answer(document=document, lines=[first, "", *render.fields(("accepted", accepted))], lasting=True)
