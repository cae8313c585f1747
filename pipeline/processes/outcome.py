"""How a child process can end, as values. Pure."""

from dataclasses import dataclass

from pipeline.processes.framing import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The child answered.

    Attributes:
        value: Its answer.
        log: What it wrote to standard error until then.
    """

    value: Message
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The child raised an exception, or ended in good order without an answer.

    Attributes:
        kind: Name of the exception's class.
        message: Its text.
        traceback: Where it was raised, in the child.
        log: What the child wrote to standard error.
        fields: Of an error of this package message, hint, kind, step and subject, so that it can be raised again.
    """

    kind: str
    message: str
    traceback: str
    log: str = ""
    fields: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A signal ended the child.

    Attributes:
        signal: The signal's name, such as "SIGSEGV".
        log: What the child wrote to standard error.
    """

    signal: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Memory ran out: the kernel killed the child, or an allocation in it failed.

    Attributes:
        message: How that showed.
        log: What the child wrote to standard error.
    """

    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The child was killed because it took too long.

    Attributes:
        seconds: The limit that it passed.
        log: What the child wrote to standard error.
    """

    seconds: float
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The answer of a worker far away did not arrive, whatever became of the worker.

    Attributes:
        message: How that showed.
        log: What is known of it besides.
    """

    message: str
    log: str = ""


Outcome = Finished | Failed | Died | OutOfMemory | TimedOut
