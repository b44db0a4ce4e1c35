# How the processes of the sandbox talk, and the only form in which values cross between them.
#
# Everything here is plain data. A value is rebuilt from tags and lengths by the side that reads it,
# so no class, no code and no reference ever crosses, and what the reader compares is its own.

import os
import struct
import sys

FRAME_LIMIT = 4 << 20
SOURCE_LIMIT = 16 << 20
DEPTH_LIMIT = 100
TEXT_LIMIT = 400

# How a process ends that has no memory left to say so. The host knows it.
OUT_OF_MEMORY = 112

_HEAD = struct.Struct("<cI")
_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")


class Malformed(ValueError):
    """Bytes that are no value."""


class HostGone(BaseException):
    """The host has let go: whatever this process was for is over."""


class Channel:
    """A stream of frames: a kind, a length, a payload."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    def send(self, kind, payload=b""):
        try:
            rest = memoryview(_HEAD.pack(kind, len(payload)) + payload)
            while rest:
                rest = rest[os.write(self._writer, rest) :]
        except MemoryError:
            _leave_in_the_middle()

    def receive(self):
        try:
            kind, length = _HEAD.unpack(self._exactly(_HEAD.size))
            if length > SOURCE_LIMIT + 1024:
                raise HostGone
            return kind, self._exactly(length)
        except MemoryError:
            _leave_in_the_middle()

    def _exactly(self, length):
        pieces = []
        while length:
            piece = os.read(self._reader, min(length, 1 << 20))
            if not piece:
                raise HostGone
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)


def _leave_in_the_middle():
    """Ends a process that has no memory for a frame: the rest of it would be taken for the next one."""
    os._exit(OUT_OF_MEMORY)


def rehearse(*frames):
    """Lets this process do once what its children do, with what they might hear, so that every cache
    that this fills is filled before they are forked. What they would say goes nowhere."""
    reader, writer = os.pipe()
    script = Channel(reader, writer)
    for frame in frames:
        script.send(*frame)
    os.close(writer)
    try:
        run_child(Channel(reader, sys.stdout.fileno()))
    except HostGone:
        pass
    os.close(reader)


def pack(*fields):
    """Texts, one after the other, each with its length."""
    encoded = [str(field).encode("utf-8", "backslashreplace") for field in fields]
    return b"".join(_LENGTH.pack(len(field)) + field for field in encoded)


def unpack(payload):
    fields, at = [], 0
    while at < len(payload):
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        fields.append(payload[at : at + length].decode("utf-8"))
        at += length
    return fields


def printable(text):
    """A text that can be shown on one line, shortened."""
    text = text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def encode(value):
    """The bytes of a plain value. What subclasses a plain type crosses as that type."""
    out = bytearray()
    _put(out, value, 0)
    return bytes(out)


def _put(out, value, depth):
    if depth > DEPTH_LIMIT:
        raise TypeError(f"a value is nested more than {DEPTH_LIMIT} deep")
    kind = type(value)
    if value is None:
        out += b"N"
    elif kind is bool:
        out += b"T" if value else b"F"
    elif kind is int:
        _put_bytes(out, b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    elif kind is float:
        out += b"f" + _FLOAT.pack(value)
    elif kind is str:
        _put_bytes(out, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind in _ITEMS:
        out += _ITEMS[kind] + _LENGTH.pack(len(value))
        for item in value:
            _put(out, item, depth + 1)
    elif kind is dict:
        out += b"d" + _LENGTH.pack(len(value))
        for key, item in value.items():
            _put(out, key, depth + 1)
            _put(out, item, depth + 1)
    elif kind is bytes:
        _put_bytes(out, b"b", value)
    elif kind is complex:
        out += b"c" + _COMPLEX.pack(value.real, value.imag)
    else:
        _put(out, _plain(value), depth)
    if len(out) > FRAME_LIMIT:
        raise TypeError(f"a value takes more than {FRAME_LIMIT >> 20} MiB")


def _put_bytes(out, tag, data):
    if len(data) > FRAME_LIMIT:
        raise TypeError(f"a value takes more than {FRAME_LIMIT >> 20} MiB")
    out += tag + _LENGTH.pack(len(data))
    out += data


_ITEMS = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}

def _plain(value):
    """The same as an instance of the plain type itself, made by that type's own methods."""
    whole = slice(None)
    for kind in (str, bytes, list, tuple):
        if isinstance(value, kind):
            return kind.__getitem__(value, whole)
    for kind in (int, float, complex):
        if isinstance(value, kind):
            return kind.__pos__(value)
    for kind in (set, frozenset):
        if isinstance(value, kind):
            return kind(kind.__iter__(value))
    if isinstance(value, dict):
        return dict(dict.items(value))
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(payload, memory):
    """The value of its bytes. Before it goes on past `memory.paid` of them, it asks `memory.pay`."""
    try:
        value, end = _take(payload, 0, 0, memory)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise Malformed(str(error)) from None
    if end != len(payload):
        raise Malformed("bytes are left over")
    return value


def _take(data, at, depth, memory):
    if depth > DEPTH_LIMIT:
        raise Malformed(f"nested more than {DEPTH_LIMIT} deep")
    if at >= memory.paid:
        memory.pay(at)
    tag = data[at : at + 1]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"f":
        return _FLOAT.unpack_from(data, at)[0], at + _FLOAT.size
    if tag == b"c":
        return complex(*_COMPLEX.unpack_from(data, at)), at + _COMPLEX.size
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    if length > len(data) - at:
        raise Malformed("a length is larger than what follows")
    if tag in _FROM_BYTES:
        return _FROM_BYTES[tag](data[at : at + length]), at + length
    if tag == b"d":
        return _take_dict(data, at, depth, length, memory)
    if tag not in _FROM_ITEMS:
        raise Malformed(f"no value has the tag {tag!r}")
    items = []
    for _ in range(length):
        item, at = _take(data, at, depth + 1, memory)
        items.append(item)
    return _FROM_ITEMS[tag](items), at


def _take_dict(data, at, depth, length, memory):
    taken = {}
    for _ in range(length):
        key, at = _take(data, at, depth + 1, memory)
        taken[key], at = _take(data, at, depth + 1, memory)
    return taken, at


_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_FROM_BYTES = {
    b"i": lambda data: int.from_bytes(data, "little", signed=True),
    b"s": lambda data: data.decode("utf-8", "surrogatepass"),
    b"b": bytes,
}
_FROM_ITEMS = {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset}
