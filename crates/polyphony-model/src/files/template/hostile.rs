//! Templates that are written to crash, to hang or to fill the memory.
//!
//! Rendering each of them ends soon, with an error that names its file or with a text of bounded size.

use std::path::Path;
use std::time::Duration;

use super::*;

/// The expected outcome of a template in the tables.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// An error that contains these words.
    Fails(&'static str),
    /// An error, or a text no longer than the bounds allow.
    Bounded,
}

use Outcome::{Bounded, Fails};

/// The bounds, by words of their errors.
const WORK: Outcome = Fails("more work than");
const PARTS: Outcome = Fails("parts");
const DEEP: Outcome = Fails("are nested more than");
const STORED: Outcome = Fails("cannot be stored");
const TAG: Outcome = Fails("words and signs");
const LONG: Outcome = Fails("bytes; a chat template");

/// The longest possible text: a unit of fuel pays for 64 bytes of output.
const LONGEST_TEXT: usize = 64 << 20;

/// The longest error message, in bytes.
const LONGEST_MESSAGE: usize = 10_000;

/// A template that repeats a text this many times, in lines within the bound.
fn many(before: &str, repeated: &str, count: usize, after: &str) -> String {
    let line = format!("{}\n", repeated.repeat(1000));
    let (lines, rest) = (line.repeat(count / 1000), repeated.repeat(count % 1000));
    format!("{before}{lines}{rest}{after}")
}

/// A variable `x` that is set this many times to a value made from itself.
fn steps(first: &str, step: &str, count: usize, last: &str) -> String {
    let first = format!("{{% set x = {first} %}}");
    many(&first, &format!("{{% set x = {step} %}}"), count, last)
}

/// A namespace's `x` that is set to a value made from itself in the longest loop allowed.
fn looped(first: &str, step: &str, last: &str) -> String {
    format!(
        "{{% set n = namespace(x={first}) %}}{{% for i in range(100000) %}}\
         {{% set n.x = {step} %}}{{% endfor %}}{last}"
    )
}

/// A macro that calls itself.
fn recursive(body: &str, first: &str) -> String {
    format!("{{% macro f(x) %}}{body}{{% endmacro %}}{{{{ f({first}) }}}}")
}

fn render(source: &str) -> Result<String, ModelError> {
    let messages = [
        Message::new(MessageRole::User, "What is it?"),
        Message::new(MessageRole::Assistant, "It is <b>this</b>.\n\nOr that."),
    ];
    ChatTemplate::new(source, None, Path::new("hostile.jinja"))?.render(&messages, true)
}

/// What a template does, its source, and the expected outcome.
type Row = (&'static str, String, Outcome);

fn check(table: Vec<Row>) {
    let peak_before = peak_memory();
    for (name, source, expected) in table {
        let started = cpu_time();
        let rendered = render(&source);
        let elapsed = cpu_time() - started;
        match (rendered, expected) {
            (Ok(text), Bounded) => assert!(text.len() <= LONGEST_TEXT, "{name}: {}", text.len()),
            (Ok(text), Fails(words)) => panic!("{name}: {} bytes, not {words}", text.len()),
            (Err(error), _) => {
                let message = error.to_string();
                assert!(message.contains("hostile.jinja"), "{name}: {message}");
                assert!(!message.contains("panicked"), "{name}: {message}");
                assert!(message.len() < LONGEST_MESSAGE, "{name}: {}", message.len());
                if let Fails(words) = expected {
                    assert!(message.contains(words), "{name}: {message}");
                }
            }
        }
        assert!(elapsed < Duration::from_secs(5), "{name}: {elapsed:?}");
    }
    let grown = peak_memory() - peak_before;
    assert!(grown < 1 << 30, "{grown} bytes");
}

/// The CPU time of this thread, if the system reports it. It does not depend on how busy the machine is.
fn cpu_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = times.split_whitespace().next();
    Duration::from_nanos(nanoseconds.map_or(0, |time| time.parse().unwrap()))
}

/// The peak memory of this process, if the system reports it.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<usize>().ok());
    1024 * kilobytes.unwrap_or(0)
}

#[test]
fn sources_that_are_too_long_or_too_deep_are_not_parsed() {
    check(large_sources());
}

