"""`keygen`: a new key pair, to sign caches with and to trust."""

from pathlib import Path

import click

from store.trust.key_files import write_key_pair
from tools.command import Answer, Call, shared_options
from tools.output import render


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, readable=False),
    metavar="NAME",
    help="Where the private key goes; NAME.pub gets the public one.",
)
@click.option("--comment", default="", metavar="TEXT", help="Stands in NAME.pub, behind the key.")
@shared_options(cache=False)
def keygen(call: Call, *, output: Path, comment: str) -> Answer:  # noqa: ARG001 - every command is given its call
    """Make a key pair (Ed25519): NAME signs caches, NAME.pub says whom to trust. Nothing is overwritten."""
    pair = write_key_pair(output, comment=comment)
    document = {
        "key_id": pair.key_id,
        "public_key": pair.public_bytes.hex(),
        "private": str(pair.private),
        "public": str(pair.public),
    }
    lines = [
        *render.facts(
            (
                ("key", pair.key_id),
                ("private", f"{pair.private} (keep it; it is not encrypted)"),
                ("public", pair.public),
            )
        ),
        "",
        f'sign     signing_key = "{pair.private}" in c10.toml',
        f'trust    trusted_keys = ["{pair.public}"] in c10.toml; on board as docs/trust.md says',
    ]
    return Answer(document=document, lines=lines)
