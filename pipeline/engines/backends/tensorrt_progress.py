"""Turn the phases that a compiler reports into one progress number. Pure.

TensorRT reports phases within phases, each with a number of steps; names and nesting differ between versions,
and several threads may report at once. Here they become one number that never falls. A phase counts as a part
of its parent's present step.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class _Phase:
    steps: int
    done: int = 0
    within: dict[str, "_Phase"] = field(default_factory=dict)

    def part(self) -> float:
        """Return the part of this phase that is done, 0 to 1."""
        inner = max((phase.part() for phase in self.within.values()), default=0.0)
        return min(1.0, (self.done + min(inner, 0.99)) / self.steps)


@dataclass(slots=True, kw_only=True)
class BuildPhases:
    """The phases that are under way.

    Attributes:
        part: The part of the whole that is done, 0 to 1; it never falls.
        name: The phase that started last.
    """

    part: float = 0.0
    name: str = ""
    _root: _Phase = field(default_factory=lambda: _Phase(steps=1))
    _open: dict[str, tuple[_Phase, _Phase]] = field(default_factory=dict)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Record that a phase of so many steps started, within another one or on its own."""
        outer = self._open[parent][0] if parent in self._open else self._root
        phase = _Phase(steps=max(1, steps))
        outer.within[name] = phase
        self._open[name] = phase, outer
        self.name = name

    def step(self, name: str, number: int) -> None:
        """Record that a phase completed a step, counted from 0."""
        if name in self._open:
            phase = self._open[name][0]
            phase.done = max(phase.done, number + 1)
            phase.within.clear()
            self._update_part()

    def finish(self, name: str) -> None:
        """Record that a phase ended; its parent's next step says how much it counted."""
        if name in self._open:
            self._open.pop(name)[0].done = 1 << 30
            self._update_part()

    def _update_part(self) -> None:
        self.part = max(self.part, self._root.part())