#[rustfmt::skip]
fn large_sources() -> Vec<Row> {
    let n = 100_000;
    vec![
        ("a megabyte of text", "x".repeat(1 << 20), LONG),
        ("tags without end", many("", "{{ 1 }}", n, ""), LONG),
        ("a chain of +", many("{{ 1", "+1", n, " }}"), TAG),
        ("a chain of -", many("{{ x", "-1", n, " }}"), TAG),
        ("a chain of *", many("{{ x", "*1", n, " }}"), TAG),
        ("a chain of ~", many("{{ x", "~x", n, " }}"), TAG),
        ("a chain of **", many("{{ x", "**1", n / 2, " }}"), TAG),
        ("a chain of //", many("{{ x", "//1", n / 2, " }}"), TAG),
        ("a chain of and", many("{{ x", " and x", n / 4, " }}"), TAG),
        ("a chain of or", many("{{ x", " or x", n / 4, " }}"), TAG),
        ("a chain of not", many("{{ ", "not ", n / 2, "x }}"), TAG),
        ("a chain of minus", many("{{ ", "-", n, "x }}"), TAG),
        ("a chain of <", many("{{ x", "<x", n, " }}"), TAG),
        ("a chain of in", many("{{ x", " in x", n / 4, " }}"), TAG),
        ("a chain of is", many("{{ x", " is defined", n / 8, " }}"), TAG),
        ("a chain of filters", many("{{ x", "|e", n, " }}"), TAG),
        ("a chain of attributes", many("{{ x", ".a", n, " }}"), TAG),
        ("a chain of numbers", many("{{ x", ".0", n, " }}"), TAG),
        ("a chain of items", many("{{ x", "[0]", n / 2, " }}"), TAG),
        ("a chain of slices", many("{{ x", "[:]", n / 2, " }}"), TAG),
        ("a chain of calls", many("{{ x", "()", n, " }}"), TAG),
        ("a chain of methods", many("{{ x", ".a()", n / 2, " }}"), TAG),
        ("a chain of if", many("{{ x", " if x", n / 4, " }}"), TAG),
        ("a chain of else", many("{{ x", " if x else x", n / 8, " }}"), TAG),
        ("a chain of texts", many("{{ ", "'x' ", n / 2, " }}"), TAG),
        ("a filter block's chain", many("{% filter e", "|e", n, " %}{% endfilter %}"), TAG),
        ("a set block's chain", many("{% set x | e", "|e", n, " %}{% endset %}"), TAG),
        ("a filter's dotted name", many("{{ x|a", ".a", n, " }}"), TAG),
        ("a target's dotted name", many("{% set x", ".a", n, " = 1 %}"), TAG),
        ("parentheses", many("{{ ", "(", n, ""), TAG),
        ("brackets", many("{{ ", "[", n, ""), TAG),
        ("braces", many("{{ ", "{1:", n / 2, ""), TAG),
        ("targets in parentheses", many("{% for ", "(", n, ""), TAG),
        ("targets of set", many("{% set ", "(", n, ""), TAG),
        ("targets of with", many("{% with ", "(", n, ""), TAG),
        ("a long list", many("{{ [", "1,", n, "] }}"), TAG),
        ("a long map", many("{{ {", "1:1,", n / 2, "} }}"), TAG),
        ("a long tuple", many("{% set x = 1", ",1", n, " %}"), TAG),
        ("many arguments", many("{{ x(", "1,", n, ") }}"), TAG),
        ("many parameters", many("{% macro f(", "a,", n, ") %}{% endmacro %}"), TAG),
        ("many elif", many("{% if x %}", "{% elif x %}", 20_000, "{% endif %}"), Fails("elif")),
        ("elif within the source", many("{% if x %}", "{% elif x %}", 501, ""), Fails("elif")),
        ("nested if", many("", "{% if x %}", 20_000, ""), Fails("recursion")),
        ("nested for", many("", "{% for x in y %}", 10_000, ""), Fails("recursion")),
        ("nested with", many("", "{% with %}", 20_000, ""), Fails("recursion")),
        ("nested macro", many("", "{% macro f() %}", 10_000, ""), Fails("recursion")),
        ("nested call", many("", "{% call f() %}", 10_000, ""), Fails("recursion")),
        ("nested filter", many("", "{% filter e %}", 10_000, ""), Fails("recursion")),
        ("nested set", many("", "{% set x %}", 20_000, ""), Fails("recursion")),
        ("nested autoescape", many("", "{% autoescape x %}", 9_000, ""), Fails("recursion")),
    ]
}

