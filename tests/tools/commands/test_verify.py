"""The verdict of `c10 verify`."""

from store.reader.flight_cache import FlightCache
from store.runtime.load import RuntimeUnavailableError


def test_a_go_says_what_could_not_be_loaded_here(built, monkeypatch):
    def unavailable(*_):
        raise RuntimeUnavailableError("expected faiss, found none", hint="pip install '.[cpu]'")

    assert built.json("verify", "--full")["not_loaded"] == []
    monkeypatch.setattr(FlightCache, "descriptor_index", unavailable)
    document = built.json("verify", "--full")
    assert (document["go"], document["not_loaded"]) == (True, ["descriptor index"])
    monkeypatch.setattr(FlightCache, "engine", unavailable)
    document = built.json("verify", "--full")
    lost = [each["message"] for each in document["warnings"] if each["kind"] == "not-loaded"]
    assert [each.partition(" was ")[0] for each in lost] == ["engine tiny", "descriptor index"]
    assert document["readiness"]["loaded"] is False
    # Other depths load nothing, whether they could or not.
    assert built.json("verify")["not_loaded"] is None
    assert not any(each["kind"] == "not-loaded" for each in built.json("verify")["warnings"])
