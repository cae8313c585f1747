"""What commands that work through the provisioner share: its options, and how it is put together from settings."""

from pathlib import Path

import click

from pipeline import C10ProvisionerConfig, build_cache_provisioner
from pipeline.progress import Progress
from pipeline.provisioner import CacheProvisioner
from tools.command import Call, Command

REQUEST = click.argument("request_file", metavar="REQUEST", type=click.Path(path_type=Path, readable=False))


def executor_options(command: Command) -> Command:
    """Give a command the options that say where tiles are embedded; it receives them as settings by their names."""
    for option in (
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="That cluster: HOST:PORT, auto, or local for one started here for this command.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            help="Where tiles are embedded: processes here, or actors on a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=int,
            metavar="N",
            help="Embedding processes or actors; one per core if absent.",
        ),
    ):
        command = option(command)
    return command


def provisioner(call: Call, *, progress: Progress | None = None, **flags: object) -> CacheProvisioner:
    """Put a provisioner together from settings and flags, which are settings by their names.

    Raises:
        click.UsageError: The address of a cluster was given, and tiles are not embedded on one.
        RequestError: A setting is wrong.
    """
    config = C10ProvisionerConfig.from_settings(
        call.settings(**flags), cache_root=call.root, memory_folder=call.memory_folder()
    )
    if flags.get("ray_address") is not None and config.executor != "ray":
        raise click.UsageError(f"expected --executor ray with --ray-address, found {config.executor!r}")
    return build_cache_provisioner(config, progress=progress)