#[test]
fn the_largest_sources_are_parsed_on_their_stack() {
    check(allowed_sources());
}

#[rustfmt::skip]
fn allowed_sources() -> Vec<Row> {
    let n = 499;
    let nested = |tag: &str, end: &str| many("", tag, 140, &end.repeat(140));
    vec![
        ("operators", many("{{ 1", "+x", n, " }}"), Bounded),
        ("constant operators", many("{{ 1", "*1", n, " }}"), Bounded),
        ("constant lists", many("{{ [1]", "*1", 490, " }}"), Bounded),
        ("constant list sums", many("{{ [1]", "+[1]", n / 2, " }}"), Bounded),
        ("concatenations", many("{{ x", "~x", n, " }}"), Bounded),
        ("negations", many("{{ ", "-", 990, "x }}"), Bounded),
        ("not", many("{{ ", "not ", 990, "x }}"), Bounded),
        ("constant negations", many("{{ ", "not ", 990, "1 }}"), Bounded),
        ("filters", many("{{ x", "|e", n, " }}"), Bounded),
        ("list filters", many("{{ 'x'", "|list", n, " }}"), Bounded),
        ("attributes", many("{{ x", ".a", n, " }}"), Bounded),
        ("slices", many("{{ messages", "[:]", 249, " }}"), Bounded),
        ("conditions", many("{{ x", " if x else x", 249, " }}"), Bounded),
        ("comparisons", many("{{ 1", "<=1", n, " }}"), Bounded),
        ("targets", many("{% for ", "(", 990, "x"), Fails("end of input")),
        ("elif", many("{% if x %}", "{% elif x %}", 500, "{% endif %}"), Bounded),
        ("nested if", nested("{% if 1 %}", "{% endif %}"), Bounded),
        ("nested for", nested("{% for x in [1] %}", "{% endfor %}"), Fails("recursion")),
        ("nested with", nested("{% with %}", "{% endwith %}"), Fails("recursion")),
        ("nested macros", nested("{% macro f() %}", "{% endmacro %}"), Bounded),
        ("nested filters", nested("{% filter e %}", "{% endfilter %}"), Bounded),
        ("nested captures", nested("{% set x %}", "{% endset %}"), Bounded),
        ("nested lists", format!("{{{{ {}{} }}}}", "[".repeat(74), "]".repeat(74)), DEEP),
        ("many variables", (0..9_000).map(|i| format!("{{% set a{i}={i} %}}")).collect(), Bounded),
        ("a long name", format!("{{{{ {} }}}}", "a".repeat(59_000)), Bounded),
        ("a long line", format!("{{{{ {} }}}}", "a".repeat(60_000)), Fails("line")),
        ("many strings", many("", "{{ 'x' }}\n", 20_000, ""), Bounded),
        ("a raw block without end", many("{% raw %}", "{%\n", 60_000, ""), Fails("raw")),
        ("a comment without end", many("{#", " #\n", 60_000, ""), Fails("comment")),
        ("a string without end", many("{{ '", "x", 59_900, ""), Fails("string")),
        ("escapes", many("{{ '", "\\u0041", 9_000, "' }}"), Bounded),
        ("a number without end", format!("{{{{ {} }}}}", "9".repeat(59_000)), Fails("integer")),
        ("a float without end", format!("{{{{ 0.{} }}}}", "9".repeat(59_000)), Bounded),
        ("comments", many("", "{##}\n", 50_000, ""), Bounded),
        ("blanks", many("{{", "\n", 200_000, "1 }}"), Bounded),
    ]
}

#[test]
fn values_cannot_contain_themselves_or_exceed_their_bounds() {
    check(values());
}

