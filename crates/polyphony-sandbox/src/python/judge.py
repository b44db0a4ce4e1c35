# The judge: runs the tests, with a stand-in for the program's entry point that calls the solver.
#
# It only compares values that it built itself from plain data, so nothing but the tests decides the
# outcome. Outcomes go to the host over a socket that the solver never has.

import ast
import builtins
import mmap

# Exceptions that would end a loop in the tests instead of failing an assert.
_ITERATION_EXCEPTIONS = (StopIteration, StopAsyncIteration)


class SolverGone(BaseException):
    """The solver is gone, and the host knows why. An `except Exception` in the tests does not catch it."""


# Reserved, so that the outcome can be reported when the tests have used up all other memory.
_RESERVE = 16 << 20
# The most bytes of memory per byte of a reply: five bytes are an empty set, which takes 249 bytes
# with its slot in a list.
_GROWTH = 64
# This many bytes of a reply are decoded before free memory is checked again.
_STRETCH = 256 << 10
# The memory that must be free before they are decoded: for these bytes, for the longest text, which is
# decoded in one piece, and for what the tests do with the value.
_ROOM = _GROWTH * _STRETCH + (32 << 20)


class Memory:
    """Keeps replies from using up the memory that the judge itself needs. What is free follows from the
    limit on address space, so what the tests hold counts as used, and what they have freed does not."""

    def __init__(self):
        self._reserve = _address_space(_RESERVE)
        # A reply may be decoded up to this position.
        self.reserved_until = 0

    def reserve(self, position):
        """Allows one more stretch of a reply to be decoded, or raises a MemoryError."""
        try:
            _address_space(_ROOM).close()
        except MemoryError:
            raise MemoryError("what the program returned takes too much memory") from None
        self.reserved_until = position + _STRETCH

    def decode(self, payload):
        """The value of a reply."""
        try:
            return decode(payload, self)
        finally:
            # The next reply starts at position 0.
            self.reserved_until -= len(payload)

    def make_room(self, error):
        """Frees what an exception holds, and the reserve if memory is used up."""
        if isinstance(error, MemoryError) and self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        trace = error.__traceback__
        error.__traceback__ = error.__context__ = error.__cause__ = None
        while trace is not None:
            try:
                trace.tb_frame.clear()
            except RuntimeError:
                # The frame still runs.
                pass
            trace = trace.tb_next

    def restore(self):
        """Takes the reserve back, or raises a MemoryError."""
        if self._reserve is None:
            self._reserve = _address_space(_RESERVE)


def _address_space(size):
    """Reserves address space, or raises a MemoryError. It takes no memory, since nothing is written to it."""
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    except OSError:
        raise MemoryError from None


class Candidate:
    """The stand-in for the program's entry point, which the tests call."""

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
        raise SolverGone(unpack(payload)[0])


def _reply(payload, memory):
    try:
        return memory.decode(payload)
    except Malformed as error:
        failure = RuntimeError(f"the program's reply is not a value: {error}")
        raise failure from None


def _raised(category, name, builtin, message):
    """The builtin exception that stands for the program's exception."""
    kind = getattr(builtins, builtin, None)
    is_exception = isinstance(kind, type) and issubclass(kind, Exception)
    if not is_exception or issubclass(kind, _ITERATION_EXCEPTIONS):
        kind = RuntimeError
    try:
        error = kind(message)
    except Exception:
        error = RuntimeError(message)
    error.solver_report = (category, f"{name}: {message}" if message else name)
    return error


class OutcomeReporter:
    """Reports to the host, as they happen, which asserts ran and with which outcome."""

    def __init__(self, channel, memory):
        self._channel = channel
        self._memory = memory
        self._failed = set()
        self._open = 0

    def enter(self, index):
        # One failure decides the assert, so a loop need not run it again.
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
        if isinstance(error, (SolverGone, GeneratorExit)):
            self._close(index, "plain", str(error))
            # The host attributes the solver's end to the outermost assert, whose time it measures.
            if self._open or isinstance(error, GeneratorExit):
                raise
        else:
            self._close(index, *_categorized(error))

    def _close(self, index, category, text):
        self._open -= 1
        self._channel.send(b"N" if self._open else b"Z", pack(index, category, text))


