"""Child processes: every way in which one can end is a value, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.processes.framing import FrameError, FrameReader, decode, encode
from pipeline.processes.outcome import Died, Failed, Finished, OutOfMemory, TimedOut
from pipeline.processes.pool import WorkerPool, WorkerStartError, run_once
from pipeline.processes.process import LOG_LIMIT, START_MODULE

ROOT = Path(next(iter(pipeline.__path__))).parent

CHILD = """
import os, resource, signal, sys, time
import numpy as np
from pipeline.processes.serve import serve
from store.errors import TranslateShortages

def start(first):
    if first == "refuse":
        raise ValueError("no such engine")
    if first == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return handle

def handle(request, progress):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    match request:
        case ["echo", value]:
            return value
        case ["progress", count]:
            for done in range(count):
                progress({"done": done})
            return count
        case ["raise", text]:
            raise KeyError(text)
        case ["memory"]:
            raise MemoryError("asked for 1 TB")
        case ["translated"]:
            with TranslateShortages("running an engine"):
                raise MemoryError("Unable to allocate 6.00 MiB")
        case ["allocate"]:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            return len(np.ones(1 << 40, np.uint8))
        case ["signal", number]:
            os.write(2, b"last output")
            signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
            os.kill(os.getpid(), number)
        case ["exit", status]:
            os._exit(status)
        case ["oom"]:
            return int(open("/proc/self/oom_score_adj").read())
        case ["sleep", seconds]:
            time.sleep(seconds)
            return seconds
        case ["chatter", size]:
            print("printed")
            os.write(1, b"written below Python\\n")
            sys.stderr.write("x" * size + "the end")
            return "answer"
        case ["fds"]:
            return sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
        case ["environment"]:
            inherited = [name for name in ("NVIDIA_TF32_OVERRIDE", "ORT_LOAD_CONFIG_FROM_MODEL") if name in os.environ]
            return [os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"], os.getsid(0) == os.getpid(), inherited]
        case ["large", array]:
            return np.repeat(array, 2)
        case ["object"]:
            return np.array([object()])

if __name__ == "__main__":
    serve(start)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "obedient_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "obedient_child"


def test_a_child_imports_nothing_from_the_current_folder(child, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("runpy", "json", "hashlib", "signal", "msgpack", child):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('a file of the current folder')")
    monkeypatch.chdir(elsewhere)
    assert run_once(child, ["echo", 7]) == Finished(value=7)


def gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until_gone(pids, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(gone(pid) for pid in pids):
        time.sleep(0.01)
    return [pid for pid in pids if not gone(pid)]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(plain, max_size=4), st.data())
def test_frames_survive_being_cut_anywhere(messages, data):
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, out = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out.extend(reader.feed(stream[begin:end]))
    assert out == messages
    assert reader.pending == 0


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f4", "<i8", "?"])
def test_arrays_keep_shape_type_and_values(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = decode(encode(array)[4:])
    assert back.shape == array.shape
    assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)
    assert decode(encode(np.empty((0, 7), np.float32))[4:]).shape == (0, 7)


@given(st.integers(0, 80), st.integers(0, 255), st.integers(0, 90))
def test_a_damaged_message_is_an_error_or_another_message(position, value, length):
    body = bytearray(encode({"a": [1, 2.5, "text"], "b": np.ones((3, 2), np.float32)})[4:])
    body[position % len(body)] = value
    try:
        decode(bytes(body[:length]) if length < len(body) else bytes(body))
    except FrameError:
        return


def test_objects_are_refused_in_both_directions():
    with pytest.raises(FrameError, match="object"):
        encode(np.array([object()]))
    with pytest.raises(FrameError, match="set"):
        encode({"a": {1, 2}})
    # An array of Python objects, written by somebody else: extension 1, dtype |O.
    with pytest.raises(FrameError, match="dtype"):
        decode(b"\xc7\x0d\x01\x92\xa2|O\x91\x01" + bytes(8))


def test_an_answer_progress_and_arrays_arrive(child):
    seen = []
    assert run_once(child, ["progress", 3], on_progress=seen.append) == Finished(value=3)
    assert seen == [{"done": 0}, {"done": 1}, {"done": 2}]
    vectors = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    outcome = run_once(child, ["echo", {"vectors": vectors}])
    assert isinstance(outcome, Finished)
    np.testing.assert_array_equal(outcome.value["vectors"], vectors)


def test_an_exception_arrives_with_its_traceback(child):
    outcome = run_once(child, ["raise", "which key"])
    assert isinstance(outcome, Failed)
    assert outcome.kind == "KeyError"
    assert "which key" in outcome.message
    assert "in handle" in outcome.traceback


def test_an_answer_that_cannot_be_sent_is_a_failure(child):
    outcome = run_once(child, ["object"])
    assert isinstance(outcome, Failed)
    assert outcome.kind == "FrameError"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_signal_is_named_and_the_log_is_kept(child, number):
    outcome = run_once(child, ["signal", int(number)])
    assert isinstance(outcome, Died)
    assert outcome.signal == number.name
    assert "last output" in outcome.log


def test_sigkill_is_out_of_memory_only_when_the_kernel_says_so(child, monkeypatch):
    assert isinstance(run_once(child, ["signal", int(signal.SIGKILL)]), Died)
    counts = iter([4, 5, 5])
    monkeypatch.setattr("pipeline.processes.process._count_oom_kills", lambda: next(counts))
    assert isinstance(run_once(child, ["signal", int(signal.SIGKILL)]), OutOfMemory)
    monkeypatch.setattr("pipeline.processes.process._count_oom_kills", lambda: None)
    assert isinstance(run_once(child, ["signal", int(signal.SIGKILL)]), OutOfMemory)


@pytest.mark.parametrize("request_", [["memory"], ["translated"], ["allocate"]])
def test_a_failed_allocation_is_out_of_memory(child, request_):
    assert isinstance(run_once(child, request_), OutOfMemory)


def test_the_hint_of_an_error_arrives(child):
    assert "; raise the limit" in run_once(child, ["translated"]).message


def test_a_child_that_takes_too_long_is_killed(child):
    outcome = run_once(child, ["sleep", 600], timeout_s=0.5)
    assert isinstance(outcome, TimedOut)
    assert outcome.seconds == 0.5


@pytest.mark.parametrize("noise", ["b'\\xff' * 8", "b'\\x01\\x00\\x00\\x00\\xc1'"])
def test_answers_that_are_no_frames_are_a_failure(tmp_path, monkeypatch, noise):
    (tmp_path / "noisy_child.py").write_text(f"import os\nos.write(1, {noise})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = run_once("noisy_child", None)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "FrameError"


@pytest.mark.parametrize("status", [0, 3])
def test_an_end_without_an_answer_is_a_failure(child, status):
    outcome = run_once(child, ["exit", status])
    assert isinstance(outcome, Failed)
    assert outcome.kind == "ChildExit"
    assert str(status) in outcome.message


AHEAD = """
from pipeline.processes.run_ahead import run_ahead
from pipeline.processes.serve import serve

class Ahead:
    def read_ahead(self, requests):
        yield from run_ahead(requests)

    def __call__(self, request, progress):
        print("printed")
        raise {error}

if __name__ == "__main__":
    serve(lambda first: Ahead())
"""


@pytest.mark.parametrize("error", ["SystemExit(3)", "BaseException('a library gave up')"])
def test_a_child_that_reads_ahead_ends_when_its_library_ends_it(tmp_path, monkeypatch, error):
    """Its thread waits for requests meanwhile."""
    (tmp_path / "ahead_child.py").write_text(AHEAD.format(error=error))
    monkeypatch.syspath_prepend(str(tmp_path))
    with WorkerPool("ahead_child", 1, None, timeout_s=10) as pool:
        pool.submit(1, "any")
        (_, outcome), *_ = pool.results()
    assert isinstance(outcome, Failed)
    assert outcome.kind == "ChildExit"
    assert error.partition("(")[0] in outcome.log
    assert "printed" in outcome.log


def test_what_a_library_prints_is_log_and_the_log_is_bounded(child):
    outcome = run_once(child, ["chatter", 10])
    assert isinstance(outcome, Finished)
    assert outcome.value == "answer"
    assert "written below Python" in outcome.log
    outcome = run_once(child, ["chatter", 3 * LOG_LIMIT])
    assert isinstance(outcome, Finished)
    assert len(outcome.log) == LOG_LIMIT
    assert outcome.log.endswith("the end")


def test_an_error_in_the_progress_callback_ends_the_child(child):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_once(child, ["progress", 3], on_progress=interrupt)


def test_a_child_inherits_no_files_and_one_thread(child, tmp_path, monkeypatch):
    secret = tmp_path / "build.lock"
    descriptor = os.open(secret, os.O_CREAT | os.O_RDWR)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only spelling
    try:
        outcome = run_once(child, ["fds"])
    finally:
        os.close(descriptor)
    assert isinstance(outcome, Finished)
    assert not [name for name in outcome.value if "build.lock" in name]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    assert run_once(child, ["environment"]) == Finished(value=["1", "1", True, []])


def test_a_child_asks_to_be_killed_for_memory_before_its_parent(child):
    found = run_once(child, ["oom"])
    assert found.value > int(Path("/proc/self/oom_score_adj").read_text())


def test_a_pool_names_the_task_of_a_dead_worker_and_only_that(child):
    with WorkerPool(child, 2, None) as pool:
        for number in range(12):
            pool.submit(number, ["signal", int(signal.SIGSEGV)] if number == 5 else ["echo", number])
        outcomes = dict(pool.results())
        assert pool.alive == 1
    died = outcomes.pop(5)
    assert isinstance(died, Died)
    assert {name: outcome.value for name, outcome in outcomes.items()} == {n: n for n in range(12) if n != 5}


def test_a_pool_without_workers_lists_the_tasks_left(child):
    with WorkerPool(child, 1, None) as pool:
        for name in ("a", "b", "c"):
            pool.submit(name, ["signal", int(signal.SIGKILL)])
        assert [name for name, _ in pool.results()] == ["a"]
        assert (pool.alive, pool.waiting) == (0, ("b", "c"))


def test_withdrawn_tasks_get_no_outcome(child):
    with WorkerPool(child, 1, None) as pool:
        for number in range(5):
            pool.submit(number, ["echo", number])
        pool.withdraw()
        assert [name for name, _ in pool.results()] == [0, 1]


def test_large_requests_and_answers_do_not_block_each_other(child):
    array = np.arange(1_000_000, dtype=np.int64)
    with WorkerPool(child, 2, None) as pool:
        for number in range(6):
            pool.submit(number, ["large", array])
        for _, outcome in pool.results():
            assert isinstance(outcome, Finished)
            np.testing.assert_array_equal(outcome.value, np.repeat(array, 2))


def test_one_task_that_hangs_is_timed_out_and_the_others_go_on(child):
    with WorkerPool(child, 2, None, timeout_s=1.0) as pool:
        pool.submit("hangs", ["sleep", 600])
        for number in range(4):
            pool.submit(number, ["echo", number])
        outcomes = dict(pool.results())
    assert isinstance(outcomes.pop("hangs"), TimedOut)
    assert set(outcomes) == {0, 1, 2, 3}


@pytest.mark.parametrize(("first", "kind"), [("refuse", Failed), ("die", Died)])
def test_a_worker_that_does_not_start_is_an_error(child, first, kind):
    with WorkerPool(child, 1, first) as pool:
        pool.submit(0, ["echo", 1])
        with pytest.raises(WorkerStartError) as caught:
            list(pool.results())
    assert isinstance(caught.value.outcome, kind)


def test_closing_a_pool_ends_its_workers(child):
    with WorkerPool(child, 2, None) as pool:
        pool.submit(0, ["sleep", 600])
        pids = pool.pids
    assert wait_until_gone(pids, 0.5) == []


def test_a_module_that_does_not_exist_is_an_error_at_once():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        run_once("no_such_module.worker", None)


PARENT = """
import sys
from pipeline.processes.pool import WorkerPool
with WorkerPool("obedient_child", 2, None) as pool:
    pool.submit("a", ["echo", 1])
    for _ in pool.results():
        pass
    pool.submit("b", ["sleep", 600])
    pool.submit("c", ["sleep", 600])
    print(*pool.pids, flush=True)
    for _ in pool.results():
        pass
"""


def start_parent(arguments, folder, *, text=None):
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        start_new_session=True,
    )
    if text is not None:
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


@pytest.mark.parametrize("way", ["command", "script on standard input"])
def test_no_worker_outlives_a_killed_parent(child, tmp_path, way):
    del child
    if way == "command":
        process, pids = start_parent(["-c", PARENT], tmp_path)
    else:
        process, pids = start_parent(["-"], tmp_path, text=PARENT)
    assert not any(gone(pid) for pid in pids)
    process.kill()
    process.communicate()
    assert wait_until_gone(pids, 1.0) == []


def test_a_child_whose_parent_ended_first_ends_itself(child, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", START_MODULE, child, "1"],
        input=encode(None) + encode([1, ["echo", "too late"]]),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        check=False,
        timeout=30,
    )
    assert (finished.returncode, finished.stdout) == (0, b"")


def test_an_interrupt_at_the_terminal_prints_one_traceback(child, tmp_path):
    del child
    process, pids = start_parent(["-c", textwrap.dedent(PARENT)], tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors.count("Traceback") == 1
    assert errors.count("KeyboardInterrupt") == 1
    assert wait_until_gone(pids, 1.0) == []
