"""What the sweeps rest on: a cache that is put back as it was, and a child that tells where a signal met it."""

import os
import signal
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash.harness.bench import Bench
from tests.crash.harness.child import child
from tests.crash.harness.template import Template, remove_tree
from tests.examples_tried import examples

pytestmark = pytest.mark.deep


def content(root):
    """Every path below a folder with its mode and bytes."""
    found = {}
    for path in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        data = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(root))] = (mode, data)
    return found


def made(root):
    for folder in ("a/b", "c", "empty"):
        (root / folder).mkdir(parents=True)
    for name in ("top", "a/one", "a/b/two", "c/journal.mdb-lock"):
        (root / name).write_bytes(name.encode())
    (root / "a/one").chmod(0o444)
    (root / "empty").chmod(0o700)


def other_bytes(root):
    (root / "top").write_bytes(b"TOP")


def mapped_bytes(root):
    # As if through a map: bytes change, times do not.
    path = root / "c/journal.mdb-lock"
    about = path.stat()
    path.write_bytes(b"C/journal.mdb-lock")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def other_mode(root):
    (root / "top").chmod(0o400)
    (root / "empty").chmod(0o755)


def gone(root):
    (root / "top").unlink(missing_ok=True)
    remove_tree(root / "a")


def more(root):
    (root / "c/new/deep").mkdir(parents=True, exist_ok=True)
    (root / "c/new/deep/file").write_bytes(b"new")
    (root / "link").unlink(missing_ok=True)
    (root / "link").symlink_to("/nowhere")


def replaced(root):
    (root / "c/other").write_bytes(b"c/journal")
    os.rename(root / "c/other", root / "top")


def second_name(root):
    (root / "c").mkdir(exist_ok=True)
    (root / "c/second").unlink(missing_ok=True)
    if (root / "top").exists():
        os.link(root / "top", root / "c/second")


def folder_for_file(root):
    (root / "top").unlink(missing_ok=True)
    (root / "top").mkdir(exist_ok=True)


def everything(root):
    remove_tree(root)


CHANGES = [other_bytes, mapped_bytes, other_mode, more, replaced, second_name, gone, everything]


@pytest.mark.parametrize("change", [*CHANGES, folder_for_file])
def test_a_template_puts_everything_back(tmp_path, change):
    root = tmp_path / "cache"
    made(root)
    template, before = Template(root), content(root)
    for _ in range(3):
        change(root)
        assert not root.exists() or content(root) != before
        template.restore()
        assert content(root) == before


@settings(max_examples=examples(25), deadline=None)
@given(rounds=st.lists(st.lists(st.sampled_from(CHANGES[:6]), max_size=3), max_size=4))
def test_any_changes_are_put_back(tmp_path_factory, rounds):
    root = tmp_path_factory.mktemp("any") / "cache"
    made(root)
    template, before = Template(root), content(root)
    for changes in rounds:
        for change in changes:
            change(root)
        template.restore()
        assert content(root) == before


def test_two_templates_of_one_cache_do_not_mix(tmp_path):
    root = tmp_path / "cache"
    made(root)
    first, one = Template(root), content(root)
    (root / "a/b/three").write_bytes(b"3")
    other_bytes(root)
    second, two = Template(root), content(root)
    for _ in range(2):
        first.restore()
        assert content(root) == one
        more(root)
        second.restore()
        assert content(root) == two


def test_the_template_of_nothing_is_nothing(tmp_path):
    root = tmp_path / "cache"
    template = Template(root)
    made(root)
    template.restore()
    assert not root.exists()


def test_a_child_that_dies_of_a_signal_tells_its_place(tmp_path):
    def die(bench):
        bench.say("A 1 ab")
        os.kill(os.getpid(), signal.SIGSEGV)

    ending = child(die, Bench(tmp_path))
    assert ending.how == "SIGSEGV"
    assert ending.told.appends == ((1, "ab"),)
    assert ending.place == "somewhere from crash/test_sweep_parts.py:" + str(die.__code__.co_firstlineno + 2)


def test_a_child_that_hangs_tells_its_place(tmp_path):
    def hang(bench):
        bench.say("A 1 ab")
        threading.Event().wait()

    ending = child(hang, Bench(tmp_path), hang_s=0.5)
    assert ending.how == "hang"
    assert "/threading.py:" in ending.place
    assert not ending.starts_a_thread


def test_a_child_that_waits_for_a_dead_thread_is_known(tmp_path):
    def hang(bench):
        # As a thread that has no memory for its first steps.
        threading.Thread._bootstrap = lambda _: None
        threading.Thread(target=print).start()

    ending = child(hang, Bench(tmp_path), hang_s=0.5)
    assert ending.how == "hang"
    assert ending.starts_a_thread
