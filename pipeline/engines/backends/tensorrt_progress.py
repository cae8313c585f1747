"""How far a compiler has come, from the phases it reports. Pure.

TensorRT tells of phases within phases, each with a number of steps; names and nesting change from version to version, and
several threads may tell at once. Here they become one number that never falls. A phase counts within the step of its
parent that is under way, so the whole is as even as the compiler's own steps are.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class _Phase:
    steps: int
    done: int = 0
    within: dict[str, "_Phase"] = field(default_factory=dict)

    def part(self) -> float:
        """How much of this phase is done, 0 to 1."""
        inner = max((phase.part() for phase in self.within.values()), default=0.0)
        return min(1.0, (self.done + min(inner, 0.99)) / self.steps)


@dataclass(slots=True, kw_only=True)
class BuildPhases:
    """The phases that are under way.

    Attributes:
        part: How much of the whole is done, 0 to 1; it never falls.
        name: The phase that was heard of last.
    """

    part: float = 0.0
    name: str = ""
    _root: _Phase = field(default_factory=lambda: _Phase(steps=1))
    _open: dict[str, tuple[_Phase, _Phase]] = field(default_factory=dict)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps began, within another one or on its own."""
        outer = self._open[parent][0] if parent in self._open else self._root
        phase = _Phase(steps=max(1, steps))
        outer.within[name] = phase
        self._open[name] = phase, outer
        self.name = name

    def step(self, name: str, number: int) -> None:
        """A phase has completed a step, counted from 0."""
        if name in self._open:
            phase = self._open[name][0]
            phase.done = max(phase.done, number + 1)
            phase.within.clear()
            self._settle()

    def finish(self, name: str) -> None:
        """A phase is over; what it was worth is told by its parent's next step."""
        if name in self._open:
            self._open.pop(name)[0].done = 1 << 30
            self._settle()

    def _settle(self) -> None:
        self.part = max(self.part, self._root.part())
