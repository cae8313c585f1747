import pytest

from journal.record import MAX_RECORD_BYTES
from store.domain import problem_lines


@pytest.mark.parametrize("number", [0, 1, 99, 100, 101, 70_000])
def test_a_shortened_list_fits_into_a_record_and_keeps_its_count(number):
    lines = [f"{place}: {chr(0x10FFFF) * 4096}" for place in range(number)]
    short = problem_lines.shorten(lines)
    assert problem_lines.count(short) == number
    assert sum(len(line.encode()) for line in short) < MAX_RECORD_BYTES // 2
    assert [line.split(":")[0] for line in short[:100]] == [str(place) for place in range(min(number, 100))]