def _categorized(error):
    report = getattr(error, "solver_report", None)
    if report is not None:
        return report
    category = "memory" if isinstance(error, MemoryError) else "plain"
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = ""
    return category, printable(f"{name}: {text}" if text else name)


class AssertGuard:
    """Wraps each assert whose condition is not a constant, so that the others still run after it fails.
    Collects the sources of these asserts."""

    def __init__(self, source):
        # The parser counts columns in bytes.
        self._lines = source.encode("utf-8").splitlines(keepends=True)
        self.sources = {}

    def guard(self, statements):
        """Wraps the asserts among the statements and inside them, in place."""
        for index, node in enumerate(statements):
            if isinstance(node, ast.Assert):
                if not isinstance(node.test, ast.Constant):
                    statements[index] = self._guarded(node)
                continue
            for part in ("body", "orelse", "finalbody"):
                self.guard(getattr(node, part, ()))
            for part in ("handlers", "cases"):
                for block in getattr(node, part, ()):
                    self.guard(block.body)

    def _guarded(self, node):
        index = self.sources.setdefault(self._text(node), len(self.sources))
        position = {
            "lineno": node.lineno,
            "col_offset": node.col_offset,
            "end_lineno": node.end_lineno,
            "end_col_offset": node.end_col_offset,
        }

        def report(event):
            name = ast.Name(f"__judge_{event}__", ast.Load(), **position)
            return ast.Call(name, [ast.Constant(index, **position)], [], **position)

        failed = ast.Expr(report("failed"), **position)
        failed = ast.ExceptHandler(None, None, [failed], **position)
        passed = ast.Expr(report("passed"), **position)
        attempt = ast.Try([node], [failed], [passed], [], **position)
        return ast.If(report("enter"), [attempt], [], **position)

    def _text(self, node):
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode("utf-8")


class UnusableTests(Exception):
    """The tests cannot be run, whatever the program is."""


def run_child(channel):
    _, payload = channel.receive()
    setup, source, entry_point = unpack(payload)
    names = {"__name__": "tests", "__builtins__": builtins}
    try:
        code, sources = _prepare(source)
        _run_setup(setup, names)
        memory = _memory_after_setup()
    except UnusableTests as error:
        channel.send(b"B", pack(printable(str(error))))
        return
    channel.send(b"P", pack(*sources))
    channel.receive()

    reporter = OutcomeReporter(channel, memory)
    candidate = Candidate(channel, memory, entry_point)
    # Tests may also call the function by its own name.
    names[entry_point] = candidate
    for event in ("enter", "passed", "failed"):
        names[f"__judge_{event}__"] = getattr(reporter, event)
    try:
        exec(code, names)
    except BaseException as error:
        # If the tests have called the program, its return value may be what ended them.
        if candidate._called:
            _abort(channel, memory, names, error)
        else:
            channel.send(b"B", pack(printable(f"they fail before `check`: {_categorized(error)[1]}")))
        return
    try:
        names["check"](candidate)
    except BaseException as error:
        _abort(channel, memory, names, error)
    else:
        channel.send(b"D", pack("passed", ""))


def _abort(channel, memory, names, error):
    memory.make_room(error)
    names.clear()
    channel.send(b"D", pack(*_categorized(error)))


def _prepare(source):
    try:
        tree = ast.parse(source, "<tests>")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnusableTests(f"Python cannot parse them: {error}") from None
    checks = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"
    ]
    if not checks:
        raise UnusableTests("they define no function `check(candidate)`")
    guard = AssertGuard(source)
    guard.guard(checks[-1].body)
    return compile(tree, "<tests>", "exec"), guard.sources


def _run_setup(setup, names):
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)
    except BaseException as error:
        raise UnusableTests(f"their setup fails: {_categorized(error)[1]}") from None


def _memory_after_setup():
    try:
        return Memory()
    except MemoryError:
        raise UnusableTests("their setup leaves no memory for what the program returns") from None


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
