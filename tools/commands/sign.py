"""`sign`: add a signature to a committed generation."""

from pathlib import Path

import click

from tools.command import NUMBER, PATH, Answer, Call, shared_options
from tools.output import render
from tools.provisioner import provisioner


@click.command()
@click.argument("generation", metavar="[GENERATION]", type=NUMBER, required=False)
@click.option(
    "--key",
    type=PATH,
    metavar="FILE",
    help="Private key; default: the setting signing_key.",
)
@shared_options()
def sign(call: Call, *, generation: int | None, key: Path | None) -> Answer:
    """Add a signature to GENERATION, by default the newest.

    Its manifest does not change. Nothing happens if this key has signed it already.
    """
    found = provisioner(call, signing_key=None if key is None else str(key)).sign(generation)
    document = {
        "generation": found.generation,
        "build": found.origin,
        "key_id": found.key_id,
        "changed": found.changed,
        "signed_by": list(found.signed_by),
        "manifest_sha256": found.manifest_sha256,
    }
    what = f"generation {found.generation} (build {found.origin})"
    first = f"signed {what}" if found.changed else f"nothing to do: {what} has this signature"
    facts = (
        ("key", found.key_id),
        ("manifest", found.manifest_sha256),
        ("signed by", ", ".join(found.signed_by)),
    )
    return Answer(document=document, lines=[first, "", *render.fields(*facts)], lasting=True)
