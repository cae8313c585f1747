"""`manifest`: the manifest file of the head."""

import shlex

import click

from store.base.canonical_json import sha256
from store.cache.mirror_history import read_shown
from store.cache.view import open_view
from store.domain.manifest_projection import project
from store.errors import ErrorKind, RequestRefusedError
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES
from tools.command import Answer, Call, print_message, shared_options


@click.command()
@shared_options()
def manifest(call: Call) -> Answer:
    """Print the manifest file of the head, byte for byte."""
    layout = call.layout()
    if layout.is_mirror():
        return Answer(raw=read_shown(layout).manifest.raw)
    view = open_view(layout)
    head = view.state.head
    if head is None:
        raise RequestRefusedError(
            f"expected a committed generation in {call.root}, found none",
            kind=ErrorKind.NO_GENERATION,
            hint=f"c10 build REQUEST --cache {shlex.quote(str(call.root))}",
        )
    name = view.observed.manifests.get(head.number)
    raw = read_regular(view.layout.manifests / name, limit=MAX_MANIFEST_BYTES) if name else None
    if raw is None or sha256(raw) != head.manifest_sha256:
        print_message(
            "c10: warning: the manifest file is missing or damaged; this is the manifest that the journal projects"
        )
        raw = project(view.state, head)
    return Answer(raw=raw)