#[rustfmt::skip]
fn values() -> Vec<Row> {
    let namespace = "{% set n = namespace() %}";
    let of = |rest: &str| format!("{namespace}{rest}");
    let in_loop = |body: &str| format!("{{% for i in [1, 2] %}}{body}{{% endfor %}}");
    vec![
        ("a namespace in itself", of("{% set n.a = n %}{{ n }}"), STORED),
        ("in a list in itself", of("{% set n.a = [n] %}{{ n }}"), STORED),
        ("in a map in itself", of("{% set n.a = {1: n} %}{{ n }}"), STORED),
        ("as a key in itself", of("{% set n.a = {n: 1} %}{{ n }}"), STORED),
        ("in a tuple in itself", of("{% set n.a = (n, 1) %}{{ n }}"), STORED),
        ("in dict() in itself", of("{% set n.a = dict(b=n) %}{{ n }}"), STORED),
        ("two in each other", of("{% set m = namespace() %}{% set n.a = m %}{% set m.a = n %}{{ n }}"), STORED),
        ("in another", of("{% set m = namespace(a=n) %}{% set n.a = m %}{{ n }}"), STORED),
        ("by a name", of("{% set m = n %}{% set n.a = m %}{{ n ~ '' }}"), STORED),
        ("by a condition", of("{% set n.a = n if true else 1 %}{{ n }}"), STORED),
        ("by the other condition", of("{% set n.a = 1 if false else n %}{{ n }}"), STORED),
        ("by or", of("{% set n.a = false or n %}{{ n }}"), STORED),
        ("by a default", of("{% set n.a = x|default(n) %}{{ n }}"), STORED),
        ("by first", of("{% set n.a = [n]|first %}{{ n }}"), STORED),
        ("by a tuple", of("{% set n.a, n.b = n, n %}{{ n }}"), STORED),
        ("by a macro", of("{% macro f(x) %}{% set x.a = x %}{{ x }}{% endmacro %}{{ f(n) }}"), STORED),
        ("by a method", of("{% set n.a = {}.get(1, n) %}{{ n }}"), STORED),
        ("by a list of items", of("{% set n.b = 1 %}{% set n.a = n.items() %}{{ n }}"), Bounded),
        ("a loop in itself", in_loop("{{ loop.changed(loop) }}"), STORED),
        ("a loop in a list in itself", in_loop("{{ loop.changed([loop]) }}"), STORED),
        ("a loop in a namespace", of(&in_loop("{% set n.a = loop %}{{ n.a }}")), STORED),
        ("a loop without values", in_loop("{{ loop.cycle() }}"), Fails("cycle")),
        ("doubled lists", steps("[1]", "[x, x]", 40, "{{ x }}"), PARTS),
        ("doubled lists as text", steps("[1]", "[x, x]", 40, "{{ 'a' ~ x }}"), PARTS),
        ("doubled lists compared", steps("[1]", "[x, x]", 40, "{{ x == [x, x] }}"), PARTS),
        ("doubled lists as keys", steps("[1]", "[x, x]", 40, "{{ {x: 1} }}"), PARTS),
        ("doubled maps", steps("{}", "{1: x, 2: x}", 40, "{{ x|tojson }}"), PARTS),
        ("doubled keys", steps("1", "{x: x}", 40, "{{ x }}"), PARTS),
        ("doubled tuples", steps("1", "(x, x)", 40, "{{ x }}"), PARTS),
        ("doubled dict()", steps("1", "dict(a=x, b=x)", 40, "{{ x }}"), PARTS),
        ("doubled sums", steps("[1]", "x + x", 40, "{{ x }}"), PARTS),
        ("doubled sums of tuples", steps("(1, 1)", "x + x", 40, "{{ x }}"), PARTS),
        ("doubled products", steps("[1]", "x * 2", 40, "{{ x }}"), PARTS),
        ("doubled in batches", steps("[1]", "[x, x]|batch(2)|list", 40, "{{ x }}"), PARTS),
        ("doubled in slices", steps("[1]", "[x, x]|slice(1)", 40, "{{ x }}"), PARTS),
        ("doubled in groups", steps("[1]", "[x, x]|groupby('0')", 40, "{{ x }}"), Bounded),
        ("zipped", steps("[1]", "x|zip(x)", 40, "{{ x }}"), Bounded),
        ("chained", steps("[1]", "x|chain(x)", 40, "{{ x }}"), Fails("chain")),
        ("mapped", steps("[[1]]", "[x, x]|map('list')|list", 40, "{{ x }}"), PARTS),
        ("nested", steps("1", "[x]", 9_000, "{{ x }}"), DEEP),
        ("nested in maps", steps("1", "{1: x}", 9_000, "{{ x }}"), DEEP),
        ("nested in keys", steps("1", "{x: 1}", 9_000, "{{ x }}"), DEEP),
        ("nested in tuples", steps("1", "(x,)", 9_000, "{{ x }}"), DEEP),
        ("nested by batch", steps("[1]", "x|batch(1)|list", 5_000, "{{ x }}"), DEEP),
        ("nested by items", steps("{1: 1}", "{1: x.items()}", 5_000, "{{ x }}"), DEEP),
        ("nested in a loop", looped("1", "[n.x]", "{{ n.x }}"), DEEP),
        ("nested maps in a loop", looped("1", "dict(a=n.x)", "{{ n.x }}"), DEEP),
        ("nested by recursion", recursive("{{ f([[[x]]]) }}", "1"), Bounded),
        ("slices of slices", looped("[1, 2]", "n.x[0:]", "{{ n.x }}"), Bounded),
        ("reversed slices", looped("[1, 2]", "n.x[::-1]", "{{ n.x }}"), Bounded),
        ("products of products", looped("[1]", "n.x * 1", "{{ n.x }}"), Bounded),
        ("sums of sums", looped("[1]", "n.x + [1]", "{{ n.x }}"), WORK),
        ("reversed filters", looped("[1]", "n.x|reverse", "{{ n.x }}"), Bounded),
        ("views of views", looped("{1: 1}", "n.x.keys()|list", "{{ n.x }}"), Bounded),
        ("many attributes", of("{% set n.a = range(90000)|list %}{% set n.b = n.a %}{% set n.c = n.a %}{{ n ~ 1 }}"), PARTS),
        ("an unfiltered name", "{{ x|nothing }}".to_owned(), Fails("nothing is unknown")),
    ]
}

