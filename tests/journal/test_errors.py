import inspect

from journal import errors

TREE = {
    "JournalError": ("Exception", "journal"),
    "JournalDamagedError": ("JournalError", "journal-damaged"),
    "JournalFullError": ("JournalError", "journal-full"),
    "JournalPermissionError": ("JournalError", "journal-permission"),
    "JournalFilesystemError": ("JournalError", "journal-filesystem"),
    "JournalVersionError": ("JournalError", "journal-version"),
    "JournalMissingError": ("JournalError", "journal-missing"),
    "JournalExistsError": ("JournalError", "journal-exists"),
    "HeadMovedError": ("JournalError", "journal-head-moved"),
    "BuildLockHeldError": ("JournalError", "build-lock-held"),
    "JournalMisuseError": ("JournalError", "journal-misuse"),
    "JournalClosedError": ("JournalMisuseError", "journal-closed"),
    "JournalIOError": ("JournalError", "journal-io"),
    "JournalResourcesError": ("JournalIOError", "resources"),
    "RecordError": ("JournalError", "journal-record"),
}


def test_classes_and_kinds_of_errors_do_not_change():
    found = {
        name: (kind.__bases__[0].__name__, str(kind.kind))
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.JournalError)
    }
    assert found == TREE


def test_every_kind_has_one_class():
    assert sorted(kind for _, kind in TREE.values()) == sorted(errors.ErrorKind)


def test_text_has_message_and_hint():
    error = errors.JournalFullError("no space", hint="free some")
    assert (error.message, error.hint, str(error)) == ("no space", "free some", "no space; free some")
    assert str(errors.JournalIOError("broken")) == "broken"


def test_damage_always_has_a_hint():
    assert errors.JournalDamagedError("x").hint
    assert errors.JournalDamagedError("x", seq=4, problems=("a",)).seq == 4


def test_exports_of_the_package():
    import journal

    assert {"Journal", "Record", "Head", "Entry"} <= set(journal.__all__)
    others = set(journal.__all__) - {"Journal", "Record", "Head", "Entry"}
    assert others <= set(TREE)
    assert all(hasattr(journal, name) for name in journal.__all__)
