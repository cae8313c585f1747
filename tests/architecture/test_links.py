"""Links of the documents resolve, documents that code or prose names exist, and README stays short."""

import re
from pathlib import Path

from click import Group

from tools.cli import cli
from tools.exit_codes import MEANINGS

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w")
README_LINES = 200
PROSE_COLUMNS = 110
FOLDERS = ("docs", "journal", "store", "pipeline", "tools", "tests")


def texts(*endings):
    """Return the files of the repository with these endings, build outputs and virtual environments left out."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in (*ROOT.iterdir(), *inside) if path.is_file() and path.suffix in endings)


def prose(path):
    return FENCED.sub("", path.read_text())


def anchors(text):
    """Return the anchors that GitHub gives the headings of a document."""
    found = []
    for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE):
        words = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        count = sum(
            each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in found
        )
        found.append(f"{slug}-{count}" if count else slug)
    return found


def broken(path):
    """Yield the relative links of a document that lead nowhere."""
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        if not linked.exists() or (anchor and anchor not in anchors(prose(linked))):
            yield f"{path.name}: {target}"


def test_every_link_leads_to_a_file_and_a_heading():
    documents = texts(".md")
    assert len(documents) > 15
    assert [each for path in documents for each in broken(path)] == []


def test_every_document_that_is_named_exists():
    files = texts(".md", ".py", ".toml", ".svg")
    named = {(path, name) for path in files for name in NAMED.findall(path.read_text())}
    assert len(named) > 20
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in sorted(named)
        if path != Path(__file__).resolve()
        and not list(ROOT.glob(name))
        and not list(ROOT.glob(f"{name}-*.md"))
    ]
    assert missing == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text(
        "# A `b` & c\n\n## Two words\n\n## Two words\n\n```\n# no heading\n```\n"
    )
    document = tmp_path / "document.md"
    good = (
        "[1](there.md) [2](there.md#a-b--c) [3](there.md#two-words-1) [4](#here) [5](https://example.org/x)"
    )
    document.write_text(f"# Here\n{good}\n```\n[6](code.md)\n```\n")
    assert list(broken(document)) == []
    document.write_text("[1](gone.md) [2](there.md#no-heading) [3](there.md#two-words-2) [4](#gone)")
    assert len(list(broken(document))) == 4


def test_prose_keeps_to_its_width():
    """Tables, code and pictures may be wider."""
    wide = [
        f"{path.name}: {line}"
        for path in texts(".md")
        for line in prose(path).splitlines()
        if len(line) > PROSE_COLUMNS and not line.startswith(("|", "!", "    "))
    ]
    assert wide == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_every_command_and_exit_code_is_in_the_list_of_commands():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert isinstance(cli, Group)
    listed = set(re.findall(r"`(?:c10 )?([a-z]+)\b[^`]*`", text))
    assert set(cli.list_commands(None)) - listed == set()
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(f"{code:d}", meaning) for code, meaning in MEANINGS.items()]


def test_the_tests_of_each_kind_of_fault_exist():
    text = (ROOT / "docs" / "reliability.md").read_text()
    table = text[text.index("## Faults from outside") : text.index("## Kills and errors")]
    named = re.findall(r"`([\w/]+\.py)((?:::\w+)*)`", table)
    assert len(named) > 40
    for path, names in named:
        source = (ROOT / "tests" / path).read_text()
        missing = [
            name
            for name in names.split("::")[1:]
            if not re.search(rf"^ *(?:def|class) {name}\b", source, re.MULTILINE)
        ]
        assert missing == [], path
