# Prints what the interpreter is and which files it needs, one `key value` per line.

import os
import struct
import sys


def report(key, value):
    sys.stdout.write("%s %s\n" % (key, value))


version = sys.version_info
report("version", "%d.%d.%d" % version[:3])
if version < (3, 9):
    sys.exit()

# The interpreter itself, not a virtual environment's link to it.
executable = getattr(sys, "_base_executable", None) or sys.executable
if sys.prefix != sys.base_prefix:
    name = "python%d.%d" % version[:2]
    inside = os.path.join(sys.base_exec_prefix, "bin", name)
    executable = inside if os.path.exists(inside) else executable
executable = os.path.realpath(executable)
report("executable", executable)


def loader(path):
    """The dynamic loader that the system starts first, as named in the ELF header."""
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
                start, _, _, length = struct.unpack_from(order + "QQQQ", entry, 8)
                elf.seek(start)
                return elf.read(length).rstrip(b"\0").decode()
    return None


loader_path = loader(executable)
if loader_path:
    report("loader", loader_path)

def inside(path, folder):
    return path == folder or path.startswith(folder + os.sep)


library = os.path.dirname(os.path.realpath(os.__file__))
folders = [library]
report("library", library)
for entry in sys.path:
    real = os.path.realpath(entry)
    if not os.path.isdir(real) or "-packages" in os.path.basename(real):
        continue
    if not any(inside(real, folder) for folder in folders):
        folders.append(real)
        report("library", real)
    if real == folders[-1] and entry != real:
        report("alias", entry)

# These modules are imported so that the libraries they need are among the mapped files.
for module in ("ctypes", "hashlib", "zlib", "bz2", "lzma", "decimal", "math", "uuid", "_socket"):
    try:
        __import__(module)
    except Exception:
        pass
try:
    # The C library loads this library when a thread ends.
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
    report("shared", real)
    # The names under which other files load it.
    folder, stem = os.path.dirname(real), os.path.basename(real).split(".so")[0]
    for name in sorted(os.listdir(folder)):
        link = os.path.join(folder, name)
        if name.startswith(stem) and os.path.islink(link) and os.path.realpath(link) == real:
            report("alias", link)
