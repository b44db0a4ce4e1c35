"""Checks the cooperative problems beside this file: `python3 check_coop.py`, on a Unix system.

Run it after a change to coop-train.jsonl or coop-held-out.jsonl. Of every problem it sees that

- the examples in the docstring are true of the reference pair, and the pair passes every assert;
- the entry function calls `aux`, uses what it gives, and is no mere wrapper;
- answers that need no thought (a constant, an argument handed back, the length of one) pass at
  most two fifths of the asserts, and so does the entry function with such an `aux`;
- a reference with one operator, comparison or number changed fails. A change may leave the meaning
  as it was, so survivors are listed and only too many of them are an error.

It runs the references in this interpreter: they are the project's own and trusted.
"""

import ast
import copy
import doctest
import json
import pathlib
import signal
import sys

MOST_BY_LUCK = 0.4
LEAST_CAUGHT = 0.9
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
    """How many asserts a candidate passes, each for itself and within a fifth of a second."""
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


def thoughtless(problem):
    """Functions that give the same always, or an argument, or the length of one."""
    expected = [ast.literal_eval(ast.parse(source).body[0].test.comparators[0])
                for source in asserts(problem)]
    for value in [None, 0, 1, -1, "", [], True, False, *expected]:
        yield f"constant {value!r}", lambda *_, value=value: value
    for place in range(3):
        yield f"argument {place}", lambda *given, place=place: given[place]
        yield f"length of argument {place}", lambda *given, place=place: len(given[place])


class Mutate(ast.NodeTransformer):
    """Makes the change of this number, counted over the whole function."""

    def __init__(self, wanted):
        self.left = wanted

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
        self.left -= 1
        return changed if self.left == -1 else node


def mutants(source):
    wanted = 0
    while True:
        mutate = Mutate(wanted)
        tree = ast.fix_missing_locations(mutate.visit(ast.parse(source)))
        if mutate.left >= 0:
            return
        yield ast.unparse(tree)
        wanted += 1


def check(problem):
    """What is wrong with a problem, and its mutants: how many, and those that went unnoticed."""
    aux, main, entry = (problem[f] for f in ("reference_aux", "reference_main", "entry_point"))
    names, total, wrong = define(aux, main), len(asserts(problem)), []
    if passed(problem, names[entry]) != total or total < 5:
        wrong.append("the reference fails, or there are fewer than five asserts")
    if not examples_are_true(problem, names):
        wrong.append("an example is not true")
    if not cooperates(problem):
        wrong.append("the entry function does not cooperate")
    for what, function in thoughtless(problem):
        if passed(problem, function) > MOST_BY_LUCK * total:
            wrong.append(f"{what} passes {passed(problem, function)} of {total}")
        with_aux = define(main)
        with_aux["aux"] = function
        if passed(problem, with_aux[entry]) > MOST_BY_LUCK * total:
            wrong.append(f"aux as {what} passes {passed(problem, with_aux[entry])} of {total}")
    pairs = [(a, main) for a in mutants(aux)] + [(aux, m) for m in mutants(main)]
    survivors = [a if m == main else m for a, m in pairs
                 if passed(problem, define(a, m)[entry]) == total]
    return wrong, len(pairs), survivors


def stop(*_):
    raise TimeoutError


def main():
    signal.signal(signal.SIGALRM, stop)
    folder = pathlib.Path(__file__).parent
    files = [folder / "coop-train.jsonl", folder / "coop-held-out.jsonl"]
    problems = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
    faults = all_mutants = survived = 0
    for problem in problems:
        wrong, mutant_count, survivors = check(problem)
        faults, survived = faults + len(wrong), survived + len(survivors)
        all_mutants += mutant_count
        for line in wrong:
            print(f"{problem['task_id']} {problem['entry_point']}: {line}")
        for source in survivors:
            print(f"{problem['task_id']} survivor:\n{source}")
    print(f"{len(problems)} problems, {faults} faults; {all_mutants} mutants, {survived} survived")
    return faults > 0 or survived > (1 - LEAST_CAUGHT) * all_mutants


if __name__ == "__main__":
    sys.exit(main())
