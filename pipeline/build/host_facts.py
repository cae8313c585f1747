"""Facts about this machine that a build records; no identity contains them."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from journal.lock import boot_id

_PROCESSOR_NAMES = ("model name", "Model", "CPU part")
"""What /proc/cpuinfo calls the kind of processor, on x86 and on Arm."""


def host_facts() -> dict[str, object]:
    """Return the facts about this machine that help to investigate a build."""
    return {
        "c10": _version(),
        "boot": boot_id(),
        "host": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": _processor(),
        "processors": os.cpu_count() or 0,
        "pid": os.getpid(),
    }


def memory_facts(root: Path = Path("/")) -> dict[str, int]:
    """Return how many bytes of memory there are and are available: of this machine, or of what a container may use.

    Args:
        root: Where `proc` and `sys` are mounted.

    Raises:
        OSError, ValueError: The kernel does not say.
    """
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, available = known["MemTotal"], known["MemAvailable"]
    for folder, limit_name, usage_name in _memory_groups(root):
        with suppress(OSError, ValueError, KeyError):  # without a limit, the file is absent or says "max"
            limit = int((folder / limit_name).read_text(encoding="ascii"))
            usage = int((folder / usage_name).read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
            # Cached files that nobody uses count as usage, and are dropped when memory runs short.
            unused = int(dict(zip(statistics[::2], statistics[1::2], strict=True))["inactive_file"])
            total, available = min(total, limit), min(available, max(0, limit - usage + unused))
    return {"available": available, "total": total}


def _memory_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the control groups of this process and those above them, with the names of limit and usage there."""
    groups = root / "sys/fs/cgroup"
    for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = groups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = top / path.strip("/")
        yield from ((each, *names) for each in (folder, *folder.parents) if each.is_relative_to(top))


def _processor() -> str:
    """Return the name of the processor; empty if the kernel does not say."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - read to a line
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in _PROCESSOR_NAMES:
                return value.strip()
    return ""


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow, and only a build that begins needs it

    try:
        return metadata.version("c10")
    except metadata.PackageNotFoundError:
        return "not installed"
