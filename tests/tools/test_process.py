"""Signals to a command: what they raise, and when."""

import importlib
import os
import select
import signal
import sys
import threading
import time
from contextlib import closing

import pytest

from pipeline.tiles.sources.archives.sqlite_archive import open_database, sqlite_errors_as_ours
from tools.exit_codes import HungUpError, TerminatedError
from tools.process import signals_as_errors

SIGNALS = [
    (signal.SIGINT, KeyboardInterrupt),
    (signal.SIGTERM, TerminatedError),
    (signal.SIGHUP, HungUpError),
]


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_a_signal_raises_its_error(number, error):
    with pytest.raises(error), signals_as_errors():
        signal.raise_signal(number)


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_a_search_in_sqlite_ends_with_the_error_of_the_signal(number, error, archives, tmp_path):
    """SQLite drops the error, and says only that something interrupted it."""
    path = tmp_path / archives.write_mbtiles(tmp_path / "a.mbtiles", {(0, 0, 0): b""})
    endless = "WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c) SELECT sum(i) FROM c"
    ending = threading.Timer(0.1, os.kill, (os.getpid(), number))

    def search():
        with (
            signals_as_errors(),
            closing(open_database(path)) as database,
            sqlite_errors_as_ours(path),
        ):
            ending.start()
            database.execute(endless).fetchone()

    with pytest.raises(error) as caught:
        search()
    ending.join()
    assert caught.type is error


def import_and_wait(name):
    with signals_as_errors():
        importlib.import_module(name)
        select.select([], [], [], 20)


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_an_import_is_finished_first(number, error, tmp_path, monkeypatch):
    """Some compiled modules keep the exception for themselves, as this one does; others crash."""
    (tmp_path / "slow_to_import.py").write_text(
        "import contextlib, signal, time\n"
        "with contextlib.suppress(BaseException):\n"
        f"    signal.raise_signal({int(number)})\n"
        "    time.sleep(0.3)\n"
        "    done = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(error):
            import_and_wait("slow_to_import")
    finally:
        imported = sys.modules.pop("slow_to_import")
    assert imported.done


def test_what_cleans_up_is_not_disturbed():
    cleaned = []

    def end_and_clean_up():
        with signals_as_errors():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGHUP)
                time.sleep(0.1)
                cleaned.append(True)

    with pytest.raises(TerminatedError) as caught:
        end_and_clean_up()
    assert caught.type is TerminatedError
    assert cleaned


def test_a_second_ctrl_c_ends_what_cleans_up():
    cleaned = []

    def end_and_clean_up():
        with signals_as_errors():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        end_and_clean_up()
    assert not cleaned


def test_the_handlers_of_before_return_and_ignored_signals_stay_ignored():
    handlers = {number: signal.getsignal(number) for number, _ in SIGNALS}
    alarm = signal.getsignal(signal.SIGALRM)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals_as_errors():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, handlers[signal.SIGHUP])
        assert {number: signal.getsignal(number) for number, _ in SIGNALS} == handlers
        assert signal.getsignal(signal.SIGALRM) is alarm
    finally:
        signal.signal(signal.SIGHUP, handlers[signal.SIGHUP])


def test_a_second_ctrl_c_does_not_wait_for_an_import(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text(
        "import select, signal\nfor _ in range(2):\n    signal.raise_signal(signal.SIGINT)\nselect.select([], [], [], 20)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        import_and_wait("never_imported")
    assert time.monotonic() - began < 10


def test_an_alarm_that_was_ignored_is_ignored_again():
    alarm = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with pytest.raises(TerminatedError), signals_as_errors():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGALRM, alarm)
