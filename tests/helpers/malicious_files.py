"""Files of weights that would run a command, in every format and by every opcode that can call something."""

import io
import pickle
import zipfile
from pathlib import Path

import torch


def payloads(marker: Path) -> dict[str, bytes]:
    """Pickles that create the file `marker` when they are read without care."""
    command = f"touch {marker}".encode()
    text = b"S'" + command + b"'\n"
    unicode = b"\x8c" + bytes([len(command)]) + command  # SHORT_BINUNICODE; the commands of tests are short enough
    build = b"ctypes\nSimpleNamespace\n)R}S'__setstate__'\ncposix\nsystem\nsb" + text + b"b."
    return {
        "reduce": b"cposix\nsystem\n(" + text + b"tR.",
        "reduce in a dict": b"}(S'model'\n}S'weight'\ncposix\nsystem\n(" + text + b"tRsu.",
        "inst": b"(" + text + b"iposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + text + b"o.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + unicode + b"\x85R.",
        "eval": b'c__builtin__\neval\n(S\'__import__("os").system("' + command + b"\")'\ntR.",
        "build": build,
        "new object": b"\x80\x02csubprocess\nPopen\n((S'touch'\nS'" + str(marker).encode() + b"'\nlt\x81.",
    }


def write(path: Path, payload: bytes) -> Path:
    """Writes a pickle as a file of the kind that its name says: .pkl, .pth (zip) or .legacy.pth."""
    if path.suffix == ".pkl":
        path.write_bytes(payload)
    elif path.name.endswith(".legacy.pth"):
        header = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
        path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in header) + payload)
    else:
        whole = io.BytesIO()
        torch.save({"model": {"weight": torch.zeros(1)}}, whole)
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for item in source.infolist():
                content = payload if item.filename.endswith("/data.pkl") else source.read(item)
                target.writestr(item.filename, content)
    return path


KINDS = ("evil.pkl", "evil.pth", "evil.legacy.pth")
