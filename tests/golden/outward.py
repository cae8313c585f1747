"""What others script against, written down: keys, structures and names, held to golden files.

A document is described by a line for each object in it, named by its path: `steps[]` is every object of the list
`steps`. Digests and numbers that stand as keys count as one. `python -m pytest --write-golden FILE...` writes the
golden files of the named tests anew; read their difference before it is committed.
"""

import json
import re
from collections import Counter
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from journal import Journal

HERE = Path(__file__).parent
DIGEST = re.compile(r"[0-9a-f]{32,}")
NUMBER = re.compile(r"\d+")
MADE_UP_KEY = re.compile(r"[0-9a-f]{32,}|\d+(/\d+)*")
WRITE = "--write-golden"


class Golden:
    """Holds what is found today against a golden file, or writes the file."""

    def __init__(self, *, writes=False):
        self.writes = writes

    def check(self, name, part, found):
        """Compare one part of a golden file, {title: {path: [entry]}}; every difference is told in one line."""
        path = HERE / f"{name}.json"
        document = json.loads(path.read_text()) if path.exists() else {}
        if self.writes:
            path.write_text(_text({**document, part: found}))
            return
        told = differences(document.get(part, {}), found)
        assert not told, "\n".join(
            [f"{path.name}, {part}: not as it was ({WRITE} writes the file anew):", *told]
        )


def differences(golden, found):
    """Say what is missing, new, or in another order, a line for each object."""
    told = []
    for title in dict.fromkeys([*golden, *found]):
        before, after = golden.get(title), found.get(title)
        if before is None or after is None:
            told.append(f"  {title}: {'new' if before is None else 'missing'}")
            continue
        for path in dict.fromkeys([*before, *after]):
            old, new = before.get(path, []), after.get(path, [])
            words = [f"missing {entry}" for entry in (Counter(old) - Counter(new)).elements()]
            words += [f"new {entry}" for entry in (Counter(new) - Counter(old)).elements()]
            if (path in before) != (path in after) and not words:
                words = ["new object" if path in after else "missing object"]
            if not words and old != new:
                words = [f"order {old} became {new}"]
            if words:
                told.append(f"  {title}, {path or 'top'}: {', '.join(words)}")
    return told


def keys(document):
    """Return the keys of every object in a document, {path: sorted keys}."""
    found = {}
    _gather(document, "", found)
    return {path: sorted(names) for path, names in found.items()}


def structure(*documents, root=""):
    """Return keys in their order and the types of their values, {path: ["key: type"]}, of documents of one kind."""
    found = {}
    for document in documents:
        _gather(document, root, found)
    return {
        path: [f"{name}: {'|'.join(sorted(types))}" for name, types in names.items()]
        for path, names in found.items()
    }


def file_names(root):
    """Return how often each kind of name occurs below a folder, {folder: ["count name"]}."""
    counts = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            place = path.relative_to(root)
            folder = (
                "artifacts/ab" if place.parts[0] == "artifacts" and len(place.parts) == 3 else place.parent
            )
            name = NUMBER.sub("N", DIGEST.sub("DIGEST", path.name))
            counts.setdefault(str(folder), Counter())[name] += 1
    return {
        folder: [f"{count} {name}" for name, count in sorted(names.items())]
        for folder, names in sorted(counts.items())
    }


def cache_structure(root):
    """Describe a cache: the kinds of files, each manifest, the records in their order and their payloads by tag.

    In which order windows are given out and cells come back depends on the number of workers; these are sorted.
    """
    manifests = [json.loads(path.read_bytes()) for path in sorted((root / "manifests").glob("*.json"))]
    with Journal.open(root / "journal.mdb", readonly=True) as journal:
        records = list(journal.read(start=1))
    payloads = {}
    for record in records:
        payloads.setdefault(f"{record.tag} {record.version}", []).append(record.payload)
    return {
        "files": file_names(root),
        "manifests": structure(*manifests),
        "records": {
            "tag and version": [
                f"{record.tag} {record.version}"
                for embeds, some in groupby(
                    records, lambda record: record.tag in {"step.started", "cell.embedded"}
                )
                for record in (sorted(some, key=lambda record: record.tag) if embeds else some)
            ]
        },
        "payloads": {
            path: names
            for tag, documents in sorted(payloads.items())
            for path, names in structure(*documents, root=f"{tag}: ").items()
        },
    }


def bundle_structure(path):
    """Describe a bundle, read as `docs/bundle.md` says and in no other way."""
    data = path.read_bytes()
    magic, place = data[:8], 12 + int.from_bytes(data[8:12], "big")
    header = json.loads(data[12:place])
    for _ in range(header["records"]):
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    artifacts = 0
    while place < len(data) - 32:
        digest, size = data[place : place + 32], int.from_bytes(data[place + 32 : place + 40], "big")
        place += 40 + size
        assert sha256(data[place - size : place]).digest() == digest
        artifacts += 1
    assert (place, sha256(data[:-32]).digest()) == (len(data) - 32, data[-32:])
    found = {"magic": [magic.hex()], "header": structure(header)[""]}
    return found | {"header.artifacts": structure(header["artifacts"])[""], "artifacts": [str(artifacts)]}


def _gather(value, path, found):
    if isinstance(value, dict):
        names = found.setdefault(path, {})
        for key, inner in value.items():
            name = "*" if MADE_UP_KEY.fullmatch(str(key)) else str(key)
            names.setdefault(name, set()).add(_type(inner))
            _gather(inner, f"{path}.{name}".lstrip("."), found)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _gather(inner, f"{path}[]", found)


def _type(value):
    return {"NoneType": "null", "list": "list", "tuple": "list"}.get(
        type(value).__name__, type(value).__name__
    )


def _text(document):
    """JSON with a line for each object that is described."""
    parts = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(
            f"  {json.dumps(title)}: {{\n"
            + ",\n".join(f"   {json.dumps(path)}: {json.dumps(each)}" for path, each in paths.items())
            + "\n  }"
            for title, paths in titles.items()
        )
        + "\n }"
        for part, titles in sorted(document.items())
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"
