"""What is recorded of the machine."""

import pytest

from pipeline.build.host_facts import memory_facts

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """Write files of `proc` and `sys`, relative to the root, by their names."""

    def write(files):
        meminfo = {"proc/meminfo": "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n"}
        for name, text in (meminfo | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n"}, (2 * MIB, MIB)),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n0::/box/inner\n",
                "sys/fs/cgroup/box/inner/memory.max": "max\n",
                "sys/fs/cgroup/box/memory.max": "500000\n",
                "sys/fs/cgroup/box/memory.current": "300000\n",
                "sys/fs/cgroup/box/memory.stat": "anon 1\ninactive_file 50000\n",
            },
            (500_000, 250_000),
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/box\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 0\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "400000\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "500000\n",
                "sys/fs/cgroup/memory/box/memory.stat": "cache 7\ninactive_file 0\n",
            },
            (400_000, 0),
        ),
    ],
    ids=["no limit", "version 2", "version 1"],
)
def test_memory_is_what_the_container_may_use(machine, files, expected):
    facts = memory_facts(machine(files))
    assert (facts["total"], facts["available"]) == expected
