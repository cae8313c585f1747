"""Record in which order a process writes, links and syncs, by the names of what it calls."""

import os
from pathlib import Path


def record_durability(monkeypatch):
    """Return a list that grows by ("write" | "link" | "fsync", name) with each call; a draft is called "draft"."""
    calls = []

    def name_of(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return "draft" if path.name.startswith("#") or path.name.endswith("(deleted)") else path.name

    def record(what, real, name):
        def call(*arguments, **options):
            found = real(*arguments, **options)
            calls.append((what, name(*arguments)))
            return found

        monkeypatch.setattr(os, real.__name__, call)

    record("fsync", os.fsync, name_of)
    record("write", os.pwrite, lambda fd, *_: name_of(fd))
    record("link", os.link, lambda _, name: Path(name).name)
    return calls
