"""Run a writer under strace and take its calls apart.

`-xx` prints every string as hexadecimal escapes, so that neither a quote nor a comma can stand inside of one and
the text can be split without a grammar.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass

STRACE = shutil.which("strace")

CALLS = (
    "open,openat,creat,dup,dup2,dup3,fcntl,close,lseek,mmap,msync,write,pwrite64,writev,pwritev,pwritev2,"
    "sendfile,copy_file_range,splice,truncate,ftruncate,fallocate,fsync,fdatasync,sync_file_range,syncfs,sync,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,execve"
)

_WHOLE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)")
_BEGUN = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+|\?)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that came back without an error.

    `arguments` are texts in which the n-th string is replaced by `$n`.
    """

    name: str
    arguments: tuple[str, ...]
    strings: tuple[bytes, ...]
    result: int

    def text(self, argument):
        """The string that an argument is."""
        return self.strings[int(self.arguments[argument][1:])]

    def number(self, argument):
        return int(self.arguments[argument], 0)


def record(command, *, output, environment=None):
    """Run a command under strace; returns its calls in the order in which they ended.

    Raises:
        RuntimeError: The command failed.
    """
    # Threads are followed; what they did is told apart by nothing but order, since they share all descriptors.
    wrapper = [
        STRACE,
        "-f",
        "-xx",
        "-s",
        "100000000",
        "--seccomp-bpf",
        "-o",
        str(output),
        "-e",
        f"trace={CALLS}",
    ]
    done = subprocess.run([*wrapper, *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the recorded command failed: {done.stderr[-3000:]}")
    with open(output, encoding="ascii") as file:
        return list(parse(file))


def parse(lines):
    """The calls that succeeded, from the lines that strace wrote."""
    begun = {}
    for line in lines:
        if found := _WHOLE.match(line):
            _, name, arguments, result = found.groups()
        elif found := _BEGUN.match(line):
            begun[found[1]] = found[3]
            continue
        elif found := _ENDED.match(line):
            pid, name, rest, result = found.groups()
            arguments = begun.pop(pid) + rest
        else:
            continue
        if result != "?" and int(result) >= 0:
            yield _call(name, arguments, int(result))


def _call(name, text, result):
    strings = []

    def take(found):
        if found[2]:
            raise RuntimeError(f"strace cut a string of {name}")
        strings.append(bytes.fromhex(found[1].replace("\\x", "")))
        return f"${len(strings) - 1}"

    plain = _STRING.sub(take, text)
    return Call(name, tuple(part.strip() for part in plain.split(", ")), tuple(strings), result)
