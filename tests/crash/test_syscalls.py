"""What a build asks of the kernel, as strace sees it."""

import re
import shutil

import pytest

from store.base import canonical_json
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.small_builds import Site, picture, tree

STRACE = shutil.which("strace")
pytestmark = [pytest.mark.deep, pytest.mark.skipif(STRACE is None, reason="strace is not installed")]

RENAMES = "rename,renameat,renameat2"
CHANGES = (
    "open,openat,openat2,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,link,linkat,symlink,symlinkat,mknod,mknodat,"
    "truncate,ftruncate,fallocate,write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,"
    "chmod,fchmod,fchmodat,chown,fchown,fchownat,utimensat,setxattr,fsetxattr," + RENAMES
)
ALLOWED = ("build.lock", "journal.mdb-lock")
CALL = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+|\?)")


def traced(builder, site, calls, *actions, failed=False):
    """The reports, and the calls that succeeded, or all of them: (name, arguments)."""
    log = site.root / "trace"
    wrapper = (STRACE, "-f", "-y", "--seccomp-bpf", "-s", "4096", "-o", str(log), "-e", f"trace={calls}")
    reports = builder(site, *actions, wrapper=wrapper).finish()
    found = []
    for line in whole_lines(log.read_text(errors="replace").splitlines()):
        match = CALL.match(line)
        if match and (failed or not match[3].startswith("-")):
            found.append((match[1], match[2]))
    return reports, found


def whole_lines(lines):
    """Join calls that another process's call divided."""
    begun = {}
    for line in lines:
        pid = line.partition(" ")[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>")
        elif "resumed>" in line:
            yield begun.pop(pid, "") + line.partition("resumed>")[2]
        else:
            yield line


def inside(site, calls):
    return [(name, text) for name, text in calls if str(site.cache) in text]


def test_nothing_in_the_cache_is_ever_renamed(site, builder):
    site.write("tiles/6/8/12.png", picture(77))
    site.write("broken/6/8/12.png", b"no picture")
    elsewhere = {"do": "rename", "from": str(site.write("a", b"")), "to": str(site.root / "b")}
    reports, calls = traced(
        builder,
        site,
        RENAMES,
        elsewhere,
        {"do": "build", "flight_id": "f2"},
        {"do": "build", "flight_id": "f3", "source": "broken/{z}/{x}/{y}.png"},
        {"do": "rollback"},
    )
    assert [report.get("outcome", report.get("build")) for report in reports[1:]] == ["built", "failed", 1]
    assert any(f'"{site.root}/b"' in text for _, text in calls), (
        "the tracer saw the one that was meant for it"
    )
    assert inside(site, calls) == []


def test_a_warm_run_writes_nothing(site, builder):
    before = tree(site.cache)
    reports, calls = traced(builder, site, CHANGES, {"do": "build"})
    assert (reports[0]["outcome"], reports[0]["writes"]) == ("reused", 0)
    assert tree(site.cache) == before
    touched = inside(site, calls)
    assert any(name == "openat" and "journal.mdb" in text for name, text in touched), (
        "the tracer saw the journal"
    )
    wrong = [
        (name, text)
        for name, text in touched
        if not any(f"{site.cache}/{allowed}" in text for allowed in ALLOWED)
        and not (name in {"open", "openat"} and reads_only(text))
    ]
    assert wrong == []


def reads_only(text):
    return "O_RDONLY" in text and "O_CREAT" not in text and "O_TRUNC" not in text


@pytest.mark.parametrize(
    ("left", "visible"), [(1, 1), (0, 1)], ids=["before the segment", "before the manifest"]
)
def test_a_kill_between_the_commit_and_its_files_is_healed(site, builder, left, visible):
    """The last two links of a build are those of its segment and its manifest; the n-th is where it dies."""
    site.write("tiles/6/8/12.png", picture(78))
    rehearsal = Site(site.root.with_name(site.root.name + "-rehearsal"))
    for name in ("cache", "tiles"):
        shutil.copytree(site.root / name, rehearsal.root / name)
    _, calls = traced(builder, rehearsal, "linkat", {"do": "build", "flight_id": "f2"}, failed=True)
    links = [text for _, text in calls]
    assert "segments" in links[-2]
    assert "manifests" in links[-1]
    inject = f"inject=linkat:signal=SIGKILL:when={len(links) - left}"
    # Not with --seccomp-bpf, under which some versions inject nothing.
    wrapper = (STRACE, "-f", "-o", str(site.root / "trace"), "-e", "trace=linkat", "-e", inject)
    killed = builder(site, {"do": "build", "flight_id": "f2"}, wrapper=wrapper)
    killed.process.wait()
    state = site.state()
    assert (state.head.number, state.open_build) == (2, None)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        assert cache.manifest.envelope.generation == visible
    assert (2 in site.layout.segment_files()) == (left == 0)
    healed = site.build(flight_id="f2")
    assert (healed.outcome, healed.generation) == ("reused", 2)
    assert healed.writes >= 1 + left
    assert canonical_json.sha256(site.head_bytes()) == state.head.manifest_sha256 == healed.manifest_sha256
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        assert cache.manifest.envelope.generation == 2


def test_the_tracer_would_see_a_write(site, builder):
    site.write("tiles/6/8/12.png", picture(77))
    _, calls = traced(builder, site, CHANGES, {"do": "build"})
    names = {name for name, _ in inside(site, calls)}
    assert {"linkat", "openat", "pwrite64"} <= names
    assert any("journal.mdb>" in text for name, text in calls if name == "pwrite64")
