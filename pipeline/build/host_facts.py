"""Facts about this machine, for whoever looks into a build later; they enter no identity."""

import os
import platform

from journal.lock import boot_id
from store.base.distributions import version_of


def host_facts() -> dict[str, object]:
    """Return what is worth knowing about this machine when a build is looked into later."""
    return {
        "c10": version_of("c10") or "not installed",
        "boot": boot_id(),
        "host": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count() or 0,
        "pid": os.getpid(),
    }
