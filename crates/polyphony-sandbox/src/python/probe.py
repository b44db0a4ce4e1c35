# Tells what the interpreter is and which files it needs, one `key value` a line.

import os
import struct
import sys


def tell(key, value):
    sys.stdout.write("%s %s\n" % (key, value))


version = sys.version_info
tell("version", "%d.%d.%d" % version[:3])
if version < (3, 9):
    sys.exit()

# The interpreter itself, not a virtual environment's link to it.
executable = getattr(sys, "_base_executable", None) or sys.executable
if sys.prefix != sys.base_prefix:
    name = "python%d.%d" % version[:2]
    inside = os.path.join(sys.base_exec_prefix, "bin", name)
    executable = inside if os.path.exists(inside) else executable
executable = os.path.realpath(executable)
tell("executable", executable)


def loader(path):
    """The program that the system starts to load this one, as its ELF header names it."""
    with open(path, "rb") as elf:
        head = elf.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        order = "<" if head[5] == 1 else ">"
        (offset,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        for index in range(count):
            elf.seek(offset + index * size)
            entry = elf.read(size)
            (kind,) = struct.unpack_from(order + "I", entry, 0)
            if kind == 3:
                at, _, _, length = struct.unpack_from(order + "QQQQ", entry, 8)
                elf.seek(at)
                return elf.read(length).rstrip(b"\0").decode()
    return None


named = loader(executable)
if named:
    tell("loader", named)

def inside(path, folder):
    return path == folder or path.startswith(folder + os.sep)


library = os.path.dirname(os.path.realpath(os.__file__))
folders = [library]
tell("library", library)
for entry in sys.path:
    real = os.path.realpath(entry)
    if not os.path.isdir(real) or "-packages" in os.path.basename(real):
        continue
    if not any(inside(real, folder) for folder in folders):
        folders.append(real)
        tell("library", real)
    if real == folders[-1] and entry != real:
        tell("alias", entry)

# Loaded so that the libraries they need are among the files that are mapped.
for module in ("ctypes", "hashlib", "zlib", "bz2", "lzma", "decimal", "math", "uuid", "_socket"):
    try:
        __import__(module)
    except Exception:
        pass
try:
    # The C library asks for it when a thread ends.
    __import__("ctypes").CDLL("libgcc_s.so.1")
except Exception:
    pass
mapped = set()
with open("/proc/self/maps") as maps:
    for line in maps:
        parts = line.rstrip("\n").split(None, 5)
        if len(parts) == 6 and parts[5].startswith("/") and ".so" in os.path.basename(parts[5]):
            mapped.add(parts[5])
for path in sorted(mapped):
    real = os.path.realpath(path)
    if any(inside(real, folder) for folder in folders) or not os.path.isfile(real):
        continue
    tell("shared", real)
    # The names by which other files ask for it.
    folder, stem = os.path.dirname(real), os.path.basename(real).split(".so")[0]
    for other in sorted(os.listdir(folder)):
        link = os.path.join(folder, other)
        if other.startswith(stem) and os.path.islink(link) and os.path.realpath(link) == real:
            tell("alias", link)
