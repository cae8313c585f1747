"""The provisioner of a command: the options that configure it, and how it is built from settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from pipeline import C10ProvisionerConfig, build_cache_provisioner
from pipeline.progress import Progress
from pipeline.provisioner import CacheProvisioner
from tools.command import PATH, Call, Command

_NO_CACHE: Final = Path(os.devnull)
"""A folder that no cache is in, nor ever will be."""

REQUEST = click.argument("request_file", metavar="REQUEST", type=PATH)


def executor_options(command: Command) -> Command:
    """Give a command the options for the executor of embedding; it receives them as settings."""
    for option in (
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="Ray cluster: HOST:PORT, auto, or local to start one for this command.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            help="Embed tiles in processes here, or in actors on a Ray cluster.",
        ),
        click.option(
            "--workers",
            type=int,
            metavar="N",
            help="Number of embedding processes or actors; default: one per core.",
        ),
    ):
        command = option(command)
    return command


def provisioner(call: Call, *, progress: Progress | None = None, **flags: object) -> CacheProvisioner:
    """Build a provisioner from settings and flags. The flags have the names of settings.

    Raises:
        click.UsageError: The address of a Ray cluster was given, but the executor is another.
        RequestError: A setting is wrong.
    """
    return _provisioner(call, call.root, progress, flags)


def planner(call: Call, *, progress: Progress | None = None, **flags: object) -> CacheProvisioner:
    """Build a provisioner that only plans, for which no cache need be named; else as `provisioner`."""
    return _provisioner(call, call.cache or _NO_CACHE, progress, flags)


def _provisioner(
    call: Call, root: Path, progress: Progress | None, flags: Mapping[str, object]
) -> CacheProvisioner:
    config = C10ProvisionerConfig.from_settings(
        call.settings(**flags), cache_root=root, digest_cache_folder=call.digest_cache_folder()
    )
    if flags.get("ray_address") is not None and config.executor != "ray":
        raise click.UsageError(f"expected --executor ray with --ray-address, found {config.executor!r}")
    return build_cache_provisioner(config, progress=progress)
