//! Definitions extracted from responses with all kinds of surrounding text.

use proptest::prelude::*;

use super::*;

const FUNCTION: &str = "def aux(x):\n    return x + 1";

fn check(response: &str, expected: Option<&str>) {
    let found = definition(response, "aux");
    assert_eq!(found.as_deref(), expected, "{response:?}");
}

#[test]
fn a_function_is_found_in_the_text_around_it() {
    let fenced = |before: &str, after: &str| format!("{before}{FUNCTION}{after}");
    let rows = [
        fenced("", ""),
        fenced("", "\n"),
        fenced("\n\n", "\n\nprint(aux(1))\nassert aux(2) == 3"),
        fenced("import os\nx = 1\n", "\n\ndef other(y):\n    return y"),
        fenced("```python\n", "\n```"),
        fenced("```\n", "\n```\nThis works (mostly."),
        fenced("~~~ python\n", "\n~~~"),
        fenced("  ```py\n", "\n  ```"),
        fenced("Here's the helper:\n```python\n", "```"),
        fenced("Sure! Don't worry.\n\n", "\n\nIt returns x."),
        fenced("Sure!\n\n", "\n# done\nExample usage: aux(1)"),
        fenced("class Solution:\n    pass\n", ""),
    ];
    for response in rows {
        check(&response, Some(FUNCTION));
        check(&response.replace('\n', "\r\n"), Some(FUNCTION));
        check(&response.replace('\n', "\r"), Some(FUNCTION));
    }
    check("```def aux(x): return x```", Some("def aux(x): return x"));
}

#[test]
fn nothing_is_found_where_the_function_is_missing() {
    for response in [
        "",
        " \n",
        "Sorry, I cannot help with that.",
        "async def aux(x):\n    return x",
        "Here it is:\n\nasync def aux(x):\n    return x",
        "def aux2(x):\n    return x",
        "Well:\n\ndef aux2(x):\n    return x",
        "aux = lambda x: x",
        "def aux",
        "Call aux(x) to define aux.",
        "text = '''\ndef aux(x):\n    return x\n'''",
        "# def aux(x): return x",
    ] {
        check(response, None);
    }
}

#[test]
fn decorators_nested_functions_and_the_body_are_extracted_completely() {
    let functions = [
        "@cache\n@retry(times=3)\ndef aux(x):\n    return x",
        "def aux(x):\n    def inner(y):\n        return y\n\n    # then\n\n    return inner(x)",
        "def aux(\n    x,\n    y=(1,\n2),\n) -> int:\n    return x",
        "def aux(x):\n    \"\"\"\nNo margin here.\n\ndef aux(y): nor here\n    \"\"\"\n    return x",
        "def aux(x):\n\tif x:\n\t\treturn 1\n\treturn 2",
        "def aux(x): return x",
        "def aux(x):\n    return [\n1,\n2,\n]",
        "def aux[T](x: T) -> T:\n    return x",
        "def aux(x):\n    for i in x:\n        if i: return i\n    else:\n        return 0",
        "def aux(x):\n    y = 1\n# At the margin.\n    return y",
        "def aux(x):\n    s = '''\n```\ncode\n```\n'''\n    return s",
    ];
    for function in functions {
        check(function, Some(function));
        check(&format!("{function}\nx = 1\n"), Some(function));
        // In prose all fences are dropped, even those inside strings.
        if !function.contains("```") {
            let prose = format!("It's (this:\n\n{function}\n\nIsn't it nice?");
            let found = definition(&prose, "aux").unwrap();
            assert_eq!(found.trim_end(), function);
        }
    }
}

#[test]
fn a_nested_function_loses_its_margin() {
    let rows = [
        (
            "class Solution:\n    def aux(x):\n        return x",
            "def aux(x):\n    return x",
        ),
        (
            "if True:\n\tdef aux(x):\n\t\treturn x",
            "def aux(x):\n\treturn x",
        ),
        (
            "1. So:\n   def aux(x):\n       return x\n2. Done.",
            "def aux(x):\n    return x",
        ),
        (
            "def aux(x):\n    return 1\nclass A:\n    def aux(x):\n        return 2",
            "def aux(x):\n    return 1",
        ),
    ];
    for (response, expected) in rows {
        check(response, Some(expected));
    }
}

