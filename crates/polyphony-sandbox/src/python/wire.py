# The protocol between the processes of the sandbox, and the only format in which values cross.
#
# Everything here is plain data. The reader rebuilds a value from tags and lengths, so no class, no
# code and no reference ever crosses, and the reader only compares values that it built itself.
# `linux/wire.rs` lists the kinds of frames.

import os
import struct
import sys

FRAME_LIMIT = 4 << 20
SOURCE_LIMIT = 16 << 20
DEPTH_LIMIT = 100
TEXT_LIMIT = 400

# The exit code of a process that has no memory left to send a frame. The host knows this number.
OUT_OF_MEMORY = 112

_HEAD = struct.Struct("<cI")
_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")


class Malformed(ValueError):
    """Bytes that are not a value."""


class HostGone(BaseException):
    """The host has closed the channel, so this process is not needed any more."""


class Channel:
    """A stream of frames, each with a kind, a length and a payload."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    def send(self, kind, payload=b""):
        try:
            unsent = memoryview(_HEAD.pack(kind, len(payload)) + payload)
            while unsent:
                unsent = unsent[os.write(self._writer, unsent) :]
        except MemoryError:
            _exit_without_memory()

    def receive(self):
        try:
            kind, length = _HEAD.unpack(self._exactly(_HEAD.size))
            if length > SOURCE_LIMIT + 1024:
                raise HostGone
            return kind, self._exactly(length)
        except MemoryError:
            _exit_without_memory()

    def _exactly(self, length):
        pieces = []
        while length:
            piece = os.read(self._reader, min(length, 1 << 20))
            if not piece:
                raise HostGone
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)


def _exit_without_memory():
    """Ends a process that has no memory for a frame. If it continued after half of a frame, the rest
    would be read as the next frame."""
    os._exit(OUT_OF_MEMORY)


def rehearse(*frames):
    """Runs a child's work once in this process, with frames like those that children receive. This fills
    every cache before children are forked. The output is discarded."""
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
    """Packs texts one after the other, each with its length."""
    encoded = [str(field).encode("utf-8", "backslashreplace") for field in fields]
    return b"".join(_LENGTH.pack(len(field)) + field for field in encoded)


def unpack(payload):
    fields, position = [], 0
    while position < len(payload):
        (length,) = _LENGTH.unpack_from(payload, position)
        position += _LENGTH.size
        fields.append(payload[position : position + length].decode("utf-8"))
        position += length
    return fields


def printable(text):
    """The text as one printable line, shortened."""
    text = text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def encode(value):
    """The bytes of a plain value. An instance of a subclass crosses as the plain type."""
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
    """The value as an instance of the plain type itself, created by that type's own methods."""
    full_slice = slice(None)
    for kind in (str, bytes, list, tuple):
        if isinstance(value, kind):
            return kind.__getitem__(value, full_slice)
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
    """Rebuilds a value from its bytes. Before reading past position `memory.reserved_until`, calls
    `memory.reserve`."""
    try:
        value, end = _take(payload, 0, 0, memory)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise Malformed(str(error)) from None
    if end != len(payload):
        raise Malformed("bytes are left over")
    return value


def _take(data, position, depth, memory):
    if depth > DEPTH_LIMIT:
        raise Malformed(f"nested more than {DEPTH_LIMIT} deep")
    if position >= memory.reserved_until:
        memory.reserve(position)
    tag = data[position : position + 1]
    position += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], position
    if tag == b"f":
        return _FLOAT.unpack_from(data, position)[0], position + _FLOAT.size
    if tag == b"c":
        return complex(*_COMPLEX.unpack_from(data, position)), position + _COMPLEX.size
    (length,) = _LENGTH.unpack_from(data, position)
    position += _LENGTH.size
    if length > len(data) - position:
        raise Malformed("a length is larger than the remaining bytes")
    if tag in _FROM_BYTES:
        return _FROM_BYTES[tag](data[position : position + length]), position + length
    if tag == b"d":
        return _take_dict(data, position, depth, length, memory)
    if tag not in _FROM_ITEMS:
        raise Malformed(f"no value has the tag {tag!r}")
    items = []
    for _ in range(length):
        item, position = _take(data, position, depth + 1, memory)
        items.append(item)
    return _FROM_ITEMS[tag](items), position


def _take_dict(data, position, depth, length, memory):
    result = {}
    for _ in range(length):
        key, position = _take(data, position, depth + 1, memory)
        result[key], position = _take(data, position, depth + 1, memory)
    return result, position


_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_FROM_BYTES = {
    b"i": lambda data: int.from_bytes(data, "little", signed=True),
    b"s": lambda data: data.decode("utf-8", "surrogatepass"),
    b"b": bytes,
}
_FROM_ITEMS = {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset}
