"""Colour profiles of hand-made bytes (ICC.1:2010)."""

import struct


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


# A channel's curve: a gamma of 2.2, a table of the same, and that of sRGB as a formula.
GAMMA = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
TABLE = b"curv\0\0\0\0" + struct.pack(
    ">I64H", 64, *(round(65535 * (i / 63) ** 2.2) for i in range(64))
)
FORMULA = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(
    map(fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)  # fmt: skip


def display_p3(curve: bytes = GAMMA) -> bytes:
    """A profile of Display P3's primaries, adapted to D50."""
    columns = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
        b"wtpt": (0.96420, 1.0, 0.82491),
    }
    tags = {name: b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz)) for name, xyz in columns.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    text = b"wide\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags |= {b"desc": described + bytes(-len(described) % 4), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, columns[b"wtpt"])) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body
