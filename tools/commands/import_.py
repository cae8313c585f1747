"""`import`: create a cache from a bundle, or update a cache from a newer one."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from pipeline.build.host_facts import host_facts
from pipeline.config import C10ProvisionerConfig
from pipeline.lock import CacheLock
from store.base.clock import SystemClock
from store.transfer.bundle_reader import BundleReader, open_bundle, read_stream
from store.transfer.import_bundle import ImportResult, import_bundle
from tools.command import Answer, Call, shared_options, trust_options
from tools.output import render
from tools.output.progress import byte_progress, shown_progress
from tools.streams import FILE_OR_STDIN, standard_input


@click.command("import")
@click.argument("bundle", metavar="FILE", type=FILE_OR_STDIN)
@click.option(
    "--follow",
    "follows",
    is_flag=True,
    help="Do not record the import, so that later bundles of the same cache can be imported too.",
)
@trust_options
@shared_options()
def import_(
    call: Call, *, bundle: Path | str, follows: bool, trusted_key: tuple[str, ...], unsigned: bool
) -> Answer:
    """Create a cache from a bundle, or update a cache that has the bundle's first records.

    With - as FILE the bundle is the standard input.

    With trusted keys the import ends with the newest generation: records behind it are left out.

    Exit code 5: the bundle is damaged, lacks a trusted signature, or lacks a file that its newest generation
    shows. The journal is then unchanged.
    """
    config = C10ProvisionerConfig.from_settings(call.settings(), cache_root=call.root)
    layout = call.layout()
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    opened = nullcontext(_arriving()) if isinstance(bundle, str) else open_bundle(bundle)
    with opened as reader, shown_progress(bars=isinstance(bundle, Path)) as progress:
        _ = reader.header  # before the lock: if this is no bundle, no folder of a cache is created
        on_total, on_bytes = byte_progress(progress, "import")
        with CacheLock(layout, config.lock_timeout_s):
            found = import_bundle(
                layout,
                reader,
                clock=SystemClock(),
                host=host_facts(),
                trusted_keys=trusted_keys,
                follows=follows,
                on_total=on_total,
                on_bytes=on_bytes,
            )
        progress.finish()
    return Answer(document=_document(found), lines=_lines(found, call), lasting=True)


def _arriving() -> BundleReader:
    return read_stream(standard_input("a bundle"), "standard input")


def _document(found: ImportResult) -> dict[str, Any]:
    head = found.state.head
    return {
        "outcome": str(found.outcome),
        "cache_id": found.state.cache_id,
        "generation": head.number if head else None,
        "build": head.origin if head else None,
        "manifest_sha256": head.manifest_sha256 if head else None,
        "records": found.state.position.seq,
        "artifacts": {"files": len(found.stored), "bytes": sum(ref.size for ref in found.stored)},
        "sha256": found.file.sha256,
    }


def _lines(found: ImportResult, call: Call) -> list[str]:
    first = {
        "imported": f"imported into {call.root}",
        "advanced": f"brought {call.root} up to the bundle",
        "unchanged": f"nothing to do: {call.root} holds these records",
    }[str(found.outcome)]
    head = found.state.head
    size = sum(ref.size for ref in found.stored)
    return [
        first,
        "",
        *render.fields(
            ("generation", f"{head.number}, shows build {head.origin}" if head else "none committed yet"),
            ("records", render.number(found.state.position.seq)),
            *(
                (("left out", f"{render.plural(found.left_out, 'record')} that no signature covers"),)
                * bool(found.left_out)
            ),
            ("stored", f"{render.plural(len(found.stored), 'artifact')}, {render.size(size)}"),
        ),
    ]
