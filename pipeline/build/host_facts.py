"""Facts about this machine that a build records; no identity contains them."""

import os
import platform
from importlib import metadata

from journal.lock import boot_id


def host_facts() -> dict[str, object]:
    """Return the facts about this machine that help to investigate a build."""
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
