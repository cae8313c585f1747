"""A warning, in a record and in JSON."""

from store.base.cache_warning import CacheWarning


def test_a_warning_in_one_line_and_as_json():
    found = CacheWarning(kind="clock", message="the clock is wrong", hint="set it")
    assert str(found) == "the clock is wrong; set it"
    assert found.to_document() == {"kind": "clock", "message": "the clock is wrong", "hint": "set it"}
    assert str(CacheWarning(kind="k", message="nothing mends this")) == "nothing mends this"
