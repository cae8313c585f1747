"""Mistakes that a writer could make, put into the running process. A rig that misses one of them is no rig."""

import os
from pathlib import Path

import lmdb

from journal import fsync
from journal.storage import create
from store.cache import event_store
from store.cache import projections as projecting
from store.disk import layout, write_once
from store.disk.layout import Layout
from tests.crash.harness.seeded import manifest_first, plain_birth


def no_file_sync():
    """The bytes of artifacts and projections are not made durable before their name is."""
    _publish_with(sync_file=False)


def no_folder_sync():
    """The names of artifacts and projections are not made durable."""
    _publish_with(sync_folder=False)


def _publish_with(*, sync_file=True, sync_folder=True):
    def publish(self, folder, name):
        if sync_file:
            os.fsync(self.fd)
        target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(self.path, name, dst_dir_fd=target, follow_symlinks=True)
            if sync_folder:
                os.fsync(target)
        finally:
            os.close(target)

    write_once.Draft.publish = publish


def no_artifacts_folder_sync():
    """The 256 folders of a new cache are not made durable."""

    def fsync_dir(folder):
        if not (isinstance(folder, Path) and folder.name == "artifacts"):
            fsync.fsync_dir(folder)

    layout.fsync_dir = fsync_dir


def no_root_sync():
    """The folders of a new cache, and the journal's name in it, are not made durable."""
    layout.fsync_dir = lambda _: None
    create.fsync_dir = lambda _: None
    create.link_durably = lambda source, target: (fsync.fsync_file(source), os.link(source, target))


def no_journal_sync():
    """LMDB does not sync."""
    opened = lmdb.open
    lmdb.open = lambda *arguments, **options: opened(*arguments, **(options | {"sync": False}))


def in_place():
    """Artifacts and projections are written under their final name."""

    def publish(self, folder, name):
        data = Path(self.path).read_bytes()
        fd = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        fsync.fsync_dir(folder)

    write_once.Draft.publish = publish


def commit_unprojected():
    """A commit is acknowledged although its files were not written."""
    projecting.Projections.write = lambda *_: None


def event_first():
    """The event that names an artifact is durable before the artifact is."""
    _publish_with(sync_file=False, sync_folder=False)
    append_on = event_store.EventStore.append_on

    def late(self, *arguments, **options):
        append_on(self, *arguments, **options)
        for path in sorted(Layout(self.layout.root).artifacts.glob("??/*")):
            fsync.fsync_file(path)
            fsync.fsync_dir(path.parent)

    event_store.EventStore.append_on = late


BUGS = {
    bug.__name__: bug
    for bug in (
        no_file_sync,
        no_folder_sync,
        no_artifacts_folder_sync,
        no_root_sync,
        no_journal_sync,
        plain_birth,
        in_place,
        manifest_first,
        commit_unprojected,
        event_first,
    )
}