#[test]
fn the_last_complete_definition_is_taken() {
    let [one, two, cut] =
        ["return 1", "return 2", "return (3"].map(|end| format!("def aux(x):\n    {end}"));
    check(&format!("{one}\n\n{two}"), Some(&two));
    check(&format!("So:\n{one}\nOr rather:\n{two}\nYes."), Some(&two));
    check(&format!("{one}\n\n{cut}"), Some(&one));
    check(&format!("So:\n{one}\n\n{two}\n\n{cut}"), Some(&two));
    check(&cut, Some(&cut));
}

#[test]
fn broken_code_is_extracted_by_its_indentation() {
    let rows = [
        ("def aux(x:\n    return 1", "def aux(x:\n    return 1"),
        (
            "def aux(x):\n    return ((1 + \n\n",
            "def aux(x):\n    return ((1 +",
        ),
        (
            "Hm:\n  @cache\n  def aux(x:\n    return 1\n\n    x\nEnd",
            "@cache\ndef aux(x:\n  return 1\n\n  x",
        ),
        (
            "def aux(\n    x\n):\n    return x y\nEnd",
            "def aux(\n    x\n):\n    return x y",
        ),
        ("def aux(x):\nreturn 1", "def aux(x):"),
        (
            "def aux(x):\n    return 'cut",
            "def aux(x):\n    return 'cut",
        ),
    ];
    for (response, expected) in rows {
        let found = definition(response, "aux").unwrap();
        assert_eq!(found.trim_end(), expected, "{response:?}");
    }
}

#[test]
fn a_text_that_is_too_long_or_too_deep_gives_no_definition_or_a_broken_one() {
    let long = format!("{FUNCTION}\n{}", "x = 1\n".repeat(2_000_000));
    check(&long, None);
    // Whether this nesting is an error is left to Python itself.
    let deep = format!(
        "def aux(x):\n    return {}1{}",
        "(".repeat(5000),
        ")".repeat(5000)
    );
    check(&deep, Some(&deep));
    let many = "def aux(x:\n".repeat(11_000);
    check(&many, Some("def aux(x:"));
}

/// A function of a few statements that make it hard to find its end.
fn any_function() -> impl Strategy<Value = String> {
    let statement = prop_oneof![
        "[a-z]_[a-z]{1,4} = [1-9][0-9]{0,2}",
        Just("if x:\n        y = 1\n    else:\n        y = 2".to_owned()),
        Just("s = '''\ndef aux(\n'''".to_owned()),
        Just("t = (\n1,\n\n2)".to_owned()),
        Just("def inner(z):\n        return z".to_owned()),
        Just("# a comment, it's (odd".to_owned()),
        Just("u = \"\\\"'(#\"".to_owned()),
        Just("v = f'{x!r:>{3}}'".to_owned()),
        Just("w = 1 + \\\n2".to_owned()),
    ];
    let decorators = prop::collection::vec(Just("@cache\n"), 0..2);
    (decorators, prop::collection::vec(statement, 0..6)).prop_map(|(decorators, statements)| {
        let body: String = statements
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect();
        format!(
            "{}def aux(x, *rest):\n{body}    return x",
            decorators.concat()
        )
    })
}

/// Lines that are not Python and do not begin the function.
fn any_prose() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "[A-Z][a-z]{1,8} [a-z]{1,8} [a-z(\\['\"]{1,6}[.!:]",
        Just(String::new()),
        Just("- It's a list".to_owned()),
        Just("def other(y):\n    return y".to_owned()),
    ];
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_embedded_definition_is_found_completely(
        function in any_function(),
        before in any_prose(),
        after in any_prose(),
        fence in prop_oneof![Just(""), Just("```"), Just("```python"), Just("~~~")],
    ) {
        let close = &fence[..fence.len().min(3)];
        let response = format!("{before}\n{fence}\n{function}\n{close}\n{after}");
        let found = definition(&response, "aux").map(|source| source.trim_end().to_owned());
        prop_assert_eq!(found, Some(function), "{}", response);
    }

    #[test]
    fn any_text_is_searched_without_a_panic(
        texts in prop::collection::vec(prop_oneof![
            "\\PC{0,20}", Just("def aux(".to_owned()), "[\\n \\t()\\[\\]{}'\":,@\\\\#]{0,9}",
            Just("```\n".to_owned()), Just("return\n".to_owned()), ".{0,5}",
        ], 0..30),
    ) {
        let text = texts.concat();
        if let Some(source) = definition(&text, "aux") {
            prop_assert!(source.lines().any(|line| begins(line, "aux")) , "{}", source);
        }
    }
}
