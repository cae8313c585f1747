"""Ways to damage a file."""

import os
import socket


def flip(path, at=None):
    """Change one bit, of the middle byte unless told; return the new bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    overwrite(path, bytes(data))
    return bytes(data)


def overwrite(path, data):
    """Put another file in the place of one, which may be missing or read-only."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def replace_by(path, what):
    """Put something else, or nothing, in the place of a file, which may be missing; a link leads to its bytes."""
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    match what:
        case "missing":
            pass
        case "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "shorter":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"x")
        case "empty":
            path.touch()
        case "sparse":
            path.touch()
            os.truncate(path, 1 << 40)
        case "folder":
            path.mkdir()
        case "full folder":
            path.mkdir()
            (path / "within").write_text("x")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = os.open(path.parent, os.O_RDONLY)
            try:  # the name of a socket must be short
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)
        case "link":
            path.with_name("elsewhere").write_bytes(data)
            path.symlink_to("elsewhere")
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            raise ValueError(what)
