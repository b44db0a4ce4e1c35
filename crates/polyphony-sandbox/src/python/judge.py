# The judge: runs the tests, with a stand-in for the program's entry point that asks the solver.
#
# Every value that it compares is one that it built itself from plain data, so what decides a test is
# the test. Verdicts go to the host over a socket that the solver never holds.

import ast
import builtins
import mmap

# Exceptions that would steer the test's own iteration instead of failing it.
_STEERING = (StopIteration, StopAsyncIteration)


class Gone(BaseException):
    """The solver is gone, and the host knows why. No `except Exception` of a test may hide it."""


# Kept back, so that what the tests came to can be told when nothing else is left.
_RESERVE = 16 << 20
# The most bytes of memory that a byte of a reply becomes: five are an empty set, which takes 249 with
# its place in a list.
_GROWTH = 64
# How many bytes of a reply are decoded before there has to be room again.
_STRETCH = 256 << 10
# The room for that, for one text of the greatest length, which is decoded in one piece, and for what
# the tests make of it.
_ROOM = _GROWTH * _STRETCH + (32 << 20)


class Memory:
    """Keeps replies from taking the memory that the judge itself needs. The system measures it, by the
    limit on address space, so all that the tests hold counts, and what they have let go of does not."""

    def __init__(self):
        self._reserve = _address_space(_RESERVE)
        # How far a reply may be decoded.
        self.paid = 0

    def pay(self, at):
        """Lets a reply be decoded a stretch further, or raises a MemoryError."""
        try:
            _address_space(_ROOM).close()
        except MemoryError:
            raise MemoryError("what the program returned takes too much memory") from None
        self.paid = at + _STRETCH

    def decode(self, payload):
        """The value of a reply."""
        try:
            return decode(payload, self)
        finally:
            # The next one starts at 0.
            self.paid -= len(payload)

    def make_room(self, error):
        """Lets go of what an exception holds, and of the reserve where it is needed."""
        if isinstance(error, MemoryError) and self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        trace = error.__traceback__
        error.__traceback__ = error.__context__ = error.__cause__ = None
        while trace is not None:
            try:
                trace.tb_frame.clear()
            except RuntimeError:
                # It still runs.
                pass
            trace = trace.tb_next

    def restore(self):
        """Takes the reserve back, or raises a MemoryError."""
        if self._reserve is None:
            self._reserve = _address_space(_RESERVE)


def _address_space(size):
    """As much of it, but no memory, since nobody writes there; or a MemoryError."""
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    except OSError:
        raise MemoryError from None


class Candidate:
    """What the tests call in place of the program's entry point."""

    def __init__(self, channel, memory, name):
        self._channel = channel
        self._memory = memory
        self.__name__ = self.__qualname__ = name
        self._called = False

    def __call__(self, *args, **kwargs):
        self._called = True
        self._channel.send(b"C", encode((args, kwargs)))
        kind, payload = self._channel.receive()
        if kind == b"R":
            return _reply(payload, self._memory)
        if kind == b"X":
            raise _raised(*unpack(payload))
        raise Gone(unpack(payload)[0])


def _reply(payload, memory):
    try:
        return memory.decode(payload)
    except Malformed as error:
        failure = RuntimeError(f"the program's reply is no value: {error}")
        raise failure from None


