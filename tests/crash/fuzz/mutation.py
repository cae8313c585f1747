"""Valid inputs, made wrong: bytes, words and trees."""

import copy

NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
TEXTS = (
    "",
    "\0",
    "..",
    "../x",
    "/etc/passwd",
    "a" * 300,
    "é",
    "\u202e",
    "'",
    "%s",
    "{}",
    "nan",
    "0" * 64,
    "f" * 64,
)
OTHERS = (None, True, False, 0.5, b"", [], {}, [[]], {"": None})
WORDS = (
    b"[[",
    b"]]",
    b"=",
    b"\n",
    b'"',
    b"'''",
    b"inf",
    b"nan",
    b"-",
    b"1e999",
    b"0x",
    b"2026-13-41",
    b"[a]",
    b"{",
    b"}",
    b"#",
    b"\xff",
)


def mutated(data, others, dice):
    """Bytes with one to four changes; `others` are valid inputs to take pieces of."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        _once(data, others, dice)
    return bytes(data)


def _once(data, others, dice):
    at = dice.randrange(len(data) + 1)
    size = min(dice.choice((1, 2, 4, 8, 64, 512)), len(data) - at)
    match dice.randrange(9):
        case 0 | 1 if data:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 2 if data:
            data[dice.randrange(len(data))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = dice.randbytes(dice.choice((1, 2, 4, 16)))
        case 5:
            data[at:at] = data[at : at + size]
        case 6:
            other = dice.choice(others)
            begin = dice.randrange(len(other) + 1)
            data[at : at + size] = other[begin : begin + dice.choice((1, 4, 32, 256))]
        case 7:
            number = dice.choice(NUMBERS) & (2**64 - 1)
            width = dice.choice((1, 2, 4, 8))
            data[at : at + width] = (number & (256**width - 1)).to_bytes(
                width, dice.choice(("big", "little"))
            )
        case _:
            del data[at:]


def reworded(data, others, dice):
    """Text with a word, a line or a number changed."""
    lines = bytearray(data).split(b"\n")
    at = dice.randrange(len(lines))
    match dice.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[dice.randrange(len(lines))])
        case 2:
            lines[at] = lines[at].partition(b"=")[0] + b"= " + dice.choice(_values(dice))
        case 3:
            place = dice.randrange(len(lines[at]) + 1)
            lines[at][place:place] = dice.choice(WORDS)
        case 4:
            other = dice.choice(others).split(b"\n")
            lines[at] = bytearray(dice.choice(other))
        case _:
            return mutated(data, others, dice)
    return b"\n".join(bytes(line) for line in lines)


def _values(dice):
    return [
        str(dice.choice(NUMBERS)).encode(),
        b"nan",
        b"[" * dice.choice((1, 50, 2000)),
        b"'" + dice.choice(TEXTS).encode() + b"'",
        b"{}",
        b"[1, 2]",
        b"true",
        b"-0.0",
        b"1979-05-27",
    ]


def regrown(tree, dice):
    """A tree with one node changed, taken away, added or made deep."""
    tree = copy.deepcopy(tree)
    nodes = [(tree, key) for key in _keys(tree)]
    for parent, key in nodes:
        nodes.extend((parent[key], below) for below in _keys(parent[key]))
    if not nodes:
        return dice.choice(OTHERS)
    parent, key = dice.choice(nodes)
    match dice.randrange(7):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[dice.choice(TEXTS)] = parent[key]
        case 1:
            parent.insert(key, copy.deepcopy(parent[key]))
        case 2:
            parent[key] = dice.choice(NUMBERS)
        case 3:
            parent[key] = dice.choice(TEXTS)
        case 4:
            parent[key] = copy.deepcopy(dice.choice(OTHERS))
        case 5:
            other, name = dice.choice(nodes)
            parent[key] = copy.deepcopy(other[name]) if name in _keys(other) else None
        case _:
            for _ in range(dice.choice((1, 8, 40))):
                parent[key] = [parent[key]]
    return tree


def _keys(tree):
    if isinstance(tree, dict):
        return list(tree)
    return range(len(tree)) if isinstance(tree, list) else ()
