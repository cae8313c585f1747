"""How a child process can end, as values. Pure.

The `log` of each is what the child wrote to standard error.
"""

from pipeline.processes.framing import Message
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The child returned the answer `value`."""

    value: Message
    log: str = ""


@valueclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The child raised an exception, or exited without an answer.

    Attributes:
        kind: Name of the exception's class.
        message: Its text.
        traceback: Where it was raised, in the child.
        log: See the module.
        fields: Message, hint, kind, step and subject of an error of this package, to raise it again.
    """

    kind: str
    message: str
    traceback: str
    log: str = ""
    fields: tuple[str | None, ...] = ()


@valueclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A signal such as "SIGSEGV" ended the child."""

    signal: str
    log: str


@valueclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Memory ran out: the kernel killed the child, or an allocation in it failed, as `message` says."""

    message: str
    log: str


@valueclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The child was killed when it passed its limit in seconds."""

    seconds: float
    log: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The answer of a remote worker did not arrive, as `message` says; the worker may still run."""

    message: str
    log: str = ""


Outcome = Finished | Failed | Died | OutOfMemory | TimedOut