def _raised(sort, name, builtin, message):
    """The builtin exception that stands for what the program raised."""
    kind = getattr(builtins, builtin, None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    if not known or issubclass(kind, _STEERING):
        kind = RuntimeError
    try:
        error = kind(message)
    except Exception:
        error = RuntimeError(message)
    error.told = (sort, f"{name}: {message}" if message else name)
    return error


class Tally:
    """Which asserts ran, and what came of them, told to the host as it happens."""

    def __init__(self, channel, memory):
        self._channel = channel
        self._memory = memory
        self._failed = set()
        self._open = 0

    def enter(self, index):
        # One failure decides it: a loop need not ask again.
        if index in self._failed:
            return False
        self._memory.restore()
        if not self._open:
            self._channel.send(b"A", pack(index))
        self._open += 1
        return True

    def passed(self, index):
        self._close(index, "passed", "")

    def failed(self, index):
        error = sys.exc_info()[1]
        self._memory.make_room(error)
        self._failed.add(index)
        if isinstance(error, (Gone, GeneratorExit)):
            self._close(index, "plain", str(error))
            # What the host saw concerns the outermost assert, the one whose time is being taken.
            if self._open or isinstance(error, GeneratorExit):
                raise
        else:
            self._close(index, *_sort(error))

    def _close(self, index, sort, text):
        self._open -= 1
        self._channel.send(b"N" if self._open else b"Z", pack(index, sort, text))


def _sort(error):
    told = getattr(error, "told", None)
    if told is not None:
        return told
    sort = "memory" if isinstance(error, MemoryError) else "plain"
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = ""
    return sort, printable(f"{name}: {text}" if text else name)


class Counting:
    """Lets each assert that is a test run on its own, and finds their sources."""

    def __init__(self, source):
        # What the parser calls a column is counted in bytes.
        self._lines = source.encode("utf-8").splitlines(keepends=True)
        self.sources = {}

    def guard(self, statements):
        """Guards the asserts among statements and in those that these hold, in place."""
        for at, node in enumerate(statements):
            if isinstance(node, ast.Assert):
                if not isinstance(node.test, ast.Constant):
                    statements[at] = self._guarded(node)
                continue
            for part in ("body", "orelse", "finalbody"):
                self.guard(getattr(node, part, ()))
            for part in ("handlers", "cases"):
                for held in getattr(node, part, ()):
                    self.guard(held.body)

    def _guarded(self, node):
        index = self.sources.setdefault(self._text(node), len(self.sources))
        place = {
            "lineno": node.lineno,
            "col_offset": node.col_offset,
            "end_lineno": node.end_lineno,
            "end_col_offset": node.end_col_offset,
        }

        def tell(what):
            name = ast.Name(f"__judge_{what}__", ast.Load(), **place)
            return ast.Call(name, [ast.Constant(index, **place)], [], **place)

        failed = ast.ExceptHandler(None, None, [ast.Expr(tell("failed"), **place)], **place)
        passed = ast.Expr(tell("passed"), **place)
        attempt = ast.Try([node], [failed], [passed], [], **place)
        return ast.If(tell("enter"), [attempt], [], **place)

    def _text(self, node):
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode("utf-8")


class Unusable(Exception):
    """The tests cannot be run, whatever the program."""


def run_child(channel):
    _, payload = channel.receive()
    setup, source, entry_point = unpack(payload)
    names = {"__name__": "tests", "__builtins__": builtins}
    try:
        code, sources = _prepare(source)
        _run_setup(setup, names)
        memory = _memory_beside_setup()
    except Unusable as error:
        channel.send(b"B", pack(printable(str(error))))
        return
    channel.send(b"P", pack(*sources))
    channel.receive()

    tally = Tally(channel, memory)
    candidate = Candidate(channel, memory, entry_point)
    # Tests may call the function by its own name, too.
    names[entry_point] = candidate
    for what in ("enter", "passed", "failed"):
        names[f"__judge_{what}__"] = getattr(tally, what)
    try:
        exec(code, names)
    except BaseException as error:
        # What the program returned may be what the tests broke off for.
        if candidate._called:
            _break_off(channel, memory, names, error)
        else:
            channel.send(b"B", pack(printable(f"they break off before `check`: {_sort(error)[1]}")))
        return
    try:
        names["check"](candidate)
    except BaseException as error:
        _break_off(channel, memory, names, error)
    else:
        channel.send(b"D", pack("passed", ""))


def _break_off(channel, memory, names, error):
    memory.make_room(error)
    names.clear()
    channel.send(b"D", pack(*_sort(error)))


def _prepare(source):
    try:
        tree = ast.parse(source, "<tests>")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Unusable(f"Python cannot parse them: {error}") from None
    checks = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"
    ]
    if not checks:
        raise Unusable("they define no function `check(candidate)`")
    counting = Counting(source)
    counting.guard(checks[-1].body)
    return compile(tree, "<tests>", "exec"), counting.sources


def _run_setup(setup, names):
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)
    except BaseException as error:
        raise Unusable(f"their set-up breaks off: {_sort(error)[1]}") from None


def _memory_beside_setup():
    try:
        return Memory()
    except MemoryError:
        raise Unusable("their set-up leaves no memory for what the program returns") from None


def warm_up():
    setup = "from typing import List\ndef g(x):\n    return x\n"
    tests = (
        "def check(candidate):\n"
        "    for x in [1, 2]:\n"
        "        assert candidate(x) == [1, 2.5, 'a']\n"
        "    assert candidate(y=(3, None)) == {'b': g(3)}, 'text'\n"
        "    assert candidate([4, [True]]) != 'c'\n"
    )
    values = [[1, 2.5, "a"], [1, 2.5, "a"], {"b": 3}]
    raised = (b"X", pack("plain", "ValueError", "ValueError", "no"))
    for _ in range(10):
        replies = [(b"R", encode(value)) for value in values]
        rehearse((b"J", pack(setup, tests, "f")), (b"G", b""), *replies, raised)
