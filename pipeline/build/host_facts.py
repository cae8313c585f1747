"""Facts about this machine, for whoever looks into a build later; they enter no identity."""

import os
import platform
from importlib import metadata

from journal.lock import boot_id


def host_facts() -> dict[str, object]:
    """Return what is worth knowing about this machine when a build is looked into later."""
    return {
        "c10": _version(),
        "boot": boot_id(),
        "host": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count() or 0,
        "pid": os.getpid(),
    }


def _version() -> str:
    try:
        return metadata.version("c10")
    except metadata.PackageNotFoundError:
        return "not installed"
