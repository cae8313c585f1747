"""What is worth saying about a request, a build or a cache, and is no error. Pure."""

from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class CacheWarning:
    """A warning: a stable kind for scripts, what was expected and found, and the command or key that mends it."""

    kind: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Message and hint in one line, as records keep it."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def to_document(self) -> dict[str, str]:
        """Return its entry in the `warnings` of `--json`."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}
