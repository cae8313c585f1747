"""Reaches a Ray cluster for one build: where it is, what an actor needs of it, and what its nodes have."""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import EmbedError, ErrorKind, RequestError
from store.errors import DiskFullError
from store.errors import ErrorKind as StoreKind
from store.runtime.backends.registry import BACKENDS

LOCAL: Final = "local"
"""The address that means: start a cluster on this machine for this build alone."""

AUTO: Final = "auto"
"""The address that means: the cluster that Ray finds by its own settings."""

_PROBE_LIMIT_S: Final = 10.0
"""Longest time in seconds in which a cluster must take a connection."""

_END_LIMIT_S: Final = 5.0
"""Longest time in seconds in which processes of a cluster that was half started may end by themselves."""

_END_GLANCE_S: Final = 0.02

_WHY_LIMIT: Final = 300


def require_ray() -> None:
    """Make sure that Ray is installed; it is not imported.

    Raises:
        RequestError: It is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise RequestError(
            "executor: expected the package ray for 'ray', found none",
            hint="pip install 'c10[ray]', or choose the executor 'local'",
        )


def resource_of(backend: str) -> str:
    """Return what bounds the number of actors that run engines of a backend: "GPU" or "CPU"."""
    return "GPU" if BACKENDS[backend].on_gpu else "CPU"


def actor_options(backend: str) -> dict[str, object]:
    """Return what an actor asks of its node, as options of Ray: one processor, and one GPU where the engine needs it.

    Nothing is restarted or sent again by Ray: that is for the build to decide, which records it.
    """
    return {
        "num_cpus": 1,
        "num_gpus": 1 if resource_of(backend) == "GPU" else 0,
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": "SPREAD",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What a cluster has now.

    Attributes:
        alive: Ids of the nodes that it takes for alive.
        room: How many actors they hold together, whoever holds them.
    """

    alive: frozenset[str]
    room: int


def nodes_of(listed: list[Mapping[str, Any]], resource: str) -> Nodes:
    """Read what `ray.nodes()` lists."""
    alive = [node for node in listed if node["Alive"]]
    return Nodes(
        alive=frozenset(node["NodeID"] for node in alive),
        room=sum(int(node["Resources"].get(resource, 0)) for node in alive),
    )


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """Connect this process to a cluster for as long as the context lasts; gives the `ray` module.

    Args:
        address: `HOST:PORT`, "auto" or "local". A process that is connected already stays with its cluster.
        workers: Processors of a cluster that is started here; by default those that this process may use.

    Raises:
        EmbedError: There is no cluster at the address, or it cannot be used.
    """
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    if address not in {LOCAL, AUTO}:
        _probe(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # A cluster of one machine has nothing to say to others: neither to a network nor to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        processors = workers or len(os.sched_getaffinity(0))
        options |= {"num_cpus": processors, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    before = _children()
    try:
        try:
            with _own_signals():
                ray.init(address=address, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _unreachable(address, error) from error
        yield ray
    finally:
        try:
            with _own_signals():
                ray.shutdown()
        finally:
            # Of a start that was interrupted half-way Ray has kept nothing that it could end.
            _end(_children() - before, str(Path(ray.__file__).parent))


def unusable(ray: Any, error: Exception) -> EmbedError | DiskFullError:  # noqa: ANN401 - as in `Crew`
    """Return what is said of an error of Ray that is no worker's: the store has no room, or the cluster no answer."""
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return DiskFullError(
            f"expected space on disk for what this machine's Ray node spills, found: {short(error)}",
            kind=StoreKind.DISK_FULL,
            hint="free space where Ray keeps its sessions, or start the node with --temp-dir on another disk",
        )
    if isinstance(error, ray.exceptions.ObjectStoreFullError):
        return EmbedError(
            f"expected room in the object store of this machine's Ray node, found: {short(error)}",
            hint="use fewer workers, or start the node with more --object-store-memory",
            kind=ErrorKind.EMBED_FAILED,
        )
    return EmbedError(
        f"expected a Ray cluster that works, found: {short(error)}",
        hint="see to it with `ray status`, then build again",
        kind=ErrorKind.BACKEND_UNAVAILABLE,
    )


def short(error: BaseException) -> str:
    """An error's class and the beginning of its text in one line: Ray's run over many."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_WHY_LIMIT]}"


def _probe(address: str) -> None:
    """Knock at the cluster's door: Ray itself would try for minutes before it says that nobody is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_LIMIT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EmbedError:
    return EmbedError(
        f"expected a Ray cluster at {address!r} (HOST:PORT, auto or local), found: {short(error)}",
        hint="start one with `ray start --head`, or make this machine one of its nodes (`ray start --address HOST:PORT`, "
        "--num-cpus 0 to embed nothing here); Ray and Python must have the same versions there",
        kind=ErrorKind.BACKEND_UNAVAILABLE,
    )


def _children() -> frozenset[int]:
    """Return the ids of this process's children."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # What stands before the last bracket is the program's name, which may hold anything.
            if int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(folder.name))
    return frozenset(found)


def _end(processes: frozenset[int], package: str) -> None:
    """End those children that run something from a package, gently at first, and take in their ends."""
    left = {process for process in processes if package.encode() in _command(process)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        ends = time.monotonic() + _END_LIMIT_S
        while left and time.monotonic() < ends:
            left -= {process for process in left if _ended(process)}
            time.sleep(_END_GLANCE_S)


def _ended(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG)[0] == process
    except ChildProcessError:
        return True


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handler of SIGTERM back: Ray sets one of its own, past which a build could not record its end.

    A signal that came while Ray's was set, and only left the interpreter, is raised again for ours.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as leaving:
        signal.signal(signal.SIGTERM, before)
        if leaving.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