#[test]
fn texts_cannot_exceed_their_bounds() {
    check(texts());
}

#[rustfmt::skip]
fn texts() -> Vec<Row> {
    let one = |expression: &str| format!("{{{{ {expression} }}}}");
    let long = |expression: &str| format!("{{% set x = 'ab ' * 1000000 %}}{{{{ {expression} }}}}");
    vec![
        ("doubled by ~", steps("'x'", "x ~ x", 60, ""), WORK),
        ("doubled by +", steps("'x'", "x + x", 60, ""), WORK),
        ("doubled by *", steps("'x'", "x * 2", 60, ""), WORK),
        ("doubled by replace", steps("'x'", "x|replace('x', 'xx')", 60, ""), WORK),
        ("doubled by .replace", steps("'x'", "x.replace('x', 'xx')", 60, ""), WORK),
        ("squared by .replace", steps("'x'*9", "x.replace('x', x)", 60, ""), WORK),
        ("squared by replace", steps("'x'*9", "x|replace('x', x)", 60, ""), WORK),
        ("filled by .replace", long("x.replace('', x)"), WORK),
        ("doubled by join", steps("'x'", "[x, x]|join", 60, ""), WORK),
        ("squared by .join", steps("'x'*9", "x.join(x)", 60, ""), WORK),
        ("squared by join", steps("'x'*9", "x|join(x)", 60, ""), WORK),
        ("doubled by format", steps("'x'", "'%s%s'|format(x, x)", 60, ""), WORK),
        ("doubled by .format", steps("'x'", "'{0}{0}'.format(x)", 60, ""), WORK),
        ("doubled by tojson", steps("'x'", "[x, x]|tojson", 60, ""), Bounded),
        ("doubled by escapes", steps("'\"'", "x|tojson", 60, ""), Bounded),
        ("doubled by pprint", steps("'x'", "[x, x]|pprint", 60, ""), Bounded),
        ("doubled by a capture", many("{% set x = 'x' %}", "{% set x %}{{ x }}{{ x }}{% endset %}", 60, ""), WORK),
        ("doubled by a macro", many("{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set x = 'x' %}", "{% set x = f(x) %}", 60, ""), WORK),
        ("doubled by html", many("{% set x = '&' %}", "{% set x = x|string|e|string %}", 60, ""), Bounded),
        ("a long text", one("'x' * 10 ** 11"), Bounded),
        ("the longest text", one("'x' * 2 ** 63"), Bounded),
        ("a negative text", one("'x' * -(2 ** 63)"), Bounded),
        ("a long list", one("[1] * 10 ** 11"), Bounded),
        ("a long sum", one("([1] * 90000) + ([1] * 90000)"), PARTS),
        ("a long indent", one("'x'|indent(9223372036854775807)"), WORK),
        ("an indent of many lines", one("('\\n' * 1000000)|indent(1000000)"), WORK),
        ("an indent past the last", one("'x'|indent(18446744073709551616)"), Bounded),
        ("indented JSON", one("[1]|tojson(indent=9223372036854775807)"), Fails("indent")),
        ("indented JSON, negative", one("[1]|tojson(indent=-1)"), Bounded),
        ("deep indented JSON", one("([[[[1]]]] * 10000)|tojson(indent=32)"), Bounded),
        ("wide format", one("'%1000000000000d'|format(1)"), Bounded),
        ("wide format by argument", one("'%*d'|format(1000000000000, 1)"), Bounded),
        ("precise format", one("'%.1000000000f'|format(1.5)"), Bounded),
        ("wide .format", one("'{:1000000000000}'.format(1)"), Fails("digits")),
        ("wide .format by argument", one("'{:{}}'.format(1, 1000000000000)"), Bounded),
        ("precise .format", one("'{:.99999999}'.format(1.5)"), Fails("digits")),
        ("many formats", format!("{{{{ ('{{:999}}' * 1000000).format({}) }}}}", "1,".repeat(400)), Bounded),
        ("a batch to fill", one("[1]|batch(1000000000000, 0)"), Bounded),
        ("a batch of all", one("[1]|batch(9223372036854775807)"), Bounded),
        ("many slices", one("[1]|slice(1000000000000)"), Bounded),
        ("many slices to fill", one("[1]|slice(1000000000000, 0)"), Bounded),
        ("a long range", one("range(1000000000000)|list"), Fails("range")),
        ("the longest range", one("range(-9223372036854775807, 9223372036854775807)"), Fails("range")),
        ("a range backwards", one("range(9223372036854775807, -9223372036854775807, -1)"), Fails("range")),
        ("a range in long steps", one("range(0, 5, -9223372036854775808)|list"), Bounded),
        ("a range of no steps", one("range(0, 5, 0)"), Fails("range")),
        ("a slice of no steps", one("'abc'[::0]"), Fails("slice")),
        ("a slice in long steps", one("'abc'[::-9223372036854775808]"), Bounded),
        ("a slice from far", one("'abc'[9223372036854775807:-9223372036854775808]"), Bounded),
        ("trimmed", one("('c' * 2000000 ~ 'd')|trim('b' * 2000000 ~ 'cd')"), WORK),
        ("trimmed by map", one("['c' * 2000000 ~ 'd']|map('trim', 'b' * 2000000 ~ 'cd')|list"), WORK),
        ("trimmed numbers", one("(9 ** 20)|trim('b' * 20000000 ~ '0123456789')"), WORK),
        ("trimmed lists", one("['c' * 2000000]|trim('b' * 2000000 ~ \"c[']\")"), WORK),
        ("stripped", one("('c' * 2000000 ~ 'd').strip('b' * 2000000 ~ 'cd')"), WORK),
        ("stripped on the left", one("('c' * 2000000 ~ 'd').lstrip('b' * 2000000 ~ 'c')"), WORK),
        ("stripped on the right", one("('d' ~ 'c' * 2000000).rstrip('b' * 2000000 ~ 'c')"), WORK),
        ("long texts sorted", one("(['ab' * 1500] * 10000)|sort|length"), Bounded),
        ("characters", long("x|list"), WORK),
        ("words", long("x.split()"), WORK),
        ("letters", long("x.split('')"), Bounded),
        ("parts", long("x.split('a')"), WORK),
        ("lines", one("('\\n' * 1000000).splitlines()"), Bounded),
        ("lines by a filter", one("('\\n' * 1000000)|lines"), Bounded),
        ("split by a filter", long("x|split('a')|list"), PARTS),
        ("a long complaint", "{{ raise_exception('x' * 10000000) }}".to_owned(), Fails("xxx")),
        ("powers", one("9 ** 9 ** 9 ** 9"), Bounded),
        ("the smallest divided", one("(-170141183460469231731687303715884105728) // -1"), Bounded),
        ("divided by nothing", one("1 // 0 ~ 1 % 0 ~ 1 / 0"), Bounded),
        ("rounded", one("1.5|round(1000000000)"), Bounded),
        ("rounded down", one("1.5|round(-2147483648)"), Bounded),
        ("a number in a base", one("'zz'|int(0, 999)"), Bounded),
        ("the smallest number", one("(-9223372036854775808)|abs"), Bounded),
        ("all variables", one("debug()"), Fails("debug")),
        ("many filters at once", one(&format!("'a'|map({})|list", "'map',".repeat(400))), Fails("arguments")),
        ("many arguments at once", one("dict(*[[]])"), Fails("*arguments")),
    ]
}

