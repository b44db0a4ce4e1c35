//! Parses untrusted Python without letting it overflow the stack.
//!
//! ruff's parser grows its stack as needed, but a syntax tree is walked and dropped by plain
//! recursion: a response of nothing but `1+1+1+…` would crash the process. Therefore the text's
//! length, and the depth of its tree as estimated from its tokens, are limited before it is parsed.

use ruff_python_ast::{Suite, token::TokenKind};
use ruff_python_parser::{Mode, lexer::lex, parse_module};

use crate::quiet::catch_panic;

/// The longest text that is parsed, in bytes: several times the code that a model writes in one
/// response.
pub(super) const MAX_BYTES: usize = 128 * 1024;

/// The deepest syntax tree that is built. Python's own compiler gives up at a few hundred nested
/// expressions or 100 nested blocks.
const MAX_DEPTH: usize = 500;

/// The statements of a module; `None` if the text is not Python, is too long, or is too deeply nested.
pub(super) fn parse(source: &str) -> Option<Suite> {
    if source.len() > MAX_BYTES || depth_bound(source)? > MAX_DEPTH {
        return None;
    }
    // The parser asserts its own progress. A text that makes it panic is not Python either.
    let parsed = catch_panic(|| parse_module(source)).ok()?;
    parsed.ok().map(|module| module.into_suite())
}

/// One level of brackets, or the outermost level. Commas split the content of brackets into items.
struct Level {
    /// The token that closes it; the outermost level ends with the text.
    closer: TokenKind,
    /// The number of tokens in the current item or statement, each of which may add a level to the tree.
    tokens: usize,
    /// How many of these tokens still count after a comma.
    past_commas: usize,
}

