"""Checks the cooperative problems next to this file: `python3 check_coop.py`, on a Unix system.

Run it after a change to coop-train.jsonl or coop-held-out.jsonl. For every problem it checks that

- the examples in the docstring are true for the reference pair, and the pair passes every assert;
- the entry function calls `aux`, uses its results, and is more than a wrapper;
- trivial answers (a constant, an argument, the length of an argument) pass at most two fifths of
  the asserts, and the same holds for the entry function with such an `aux`;
- a reference with one operator, comparison or number changed fails. Some of these changes do not
  affect the meaning, so survivors are listed, and only too many of them are an error.

It runs the references in this interpreter, because they belong to this project and are trusted.
"""

import ast
import copy
import doctest
import json
import pathlib
import signal
import sys

MAX_TRIVIAL_FRACTION = 0.4
MIN_KILLED_FRACTION = 0.9
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
}


def define(*sources):
    names = {}
    for source in sources:
        exec(source, names)
    return names


def asserts(problem):
    check = ast.parse(problem["test"]).body[0]
    return [ast.unparse(statement) for statement in check.body]


def passed(problem, candidate):
    """How many asserts a candidate passes. Each runs on its own, for at most a fifth of a second."""
    count = 0
    for source in asserts(problem):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            exec(source, {"candidate": candidate})
            count += 1
        except Exception:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return count


def examples_are_true(problem, names):
    docstring = ast.get_docstring(ast.parse(problem["prompt"]).body[0])
    test = doctest.DocTestParser().get_doctest(docstring, dict(names), problem["task_id"], None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    return len(test.examples) >= 2 and runner.run(test).failed == 0


def is_aux(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "aux"


def cooperates(problem):
    """Whether the entry function calls `aux`, ignores no result, and is more than a wrapper."""
    function = ast.parse(problem["reference_main"]).body[0]
    if not any(is_aux(node) for node in ast.walk(function)):
        return False
    nodes = list(ast.walk(function))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for node in nodes:
        if isinstance(node, ast.Expr) and is_aux(node.value):
            return False
        if isinstance(node, ast.Assign) and is_aux(node.value):
            if not any(isinstance(n, ast.Name) and n.id in read for n in ast.walk(node.targets[0])):
                return False
    match function.body:
        case [ast.Return()]:
            return False
        case [ast.Assign(), ast.Return(value=ast.Name())]:
            return False
    return True


def trivial_answers(problem):
    """Functions that return a constant, an argument, or the length of an argument."""
    expected = [ast.literal_eval(ast.parse(source).body[0].test.comparators[0])
                for source in asserts(problem)]
    for value in [None, 0, 1, -1, "", [], True, False, *expected]:
        yield f"constant {value!r}", lambda *_, value=value: value
    for index in range(3):
        yield f"argument {index}", lambda *args, index=index: args[index]
        yield f"length of argument {index}", lambda *args, index=index: len(args[index])


class Mutate(ast.NodeTransformer):
    """Makes only the change with this index, counted over the whole function."""

    def __init__(self, index):
        self.remaining = index

    def generic_visit(self, node):
        super().generic_visit(node)
        changed = copy.copy(node)
        if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
            changed.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            changed.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            changed.value = node.value + 1
        else:
            return node
        self.remaining -= 1
        return changed if self.remaining == -1 else node


def mutants(source):
    index = 0
    while True:
        mutate = Mutate(index)
        tree = ast.fix_missing_locations(mutate.visit(ast.parse(source)))
        if mutate.remaining >= 0:
            return
        yield ast.unparse(tree)
        index += 1


def check(problem):
    """Returns the faults of a problem, the number of its mutants, and the mutants that survive."""
    aux, main, entry = (problem[f] for f in ("reference_aux", "reference_main", "entry_point"))
    names, total, faults = define(aux, main), len(asserts(problem)), []
    if passed(problem, names[entry]) != total or total < 5:
        faults.append("the reference fails, or there are fewer than five asserts")
    if not examples_are_true(problem, names):
        faults.append("an example is not true")
    if not cooperates(problem):
        faults.append("the entry function does not cooperate")
    for what, function in trivial_answers(problem):
        if passed(problem, function) > MAX_TRIVIAL_FRACTION * total:
            faults.append(f"{what} passes {passed(problem, function)} of {total}")
        with_aux = define(main)
        with_aux["aux"] = function
        if passed(problem, with_aux[entry]) > MAX_TRIVIAL_FRACTION * total:
            faults.append(f"aux as {what} passes {passed(problem, with_aux[entry])} of {total}")
    pairs = [(a, main) for a in mutants(aux)] + [(aux, m) for m in mutants(main)]
    survivors = [a if m == main else m for a, m in pairs
                 if passed(problem, define(a, m)[entry]) == total]
    return faults, len(pairs), survivors


def stop(*_):
    raise TimeoutError


def main():
    signal.signal(signal.SIGALRM, stop)
    folder = pathlib.Path(__file__).parent
    files = [folder / "coop-train.jsonl", folder / "coop-held-out.jsonl"]
    problems = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
    fault_count = all_mutants = survived = 0
    for problem in problems:
        faults, mutant_count, survivors = check(problem)
        fault_count, survived = fault_count + len(faults), survived + len(survivors)
        all_mutants += mutant_count
        for line in faults:
            print(f"{problem['task_id']} {problem['entry_point']}: {line}")
        for source in survivors:
            print(f"{problem['task_id']} survivor:\n{source}")
    print(f"{len(problems)} problems, {fault_count} faults; {all_mutants} mutants, {survived} survived")
    return fault_count > 0 or survived > (1 - MIN_KILLED_FRACTION) * all_mutants


if __name__ == "__main__":
    sys.exit(main())