#[test]
fn work_is_bounded() {
    check(work());
}

#[rustfmt::skip]
fn work() -> Vec<Row> {
    let forever = |body: &str| {
        format!(
            "{{% set x = 'ab ' * 1000000 %}}{{% set l = range(30000)|list %}}\
             {{% for i in range(100000) %}}{{% for j in range(100000) %}}{body}\
             {{% endfor %}}{{% endfor %}}"
        )
    };
    let filtered = |filter: &str| forever(&format!("{{% set y = l|{filter} %}}"));
    let mut rows: Vec<Row> = [
        ("nothing", ""),
        ("output", "{{ x }}"),
        ("numbers", "{{ i + j }}"),
        ("macros", "{% macro f() %}{% endmacro %}{{ f() }}"),
        ("equal texts", "{% if x == x[:] %}{% endif %}"),
        ("texts in order", "{% if x < x ~ 'a' %}{% endif %}"),
        ("a text in a text", "{% if 'c' in x %}{% endif %}"),
        ("a text in a list", "{% if 'c' in l %}{% endif %}"),
        ("equal lists", "{% if l == [l][0] + [1] %}{% endif %}"),
        ("equal nested lists", "{% if [l] == [l + []] %}{% endif %}"),
        ("lists in tests", "{% if [l] is eq([l + []]) %}{% endif %}"),
        ("texts in tests", "{% if x is lower %}{% endif %}"),
        ("a text in tests", "{% if 'c' is in(x) %}{% endif %}"),
        ("the last character", "{% if x[-1] %}{% endif %}"),
        ("a late character", "{% if x[2000000] %}{% endif %}"),
        ("a late slice", "{% if x[2000000:2000001] %}{% endif %}"),
        ("a slice backwards", "{% if x[::-1000000] %}{% endif %}"),
        ("a list as a key", "{% if {}[(l, l)] %}{% endif %}"),
        ("a list as a map's key", "{% if {1: 1}.get([l]) %}{% endif %}"),
        ("find", "{% if x.find('c') %}{% endif %}"),
        ("count", "{% if x.count('c') %}{% endif %}"),
        ("count in a list", "{% if l.count([l]) %}{% endif %}"),
        ("strip", "{% if x.strip('ab ') %}{% endif %}"),
        ("trim", "{% if x|trim('ab ') %}{% endif %}"),
        ("isalpha", "{% if x.isspace() %}{% endif %}"),
        ("upper", "{% if x.upper() %}{% endif %}"),
        ("length", "{% if x|length %}{% endif %}"),
        ("changed lists", "{% if loop.changed([l]) %}{% endif %}"),
        ("captures", "{% set y %}{{ x }}{% endset %}"),
        ("filters of blocks", "{% filter upper %}{{ x }}{% endfilter %}"),
        ("loops that filter", "{% for k in l if k < 0 %}{% endfor %}"),
        ("neighbours", "{% if loop.nextitem %}{% endif %}"),
    ]
    .map(|(name, body)| (name, forever(body), WORK))
    .into();
    rows.extend(
        [
            "sort", "unique|list", "list", "reverse|list", "sum", "min", "max", "join", "string",
            "tojson", "pprint", "batch(2)|list", "slice(2)|list", "map('string')|list",
            "select('odd')|list", "reject('in', l)|list", "groupby('a')|list", "zip(l)|list",
        ]
        .map(|filter| (filter, filtered(filter), WORK)),
    );
    rows.extend([
        ("loops that call themselves", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(), Fails("recursion")),
        ("loops that branch", "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}".to_owned(), Fails("recursion")),
        ("a macro that calls itself", recursive("{{ f(x) }}", "1"), Fails("100 nested scopes")),
        ("a macro that branches", recursive("{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}", "20"), Bounded),
        ("two macros", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(), Bounded),
        ("a caller that calls", "{% macro f() %}{{ caller() }}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{% call f() %}{% endcall %}".to_owned(), Bounded),
    ]);
    rows
}

#[test]
fn the_tables_are_large_enough() {
    let tables = [
        large_sources(),
        allowed_sources(),
        values(),
        texts(),
        work(),
    ];
    assert!(tables.iter().map(Vec::len).sum::<usize>() >= 250);
}
