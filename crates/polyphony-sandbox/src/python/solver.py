# The solver: runs the untrusted program and answers calls to its entry point.
#
# It has the program's source and a socket to the host, and nothing worth finding: no test, no
# expected value. The program can only try to fake success by sending a wrong answer.

# The description of a MemoryError, prepared for when no memory is left.
_NO_MEMORY = pack("memory", "MemoryError", "MemoryError", "")


class _Unbounded:
    """No memory limit for values from the tests, which are trusted."""

    reserved_until = SOURCE_LIMIT


def run_child(channel):
    _, payload = channel.receive()
    source, entry_point = unpack(payload)
    del payload
    module = _load(channel, source)
    del source
    if module is None:
        return
    channel.send(b"O")
    while True:
        _, payload = channel.receive()
        try:
            args, kwargs = decode(payload, _Unbounded)
            answer = encode(_function(module, entry_point)(*args, **kwargs))
        except BaseException as error:
            channel.send(b"X", _describe(error))
        else:
            channel.send(b"R", answer)
        args = kwargs = answer = None


def _function(module, entry_point):
    try:
        return module.__dict__[entry_point]
    except KeyError:
        raise NameError(f"name '{entry_point}' is not defined") from None


def _load(channel, source):
    """The program as a module; None if it cannot be loaded, which is reported to the host."""
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        # Older versions of Python raise a ValueError for a NUL character.
        line, column = getattr(error, "lineno", 0), getattr(error, "offset", 0)
        message = getattr(error, "msg", None) or str(error)
        channel.send(b"E", pack(max(line or 0, 0), max(column or 0, 0), printable(message)))
        return None
    except BaseException as error:
        channel.send(b"X", _describe(error))
        return None
    # The module can be found by its name, as dataclasses and similar code expect.
    module = type(sys)("solution")
    sys.modules["solution"] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        channel.send(b"X", _describe(error))
        return None
    return module


def _describe(error):
    """Describes an exception: its category, its type, its builtin base class, its message."""
    try:
        # The traceback's frames hold the program's values, which are freed before memory is needed.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        # The system reports a lack of memory as an OSError, for example for a map that is too large.
        if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == 12:
            return _NO_MEMORY
        # Only a PermissionError from the system has an error number.
        refused = isinstance(error, PermissionError) and error.errno is not None
        kind = type(error)
        builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        is_plain = len(error.args) == 1 and type(error.args[0]) is str
        message = error.args[0] if is_plain else str(error)
        return pack(
            "refused" if refused else "plain",
            printable(kind.__name__),
            builtin.__name__,
            printable(message),
        )
    except MemoryError:
        return _NO_MEMORY
    except BaseException:
        return pack("plain", "Exception", "Exception", "an exception that cannot be described")


def warm_up():
    source = (
        "from typing import List\n"
        "def f(x, y=None):\n"
        "    for z in x:\n"
        "        if z > 2: raise ValueError('no')\n"
        "    return [z + 1 for z in x] or {'a': (1.5, None)}\n"
    )
    calls = [(([1, 2, 1],), {}), (([],), {"y": "b"}), (([3],), {})]
    for _ in range(10):
        rehearse((b"L", pack(source, "f")), *((b"C", encode(call)) for call in calls))