/// An upper bound on the depth of the text's syntax tree: the largest number of tokens that may nest in
/// each other. Every ancestor of a node has a token of its own, which is in the same statement as the
/// node and, inside brackets, in the same item. `None` if brackets do not match, in which case the text
/// is not Python.
fn depth_bound(source: &str) -> Option<usize> {
    let level = |closer| Level {
        closer,
        tokens: 0,
        past_commas: 0,
    };
    let mut lexer = lex(source, Mode::Module);
    let mut levels = vec![level(TokenKind::EndOfFile)];
    let (mut depth, mut deepest) = (0, 0);
    loop {
        let token = lexer.next_token();
        let is_outermost = levels.len() == 1;
        let current = levels.last_mut()?;
        match token {
            TokenKind::EndOfFile => return is_outermost.then_some(deepest),
            TokenKind::Comment | TokenKind::NonLogicalNewline => {}
            TokenKind::Newline => {
                depth -= current.tokens;
                (current.tokens, current.past_commas) = (0, 0);
            }
            TokenKind::Indent => depth += 1,
            TokenKind::Dedent => depth -= 1,
            TokenKind::Comma if !is_outermost => {
                depth -= current.tokens - current.past_commas;
                current.tokens = current.past_commas;
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace => {
                if current.closer != token {
                    return None;
                }
                depth -= current.tokens;
                levels.pop();
            }
            _ => {
                current.tokens += 1;
                current.past_commas += usize::from(nests_past_commas(token));
                depth += 1;
                levels.extend(closer_of(token).map(level));
            }
        }
        deepest = deepest.max(depth);
    }
}

fn closer_of(opener: TokenKind) -> Option<TokenKind> {
    match opener {
        TokenKind::Lpar => Some(TokenKind::Rpar),
        TokenKind::Lsqb => Some(TokenKind::Rsqb),
        TokenKind::Lbrace => Some(TokenKind::Rbrace),
        _ => None,
    }
}

/// Whether a token still counts after a comma. This is so for keywords whose node may contain a comma
/// without brackets, as in `lambda a, b: lambda c, d: 0`, and for keywords that begin a statement, because
/// the parser may continue there after a syntax error.
fn nests_past_commas(token: TokenKind) -> bool {
    use TokenKind::{And, False, In, Is, None, Not, Or, True};
    token.is_non_soft_keyword() && !matches!(token, And | False | In | Is | None | Not | Or | True)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_of_a_tree_is_bounded_by_its_tokens() {
        let rows = [
            ("", Some(0)),
            ("x", Some(1)),
            ("x = 1\ny = 2", Some(3)),
            ("x = 1; y = 2", Some(7)),
            ("f(1, 2, 3)", Some(3)),
            ("f(1, 2 + 3, 4)", Some(5)),
            ("if x:\n  if y:\n    z", Some(4)),
            ("if x:\n  y\nz", Some(3)),
            ("[lambda a, b: lambda c, d: 0]", Some(6)),
            ("[True, False, None, True, False, None]", Some(2)),
            ("f'{x}'", Some(3)),
            ("(]", None),
            ("(", None),
            (")", None),
            ("# (", Some(0)),
            ("'('", Some(1)),
        ];
        for (source, expected) in rows {
            assert_eq!(depth_bound(source), expected, "{source:?}");
        }
    }

    #[test]
    fn ordinary_code_is_parsed() {
        let table = format!("table = [{}]", "(1, 'a', True), ".repeat(2000));
        let nested = format!("x = {}1{}", "(".repeat(90), ")".repeat(90));
        for source in [&table, &nested, "x = 1 +\\\n    2", "print('é')", ""] {
            assert!(parse(source).is_some(), "{source}");
        }
        for source in ["x = (", "def f(", "Hello there.", "print 'x'"] {
            assert!(parse(source).is_none(), "{source}");
        }
    }

    /// Texts that are short enough to be parsed, and as deep as such texts can be.
    fn bombs() -> Vec<String> {
        let fill = |unit: &str| unit.repeat(MAX_BYTES / unit.len() - 1);
        let pair = |open: &str, close: &str| {
            let count = (MAX_BYTES - 8) / (open.len() + close.len());
            format!("{}1{}", open.repeat(count), close.repeat(count))
        };
        let chains = [
            "1+",
            "1**",
            "a.",
            "-",
            "not ",
            "lambda:",
            "lambda a,b:",
            "1 if 1 else ",
            "a<",
            "a=",
            "await ",
            "async ",
            "x and y or ",
            "(",
            "[",
            "{",
            "f(",
            "a[",
            "(],",
            "{0:",
            "(yield a,",
            "if a,:",
            "while a,: ",
            "def a, ",
            "class a, ",
            "f'{",
            "*",
            "a:=",
            "yield ",
            "@",
            "'",
            "\"\"\"",
            "\\",
            "\\\n",
            "\t",
            "if 1:\n",
            "case ",
            "match x:",
            ",",
            ";",
            ":",
            "elif x:",
            "for x, in ",
            "\0",
            "🐍",
            "try:",
            "with a, b: ",
            "[a for b in ",
            "lambda a=lambda b, c:",
            "(\ndef f(): if a,: if b,:",
            "f'{a:{",
            "t'{",
            "0x",
            "1_",
            "print(f\"{",
        ];
        let mut texts: Vec<String> = chains.iter().map(|unit| fill(unit)).collect();
        texts.extend(chains.iter().map(|unit| format!("x = ({}0)", fill(unit))));
        texts.extend([
            format!("x{}", fill("()")),
            format!("x{}", fill("[0]")),
            format!("x{}", fill(".a")),
            pair("(", ")"),
            pair("[", "]"),
            pair("{0:", "}"),
            pair("f(", ")"),
            pair("f(a, ", ", b)"),
            pair("(lambda a, b: ", ")"),
        ]);
        let mut stairs = String::new();
        for depth in 0..480 {
            stairs.push_str(&" ".repeat(depth));
            stairs.push_str("if 1:\n");
        }
        texts.push(format!("{stairs}{}x", " ".repeat(480)));
        texts
    }

    #[test]
    fn bombs_do_not_overflow_a_small_stack() {
        let bombs = bombs();
        let count = bombs.len();
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        let parsed =
            thread.spawn(move || bombs.iter().filter(|text| parse(text).is_some()).count());
        let parsed = parsed.unwrap().join().unwrap();
        assert!(parsed < count, "most bombs are not Python");
    }

    #[test]
    fn a_text_that_is_too_long_is_not_parsed() {
        let line = "x = 1\n";
        let most = line.repeat(MAX_BYTES / line.len());
        assert!(parse(&most).is_some());
        assert!(parse(&format!("{most}{line}")).is_none());
        assert!(parse(&line.repeat(10_000_000 / line.len())).is_none());
    }
}
