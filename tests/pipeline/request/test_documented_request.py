"""The request that the documentation shows whole is one."""

import re
from pathlib import Path

from pipeline.request.request import BuildRequest

TEXT = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text("utf-8")


def test_the_request_in_the_documentation_is_read(tmp_path):
    text = next(each for each in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL) if "flight_id" in each)
    request = BuildRequest.parse(text, base=tmp_path)
    assert request.altitude_m == (100, 150)
    assert request.warnings == ()
