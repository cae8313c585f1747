"""`keygen`: create a key pair."""

from pathlib import Path

import click

from store.trust.key_files import write_key_pair
from tools.command import LOCAL_FILE, Answer, Call, shared_options
from tools.output import render


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    type=LOCAL_FILE,
    metavar="NAME",
    help="File of the private key; the public key goes to NAME.pub.",
)
@click.option("--comment", default="", metavar="TEXT", help="Comment in NAME.pub, after the key.")
@shared_options(cache=False)
def keygen(call: Call, *, output: Path, comment: str) -> Answer:  # noqa: ARG001 - every command gets a call
    """Create a key pair (Ed25519): NAME signs caches, NAME.pub says whom to trust. Overwrites nothing."""
    pair = write_key_pair(output, comment=comment)
    document = {
        "key_id": pair.key_id,
        "public_key": pair.public_bytes.hex(),
        "private": str(pair.private),
        "public": str(pair.public),
    }
    lines = [
        *render.fields(
            ("key", pair.key_id),
            ("private", f"{pair.private} (keep it; it is not encrypted)"),
            ("public", pair.public),
        ),
        "",
        f'sign     signing_key = "{pair.private}" in c10.toml',
        f'trust    trusted_keys = ["{pair.public}"] in c10.toml; on board as docs/trust.md says',
    ]
    return Answer(document=document, lines=lines, lasting=True)
