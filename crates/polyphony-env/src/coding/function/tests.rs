//! Whether functions return a value, and how they use their helper.

use proptest::prelude::*;

use super::*;

const OWN: EntryBody = EntryBody::Own;
const WRAPPER: EntryBody = EntryBody::Wrapper;
const USED: HelperResults = HelperResults::Used;
const IGNORED: HelperResults = HelperResults::Ignored;

/// `def f(x):` with the body's lines.
fn function(body: &str) -> Function {
    let lines: Vec<String> = body.lines().map(|line| format!("    {line}\n")).collect();
    Function::find(&format!("def f(x):\n{}", lines.concat()), "f").unwrap()
}

#[test]
fn a_function_returns_a_value_where_its_own_return_has_one() {
    let rows = [
        ("return x", true),
        ("return None", true),
        ("return (x,)", true),
        ("if x:\n    return 1", true),
        (
            "for i in x:\n    with i:\n        try:\n            return i\n        finally:\n            pass",
            true,
        ),
        ("match x:\n    case 1:\n        return 2", true),
        ("return", false),
        ("pass", false),
        ("x = 'return 1'", false),
        ("# return 1\nx = 1", false),
        ("def inner():\n    return 1", false),
        ("class A:\n    def f(self):\n        return 1", false),
        ("g = lambda: 1", false),
        // Not Python: the word `return` decides.
        ("return ((1 +", true),
        ("if x return 1", true),
        ("return (", true),
        ("return )", true),
        ("x = (\nreturn", false),
        ("x = (\nreturn # nothing", false),
        ("x = (\nreturned 1", false),
        ("x = (\nmy_return 1", false),
        ("x = (  # return 1", false),
    ];
    for (body, expected) in rows {
        assert_eq!(function(body).returns_value(), expected, "{body}");
    }
}

#[test]
fn uses_of_the_helper_are_distinguished() {
    let called = |body, results| HelperUse::Called { body, results };
    let not_called = HelperUse::NotCalled;
    let rows = [
        (
            "y = aux(x)\nif y:\n    return y\nreturn 0",
            called(OWN, USED),
        ),
        ("return aux(x) if x else 0", called(WRAPPER, USED)),
        ("return [aux(y) for y in x]", called(WRAPPER, USED)),
        ("return aux(x)", called(WRAPPER, USED)),
        ("'''Doc.'''\n# note\nreturn aux(x)", called(WRAPPER, USED)),
        ("y = aux(x)\nreturn y", called(WRAPPER, USED)),
        ("y: int = aux(x)\nreturn y", called(WRAPPER, USED)),
        ("y = aux(x) + 1\nreturn y", called(OWN, USED)),
        ("y = aux(x)\nreturn y + 1", called(OWN, USED)),
        ("y = z = aux(x)\nreturn y", called(OWN, USED)),
        ("y = aux(x)\nprint(1)\nreturn y", called(OWN, USED)),
        ("y = aux(x)\nreturn x", called(OWN, IGNORED)),
        // No call, or a call of something else.
        ("return x", not_called),
        ("return aux", not_called),
        ("return map(aux, x)", not_called),
        ("return self.aux(x)", not_called),
        ("return aux2(x)", not_called),
        ("return 'aux(x)'", not_called),
        ("# aux(x)\nreturn 1", not_called),
        ("def aux(y):\n    return y\nreturn aux(x) + 1", not_called),
        ("aux = len\nreturn aux(x) + 1", not_called),
        ("from m import n as aux\nreturn aux(x) + 1", not_called),
        ("for aux in x:\n    y = aux(1)\nreturn y", not_called),
        ("with x as aux:\n    return aux(1)", not_called),
        (
            "try:\n    y = aux(1)\nexcept E as aux:\n    y = 2\nreturn y",
            not_called,
        ),
        ("global aux\naux = len\nreturn aux(x)", not_called),
        // Ignored results.
        ("aux(x)\nreturn 1", called(OWN, IGNORED)),
        ("if x:\n    aux(x)\nreturn aux(x)", called(OWN, IGNORED)),
        ("y = aux(x)\ny = 3\nreturn y", called(OWN, USED)),
        ("y, z = aux(x)\nreturn z", called(OWN, USED)),
        ("y, *z = aux(x)\nreturn 1", called(OWN, IGNORED)),
        ("y = z = aux(x)\nreturn 1", called(OWN, IGNORED)),
        ("_ = aux(x)\nreturn 1", called(OWN, IGNORED)),
        ("y: int = aux(x)\nreturn 1", called(OWN, IGNORED)),
        ("x[0] = aux(x)\nreturn 1", called(OWN, USED)),
        ("x.y = aux(x)\nreturn 1", called(OWN, USED)),
        ("y = aux(x) + 1\nreturn 1", called(OWN, USED)),
        (
            "y = aux(x)\ndef g():\n    return y\nreturn g()",
            called(OWN, USED),
        ),
        ("print(aux(x))\nreturn 1", called(OWN, USED)),
        // Not Python.
        ("y = aux(x)\nreturn ((y +", not_called),
    ];
    for (body, expected) in rows {
        assert_eq!(function(body).use_of("aux"), expected, "{body}");
    }
}

#[test]
fn a_parameter_hides_the_helper_and_defaults_are_not_the_body() {
    for header in [
        "def f(aux):",
        "def f(*aux):",
        "def f(x, **aux):",
        "def f(x=aux(1)):",
    ] {
        let function = Function::find(&format!("{header}\n    return 1 + len([x])"), "f").unwrap();
        assert_eq!(function.use_of("aux"), HelperUse::NotCalled, "{header}");
    }
    let hidden = Function::find("def f(aux):\n    y = aux(1)\n    return y + 1", "f").unwrap();
    assert_eq!(hidden.use_of("aux"), HelperUse::NotCalled);
}

proptest! {
    #[test]
    fn any_body_is_analysed_without_a_panic(body in "[a-z=:()\\[\\] \\n'#,.*]{0,80}") {
        let function = Function::find(&format!("def f(x):\n    {body}"), "f");
        if let Some(function) = function {
            function.returns_value();
            function.use_of("aux");
        }
    }
}
