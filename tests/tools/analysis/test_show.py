from types import SimpleNamespace

from store.domain.events import CellEmbedded, StepRetried
from tests.played_builds import make
from tools.analysis import show_document
from tools.analysis.show_text import show_lines


def test_a_retry_is_a_step_of_its_own():
    retried = StepRetried(kind="cells", subjects=("18/1/2",), attempt=2, why="killed")
    record = SimpleNamespace(event=retried, seq=3, wall_ns=0, mono_ns=0, build=1)
    (step,) = show_document._steps([record])
    assert "attempt 2: killed" in step.values()


def test_cells_of_a_build_whose_windows_are_not_in_the_journal_took_an_unknown_time():
    record = SimpleNamespace(
        event=make(CellEmbedded, rows=3, embedded=2), seq=3, wall_ns=0, mono_ns=9, build=1
    )
    (step,) = show_document._steps([record])
    assert (step["rows"], step["embedded"], step["ms"]) == (3, 2, None)


def test_a_build_that_failed_before_it_selected_tiles_has_no_tiles(built):
    document = built.json("show", "1")
    assert any("wanted" in line for line in show_lines(document))
    assert not any("wanted" in line for line in show_lines(document | {"tiles": None}))


def test_inputs_within_inputs_are_told_without_the_signs_of_a_program(built):
    document = built.json("show", "1")
    levels = {"levels": [{"k": 1, "m": 7, "wanted": {"side_m": 120}}], "digest": "ab" * 32}
    shown = show_lines(document | {"inputs": {"chunks": levels, "at": [1, [2, 3]]}})
    assert "  chunks       digest=abababababababab levels=((k=1 m=7 wanted=(side_m=120)))" in shown
    assert "  at           1, (2, 3)" in shown
