"""`have`: what a cache has, for an export that leaves it out."""

import click

from store.transfer.have import find_have
from tools.command import Answer, Call, shared_options


@click.command()
@click.option("--full", is_flag=True, help="Hash the artifacts: damaged ones count as lacking.")
@shared_options()
def have(call: Call, *, full: bool) -> Answer:
    """Print what a cache has, in one line, so that c10 export --have sends only the rest.

    The folder may be empty or absent: that cache has nothing. Where the cache goes to another machine:

    \b
    ssh HOST c10 have --cache DIR
      | c10 export --have - -o - --cache DIR
      | ssh HOST c10 import - --follow --cache DIR
    """  # noqa: D301 - click's mark of text that is not wrapped
    return Answer(raw=find_have(call.layout(), full=full).encode())
