"""`doctor`: check this machine, its packages, and the file system and state of a cache. It writes nothing.

Engine backends and tile sources name the packages that they need in their registries.
"""

import fcntl
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click

from journal.errors import JournalError
from journal.lock import lock_holder
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from pipeline.tiles.sources.registry import SOURCES
from store.base.valueclass import valueclass
from store.cache.view import View, open_view
from store.disk.layout import Layout
from store.disk.scratch import RESERVE_NAME
from store.domain.state import BuildStatus
from store.errors import StoreError
from store.files.permissions import revoke_writing, writable_folders_at
from store.runtime.backends.gpu import gpus
from store.runtime.backends.registry import BACKENDS
from tools.command import Answer, Call, shared_options
from tools.exit_codes import ExitCode, code_of
from tools.output import page, render

_NEEDED: Final = (
    "lmdb",
    "msgpack",
    "numpy",
    "portalocker",
    "click",
    "rich",
    "mercantile",
    "pmtiles",
    "shapely",
    "pillow",
)
_EXTRAS: Final = ("onnx", "simplejpeg", "cryptography", "cuda-python")
_FAISS: Final = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs")
_LEAST_FREE: Final = 256 << 20
_OLDEST_PYTHON: Final = (3, 10)


@valueclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Something that is wrong, how to fix it, and its exit code."""

    text: str
    fix: str
    code: ExitCode = ExitCode.REFUSED


@dataclass(slots=True, kw_only=True)
class _Findings:
    """What the checks found."""

    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str | None] = field(default_factory=dict)
    cache: dict[str, Any] | None = None
    problems: list[_Problem] = field(default_factory=list)

    def add_problem(self, text: str, fix: str, code: ExitCode = ExitCode.REFUSED) -> None:
        self.problems.append(_Problem(text=text, fix=fix, code=code))

    def add_error(self, error: JournalError | StoreError) -> None:
        self.add_problem(error.message, error.hint, code_of(error))


@click.command()
@shared_options()
def doctor(call: Call) -> Answer:
    """Check this machine and its packages, and with --cache that cache."""
    found = _Findings()
    _check_machine(found)
    _check_packages(found)
    if call.cache is not None:
        try:
            _check_cache(found, call.layout())
        except OSError as error:
            found.add_problem(
                f"expected to look into {error.filename or call.cache}, found: {error.strerror or error}",
                "run as its owner, or fix its permissions",
                code_of(error),
            )
    worst = ExitCode.DONE
    if found.problems:
        codes = {problem.code for problem in found.problems}
        worst = ExitCode.DAMAGED if ExitCode.DAMAGED in codes else ExitCode.REFUSED
    document = {
        "ok": not found.problems,
        "machine": found.machine,
        "packages": found.packages,
        "cache": found.cache,
        "problems": [{"text": problem.text, "mend": problem.fix} for problem in found.problems],
    }
    return Answer(document=document, lines=_lines(found), code=worst)


def _check_machine(found: _Findings) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found.machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "sealed_memory": _can_seal_memory(),
        "nvidia": _nvidia_driver(),
        "gpus": [gpu.to_document() for gpu in gpus()],
    }
    if sys.version_info < _OLDEST_PYTHON:
        found.add_problem(
            f"expected Python 3.10 or newer, found {platform.python_version()}", "install Python 3.10"
        )
    if sys.platform != "linux":
        found.add_problem(f"expected Linux, found {sys.platform}", "use Linux")
    if not found.machine["sealed_memory"]:
        found.add_problem(
            "expected memory files that can be sealed (memfd), found none: the reader cannot load engines here",
            "use Linux 3.17 or newer, without a sandbox that forbids memfd_create",
        )


def _check_packages(found: _Findings) -> None:
    engines = [package for backend in BACKENDS.values() for package in backend.packages]
    sources = [package for kind in SOURCES.values() for package in kind.packages]
    for name in (*_NEEDED, *_FAISS, *engines, *_EXTRAS, *sources):
        version = _version(name)
        if version is not None or name in _NEEDED:
            found.packages[name] = version
        if version is None and name in _NEEDED:
            found.add_problem(f"expected the package {name}, found none", "pip install 'c10[cpu]'")
    faiss = [name for name in _FAISS if name in found.packages]
    if not faiss:
        found.add_problem(
            "expected faiss, found none: no index can be built or searched", "pip install 'c10[cpu]'"
        )
    if len(faiss) > 1:
        found.add_problem(
            f"expected one faiss package, found {' and '.join(faiss)}, which install the same module",
            f"pip uninstall {' '.join(faiss)}, then install one of them",
        )
    if not any(name in found.packages for name in engines):
        found.add_problem(
            "expected a library that runs engines, found none", "pip install 'c10[cpu]' (brings onnxruntime)"
        )


def _check_cache(found: _Findings, layout: Layout) -> None:
    root = layout.root
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    number = filesystem_type(existing)
    facts: dict[str, Any] = {
        "root": str(root),
        "exists": layout.exists(),
        "file_system": _mount_type(existing),
    }
    found.cache = facts
    try:
        require_supported_filesystem(number, existing, allow_unknown=False)
        facts["file_system_accepted"] = True
    except JournalError as error:
        facts["file_system_accepted"] = False
        found.add_error(error)
    # Every file is published by a hard link. Accepted file systems have them; to try one would write.
    facts["hard_links"] = facts["file_system_accepted"]
    facts["nameless_files"] = _has_tmpfile(existing)
    facts["writable"] = os.access(existing, os.W_OK | os.X_OK)
    if not facts["writable"]:
        found.add_problem(
            f"expected to be allowed to write in {existing}, found that it is not", "run as its owner"
        )
    for reason in writable_folders_at(root):
        found.add_problem(reason, revoke_writing(root))
    free = shutil.disk_usage(existing).free
    facts["free_bytes"] = free
    if free < _LEAST_FREE:
        found.add_problem(
            f"expected at least {render.size(_LEAST_FREE)} free, found {render.size(free)}", "free disk space"
        )
    facts["exists"] = layout.exists()
    facts["lock"] = _lock_holder(found, layout)
    if facts["exists"] and not layout.is_mirror():
        _check_journal(found, layout, facts)


def _check_journal(found: _Findings, layout: Layout, facts: dict[str, Any]) -> None:
    try:
        facts["journal_bytes"] = layout.journal.lstat().st_size
    except OSError:
        facts["journal_bytes"] = None
    reserve = layout.scratch / RESERVE_NAME
    facts["reserve_bytes"] = reserve.lstat().st_size if reserve.exists() else 0
    try:
        view = open_view(layout)
    except (StoreError, JournalError) as error:
        found.add_error(error)
        return
    _check_history(found, view, facts)


def _check_history(found: _Findings, view: View, facts: dict[str, Any]) -> None:
    state, root = view.state, view.layout.root
    counts = [build.status for build in state.builds.values()]
    facts |= {
        "records": view.head.seq,
        "builds": len(counts),
        "failed_builds": len(counts) - counts.count(BuildStatus.COMMITTED) - counts.count(BuildStatus.OPEN),
        "generations": len(state.generations),
        "head": state.head.number if state.head else None,
        "open_build": state.open_build,
    }
    if state.unknown:
        found.add_problem(
            f"expected events this version knows, found {state.unknown[0]}",
            "use the newer C10 that wrote this cache",
            ExitCode.DAMAGED,
        )
    if state.open_build is not None and facts["lock"] is None:
        found.add_problem(
            f"expected no running build, found build {state.open_build}, whose process is gone",
            f"c10 build REQUEST --cache {shlex.quote(str(root))} (marks it as abandoned and reuses what it finished)",
        )
    unpublished = [
        number
        for number in state.generations
        if number not in view.observed.segments
        or (number not in view.observed.manifests and number not in state.collected_generations)
    ]
    if unpublished:
        found.add_problem(
            f"expected manifest and segment of generation {unpublished[0]}, found one of them missing",
            f"c10 build REQUEST --cache {shlex.quote(str(root))} (writes them again from the journal)",
        )


def _lock_holder(found: _Findings, layout: Layout) -> Mapping[str, object] | None:
    try:
        return lock_holder(layout.build_lock)
    except JournalError as error:
        found.add_error(error)
        return None


def _lines(found: _Findings) -> list[str]:
    machine = found.machine
    lines = [
        *render.section(
            "Machine",
            render.fields(
                ("python", machine["python"]),
                ("system", f"{machine['system']}, {machine['machine']}"),
                ("processors", machine["processors"]),
                ("memory", render.size(machine["memory_bytes"])),
                ("memfd seals", "yes" if machine["sealed_memory"] else "NO"),
                ("nvidia", machine["nvidia"] or "no driver"),
                ("gpu", _gpu_line(machine)),
            ),
        ),
        *render.section("Packages", _package_lines(found.packages)),
    ]
    if found.cache is not None:
        lines += render.section("Cache", render.fields(*_cache_facts(found.cache)))
    problems: list[str] = []
    for number, problem in enumerate(found.problems, start=1):
        problems += [*render.wrap(f"{number}. {problem.text}", page.text_width() - 2), f"   -> {problem.fix}"]
    lines += render.section("Problems", problems or ["none"])
    return lines[1:]


def _package_lines(packages: Mapping[str, str | None]) -> list[str]:
    shown = [f"{name} {version or 'MISSING'}" for name, version in packages.items()]
    half = (len(shown) + 1) // 2
    width = max(len(text) for text in shown) + 4
    if 2 * width > page.text_width():
        return shown
    pairs = zip(shown[:half], [*shown[half:], ""][:half], strict=True)
    return [f"{left:<{width}}{right}".rstrip() for left, right in pairs]


def _cache_facts(cache: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    accepted = "accepted" if cache["file_system_accepted"] else "REFUSED"
    holder = cache.get("lock")
    lock = "free"
    if holder is not None:
        lock = f"held by pid {holder.get('pid', '?')} on {holder.get('host', '?')}"
    yield "folder", cache["root"] + (" (no cache yet)" if cache["exists"] is False else "")
    yield "file system", f"{cache['file_system']}, {accepted}"
    yield "hard links", "yes" if cache["hard_links"] else "unknown"
    yield "O_TMPFILE", "yes" if cache["nameless_files"] else "no; scratch files are used instead"
    yield "writable", "yes" if cache["writable"] else "NO"
    yield "free space", render.size(cache["free_bytes"])
    yield "build lock", lock if "lock" in cache else "unknown"
    if "journal_bytes" in cache and cache["journal_bytes"] is not None:
        records = f", {render.plural(cache['records'], 'record')}" if "records" in cache else ""
        yield "journal", f"{render.size(cache['journal_bytes'])}{records}"
        yield "reserve", render.size(cache["reserve_bytes"])
    if "generations" in cache:
        yield "generations", f"{cache['generations']}, head {cache['head'] or 'none'}"
        yield "builds", f"{cache['builds']}, of which {cache['failed_builds']} did not end in a commit"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _can_seal_memory() -> bool:
    try:
        fd = os.memfd_create("c10-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _has_tmpfile(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True


def _gpu_line(machine: Mapping[str, Any]) -> str:
    found = [str(gpu) for gpu in gpus()]
    if not found and machine["nvidia"] and _version("cuda-python") is None:
        return "unknown: pip install cuda-python"
    return "; ".join(found) or "none"


def _nvidia_driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def _mount_type(path: Path) -> str:
    """Return the kernel's name of the file system that holds a path; see proc(5), mountinfo."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    for line in lines:
        left, _, right = line.partition(" - ")
        if left.split()[2:3] == [wanted] and right:
            return right.split()[0]
    return "unknown"
