"""`mirror`: update a read-only copy of a cache."""

from pathlib import Path
from typing import Any

import click

from pipeline.config import C10ProvisionerConfig
from store.transfer.mirror import MirrorResult
from store.transfer.mirror import mirror as update_mirror
from tools.command import LOCAL_FOLDER, Answer, Call, shared_options
from tools.output import render
from tools.output.progress import byte_progress, shown_progress


@click.command()
@click.argument("destination", metavar="DEST", type=LOCAL_FOLDER)
@click.option("--full", is_flag=True, help="Hash the files in DEST, and replace damaged ones.")
@shared_options()
def mirror(call: Call, *, destination: Path, full: bool) -> Answer:
    """Update a read-only copy of this cache in the folder DEST, for example on a card.

    Copies only the files that DEST lacks, the head last. It can be interrupted and run again.
    """
    config = C10ProvisionerConfig.from_settings(call.settings(), cache_root=call.root)
    with shown_progress() as progress:
        on_total, on_bytes = byte_progress(progress, "mirror")
        found = update_mirror(
            call.layout(),
            destination,
            trusted_keys=call.trusted_keys(),
            full=full,
            lock_timeout_s=config.lock_timeout_s,
            on_total=on_total,
            on_bytes=on_bytes,
        )
        if found.changed:
            progress.finish()
    return Answer(document=_document(found, destination), lines=_lines(found, destination), lasting=True)


def _document(found: MirrorResult, destination: Path) -> dict[str, Any]:
    return {
        "destination": str(destination),
        "changed": found.changed,
        "generation": found.generation,
        "previous": found.previous,
        "files": found.files,
        "bytes": found.size,
        "replaced": list(found.replaced),
    }


def _lines(found: MirrorResult, destination: Path) -> list[str]:
    if not found.changed:
        return [f"nothing to do: {destination} shows generation {found.generation}"]
    before = "nothing" if found.previous is None else f"generation {found.previous}"
    return [
        f"{destination} shows generation {found.generation}",
        "",
        *render.fields(
            ("before", before),
            ("moved", f"{render.plural(found.files, 'file')}, {render.size(found.size)}"),
            (
                "replaced",
                render.plural(len(found.replaced), "damaged artifact") if found.replaced else None,
            ),
        ),
    ]
