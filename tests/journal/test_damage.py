import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]


def trials(*arguments):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("damage_trials.py"), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments", [["--trials", "400"], ["--trials", "48", "--guarded"]], ids=["here", "child"]
)
def test_a_damaged_journal_neither_kills_the_reader_nor_gives_wrong_records(arguments):
    found = trials(*arguments)
    assert found["wrong"] == []
    total = collections.Counter()
    for outcome in found["outcomes"].values():
        total.update(outcome)
    assert total.total() == found["trials"]
    # Only these: sound (the damage hit a free page), damage reported, or the newest commits lost, which no file can
    # show by itself. And the trials must have had an effect.
    assert set(total) <= {"same", "journal-damaged", "tail lost"}
    assert total["journal-damaged"] > found["trials"] // 3
    assert found["outcomes"]["truncate"]["journal-damaged"] > 0
