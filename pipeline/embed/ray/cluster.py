"""Connect to a Ray cluster for one build; say what an actor needs and what the nodes have."""

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
from pathlib import Path
from typing import Any, Final

from pipeline.errors import EmbedError, ErrorKind, RequestError
from store.base.valueclass import valueclass
from store.errors import DiskFullError
from store.errors import ErrorKind as StoreKind
from store.runtime.backends.base import Untyped
from store.runtime.backends.registry import BACKENDS

LOCAL: Final = "local"
"""The address that starts a cluster on this machine for this build alone."""

AUTO: Final = "auto"
"""The address of the cluster that Ray finds by its own settings."""

_PROBE_LIMIT_S: Final = 10.0
"""Longest time in seconds for connecting to a cluster."""

_END_LIMIT_S: Final = 5.0
"""Seconds that processes of a half-started cluster get to end after each signal."""

_END_POLL_S: Final = 0.02

_MAX_ERROR_TEXT: Final = 300


def require_ray() -> None:
    """Raise `RequestError` if Ray is not installed. Ray is not imported."""
    if importlib.util.find_spec("ray") is None:
        raise RequestError(
            "executor: expected the package ray for 'ray', found none",
            hint="pip install 'c10[ray]', or choose the executor 'local'",
        )


def resource_of(backend: str) -> str:
    """Return the resource of which an actor with an engine of this backend needs one: "GPU" or "CPU"."""
    return "GPU" if BACKENDS[backend].on_gpu else "CPU"


def actor_options(backend: str) -> dict[str, object]:
    """Return Ray's options for an actor: one processor, and one GPU where the engine needs it.

    Ray restarts and sends nothing again: the build decides that and records it.
    """
    return {
        "num_cpus": 1,
        "num_gpus": 1 if resource_of(backend) == "GPU" else 0,
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": "SPREAD",
    }


@valueclass(frozen=True, slots=True, kw_only=True)
class ClusterNodes:
    """The living nodes of a cluster.

    Attributes:
        alive: Their ids.
        room: How many actors they hold together, including those of other builds.
    """

    alive: frozenset[str]
    room: int


def living_nodes(listed: list[Mapping[str, Any]], resource: str) -> ClusterNodes:
    """Return the nodes that `ray.nodes()` listed."""
    alive = [node for node in listed if node["Alive"]]
    return ClusterNodes(
        alive=frozenset(node["NodeID"] for node in alive),
        room=sum(int(node["Resources"].get(resource, 0)) for node in alive),
    )


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Untyped]:
    """Connect this process to a cluster for as long as the context lasts; give the `ray` module.

    Args:
        address: `HOST:PORT`, "auto" or "local". A process that is already connected keeps its cluster.
        workers: Processors of a cluster that is started here; by default those that this process may use.

    Raises:
        EmbedError: There is no cluster at the address, or it cannot be used.
    """
    ray: Untyped = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    if address not in {LOCAL, AUTO}:
        _probe(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # A cluster of one machine talks to no network and reports nothing to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        processors = workers or len(os.sched_getaffinity(0))
        options |= {"num_cpus": processors, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    before = _child_processes()
    try:
        try:
            with _keep_sigterm_handler():
                ray.init(address=address, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _unreachable(address, error) from error
        yield ray
    finally:
        try:
            with _keep_sigterm_handler():
                ray.shutdown()
        finally:
            # After an interrupted start Ray does not know the processes that it started.
            _end_processes(_child_processes() - before, str(Path(ray.__file__).parent))


def cluster_error(ray: Untyped, error: Exception) -> EmbedError | DiskFullError:
    """Return the build's error for an error of Ray that is no worker's."""
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return DiskFullError(
            f"expected disk space for the objects that this machine's Ray node spills, found: {summarise_error(error)}",
            kind=StoreKind.DISK_FULL,
            hint="free space where Ray keeps its sessions, or start the node with --temp-dir on another disk",
        )
    if isinstance(error, ray.exceptions.ObjectStoreFullError):
        return EmbedError(
            f"expected room in the object store of this machine's Ray node, found: {summarise_error(error)}",
            hint="use fewer workers, or start the node with more --object-store-memory",
            kind=ErrorKind.EMBED_FAILED,
        )
    return EmbedError(
        f"expected a Ray cluster that works, found: {summarise_error(error)}",
        hint="check it with `ray status`, then build again",
        kind=ErrorKind.BACKEND_UNAVAILABLE,
    )


def summarise_error(error: BaseException) -> str:
    """Return an error's class and the beginning of its text in one line; Ray's texts have many."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_ERROR_TEXT]}"


def _probe(address: str) -> None:
    """Try to connect: Ray itself would try for minutes before it reports that no cluster is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_LIMIT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EmbedError:
    return EmbedError(
        f"expected a Ray cluster at {address!r} (HOST:PORT, auto or local), found: {summarise_error(error)}",
        hint="start one with `ray start --head`, or make this machine one of its nodes (`ray start --address HOST:PORT`, "
        "--num-cpus 0 to embed nothing here); Ray and Python must have the same versions there",
        kind=ErrorKind.BACKEND_UNAVAILABLE,
    )


def _child_processes() -> frozenset[int]:
    """Return the ids of this process's children."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The program's name, in brackets, may itself contain brackets and spaces.
            if int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(folder.name))
    return frozenset(found)


def _end_processes(processes: frozenset[int], package: str) -> None:
    """End those children that run something from a package, with SIGTERM before SIGKILL, and reap them."""
    left = {process for process in processes if package.encode() in _command(process)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        ends = time.monotonic() + _END_LIMIT_S
        while left and time.monotonic() < ends:
            left -= {process for process in left if _has_ended(process)}
            time.sleep(_END_POLL_S)


def _has_ended(process: int) -> bool:
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
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler: with Ray's own, a build could not record that it was terminated.

    A signal that Ray's handler turned into `SystemExit` is raised again for ours.
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
