"""`mirror`: bring a read-only copy of a cache up to its head."""

from pathlib import Path
from typing import Any

import click

from pipeline.config import C10ProvisionerConfig
from store.transfer.mirror import Mirrored
from store.transfer.mirror import mirror as bring_mirror
from tools.command import Answer, Call, shared_options
from tools.output import render
from tools.output.progress import byte_progress, shown_progress


@click.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path, readable=False))
@click.option("--full", is_flag=True, help="Hash what DEST has, and replace what is damaged.")
@shared_options()
def mirror(call: Call, *, destination: Path, full: bool) -> Answer:
    """Bring a read-only copy in the folder DEST, such as a card, to the head of this cache.

    Moves what is missing there and nothing else, the head last; may be interrupted and run again.
    """
    config = C10ProvisionerConfig.from_settings(call.settings(), cache_root=call.root)
    with shown_progress() as progress:
        on_total, on_bytes = byte_progress(progress, "mirror")
        found = bring_mirror(
            call.layout(),
            destination,
            full=full,
            lock_timeout_s=config.lock_timeout_s,
            on_total=on_total,
            on_bytes=on_bytes,
        )
        if found.changed:
            progress.finish()
    return Answer(document=_mirrored(found, destination), lines=_mirror_lines(found, destination))


def _mirrored(found: Mirrored, destination: Path) -> dict[str, Any]:
    return {
        "destination": str(destination),
        "changed": found.changed,
        "generation": found.generation,
        "previous": found.previous,
        "files": found.files,
        "bytes": found.size,
        "replaced": list(found.replaced),
    }


def _mirror_lines(found: Mirrored, destination: Path) -> list[str]:
    if not found.changed:
        return [f"nothing to do: {destination} shows generation {found.generation}"]
    before = "nothing" if found.previous is None else f"generation {found.previous}"
    return [
        f"{destination} shows generation {found.generation}",
        "",
        *render.facts(
            (
                ("before", before),
                ("moved", f"{render.plural(found.files, 'file')}, {render.size(found.size)}"),
                (
                    "replaced",
                    render.plural(len(found.replaced), "damaged artifact") if found.replaced else None,
                ),
            )
        ),
    ]
