"""`export`, `import` and `mirror`: a cache, or what is needed to look into one of its builds, on another machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.build.host_facts import host_facts
from pipeline.config import C10ProvisionerConfig
from pipeline.lock import CacheLock
from pipeline.progress import Progress
from store.base.clock import SystemClock
from store.transfer.bundle_format import Choice
from store.transfer.bundle_reader import open_bundle
from store.transfer.export import ExportResult
from store.transfer.export import export as write_bundle
from store.transfer.import_bundle import ImportResult, import_bundle
from store.transfer.mirror import MirrorResult
from store.transfer.mirror import mirror as bring_mirror
from tools.command import Answer, Call, complain, shared_options, trust_options
from tools.exit_codes import ExitCode
from tools.output import render
from tools.output.progress import shown_progress

_MISSING_SHOWN = 20

Counting: TypeAlias = Callable[[int], None]


@click.command()
@click.argument("build", metavar="[BUILD]", required=False, type=click.IntRange(1))
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="The bundle to be made.",
)
@click.option(
    "--artifacts",
    "choice",
    type=click.Choice([str(choice) for choice in Choice]),
    help="Which to carry; by default all, of a failed BUILD what its failing step worked on.",
)
@shared_options()
def export(call: Call, *, build: int | None, target: Path, choice: str | None) -> Answer:
    """Write the journal's records, up to the end of BUILD, and artifacts into one file.

    It checks itself, is the same bytes from any machine, and is read by c10 import and c10 replay --bundle.
    """
    with shown_progress() as progress:
        on_total, on_bytes = _told(progress, "export")
        found = write_bundle(
            call.layout(),
            target,
            build=build,
            choice=None if choice is None else Choice(choice),
            on_total=on_total,
            on_bytes=on_bytes,
        )
        progress.finish()
    if found.missing:
        count = render.plural(len(found.missing), "artifact")
        complain(
            f"expected everything that the records need, found {count} missing or damaged; the bundle is made without",
            f"c10 repair --cache {call.root}",
        )
    return Answer(
        document=_exported(found),
        lines=_export_lines(found),
        code=ExitCode.NO_GO if found.missing else ExitCode.DONE,
    )


@click.command("import")
@click.argument("bundle", metavar="FILE", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--follow",
    "follows",
    is_flag=True,
    help="Record nothing of it, so that later bundles of the same cache can be imported, too.",
)
@trust_options
@shared_options()
def import_(
    call: Call, *, bundle: Path, follows: bool, trusted_key: tuple[str, ...], unsigned: bool
) -> Answer:
    """Make a cache of a bundle in a new place, or bring a cache that has its beginning up to it.

    Exit code 5 if the bundle is damaged, not signed as it should be, or lacks what its newest generation shows; the journal
    is then as it was.
    """
    config = C10ProvisionerConfig.from_settings(call.settings(), cache_root=call.root)
    layout = call.layout()
    # What is no bundle must not leave the folder of a cache behind.
    with open_bundle(bundle) as reader:
        _ = reader.header
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    with shown_progress() as progress, CacheLock(layout, config.lock_timeout_s):
        on_total, on_bytes = _told(progress, "import")
        found = import_bundle(
            layout,
            bundle,
            clock=SystemClock(),
            host=host_facts(),
            trusted_keys=trusted_keys,
            follows=follows,
            on_total=on_total,
            on_bytes=on_bytes,
        )
        progress.finish()
    return Answer(document=_imported(found), lines=_import_lines(found, call))


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
        on_total, on_bytes = _told(progress, "mirror")
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


def _told(progress: Progress, what: str) -> tuple[Counting, Counting]:
    """Return what a copy tells of its bytes to."""
    return (lambda total: progress.start(what, total=total, unit="bytes")), progress.advance


def _exported(found: ExportResult) -> dict[str, Any]:
    header = found.header
    return {
        "file": str(found.path),
        "sha256": found.file.sha256,
        "bytes": found.file.size,
        "cache_id": header.cache_id,
        "build": header.build,
        "records": header.records,
        "chain": header.chain,
        "artifacts": {"choice": str(header.choice), "files": header.artifacts, "bytes": header.size},
        "missing": list(found.missing),
    }


def _export_lines(found: ExportResult) -> list[str]:
    header = found.header
    carried = f"{header.choice}: {render.plural(header.artifacts, 'file')}, {render.size(header.size)}"
    up_to = "" if header.build is None else f", up to the end of build {header.build}"
    more = len(found.missing) - _MISSING_SHOWN
    return [
        f"exported {found.path}",
        "",
        *render.facts(
            (
                ("records", f"{render.number(header.records)}{up_to}"),
                ("artifacts", carried),
                ("size", render.size(found.file.size)),
                ("SHA-256", found.file.sha256),
            )
        ),
        *render.facts(("missing", digest) for digest in found.missing[:_MISSING_SHOWN]),
        *(render.facts((("missing", f"and {more:,} more"),)) if more > 0 else ()),
    ]


def _imported(found: ImportResult) -> dict[str, Any]:
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


def _import_lines(found: ImportResult, call: Call) -> list[str]:
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
        *render.facts(
            (
                ("generation", f"{head.number}, shows build {head.origin}" if head else "none committed yet"),
                ("records", render.number(found.state.position.seq)),
                ("stored", f"{render.plural(len(found.stored), 'artifact')}, {render.size(size)}"),
            )
        ),
    ]


def _mirrored(found: MirrorResult, destination: Path) -> dict[str, Any]:
    return {
        "destination": str(destination),
        "changed": found.changed,
        "generation": found.generation,
        "previous": found.previous,
        "files": found.files,
        "bytes": found.size,
        "replaced": list(found.replaced),
    }


def _mirror_lines(found: MirrorResult, destination: Path) -> list[str]:
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
