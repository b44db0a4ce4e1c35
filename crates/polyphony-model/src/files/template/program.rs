//! A template as a program: bounded before it is parsed, and guarded where it makes values.
//!
//! minijinja's fuel pays for instructions, for text and for the items of one list. It does not see
//! what a value holds further down: thirty assignments of `[x, x]` are a value of 2³⁰ parts, and a
//! namespace can hold itself. So every instruction that makes or takes apart such values is followed
//! or replaced by a filter from [`bounds`](super::bounds), which measures them. Where a value is
//! known to be text or a number, as in almost all of a model's template, nothing is added.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::{io, thread};

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

use super::super::contain::catch_panic;
use super::bounds::{self, refused};

/// The name of a template in errors of the engine.
const NAME: &str = "chat";

/// The longest template in bytes. The longest of a known model has about 20 KB.
pub(in super::super) const MAX_SOURCE: usize = 1 << 18;

/// The longest line in bytes, short of where the engine's count of columns ends.
const MAX_LINE: usize = 60_000;

/// The most tokens between two braces, which bounds how deep an expression can be.
const MAX_TAG_TOKENS: usize = 1000;

/// The most `elif`, each of which is parsed inside the one before.
const MAX_BRANCHES: usize = 500;

/// A stack on which everything within these bounds can be parsed, in unoptimized builds too.
const PARSER_STACK: usize = 1 << 26;

/// Tests that look at no more than the kind of a value.
const CHEAP_TESTS: [&str; 13] = [
    "defined",
    "undefined",
    "none",
    "string",
    "number",
    "integer",
    "float",
    "boolean",
    "true",
    "false",
    "mapping",
    "iterable",
    "sequence",
];

/// Filters that measure their input themselves or hand on a part of it.
const CHEAP_FILTERS: [&str; 8] = [
    "trim", "tojson", "length", "count", "default", "d", "first", "last",
];

/// The instructions of a template.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Instructions<'static>,
}

impl Program {
    /// # Errors
    /// If the template passes a bound or is not valid Jinja.
    pub(super) fn new(source: String, syntax: &SyntaxConfig) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(refused(format!(
                "it has {} bytes; a chat template may have {MAX_SOURCE}",
                source.len()
            )));
        }
        if source.lines().any(|line| line.len() > MAX_LINE) {
            return Err(refused(format!(
                "it has a line of more than {MAX_LINE} bytes"
            )));
        }
        // What does not compile is not kept.
        let compile = || {
            compiled(&source, syntax)?;
            compiled(interned(&source), syntax)
        };
        let failed = |error: io::Error| refused(format!("no thread to parse it: {error}"));
        let instructions = thread::scope(|scope| {
            thread::Builder::new()
                .stack_size(PARSER_STACK)
                .spawn_scoped(scope, || catch_panic(compile))
                .map_err(failed)?
                .join()
                .ok()
                .and_then(Result::ok)
                .unwrap_or_else(|| Err(refused("the parser panicked".to_owned())))
        })?;
        Ok(Self { instructions })
    }

    pub(super) fn source(&self) -> &'static str {
        self.instructions.source()
    }

    /// The text that the template makes, and the steps that it took.
    pub(super) fn render(
        &self,
        environment: &Environment<'static>,
        variables: Value,
    ) -> Result<(String, u64), Error> {
        // A chat template is one file, without the blocks that others could extend.
        let blocks = BTreeMap::new();
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let (_, state) = eval(
            environment,
            &self.instructions,
            variables,
            &blocks,
            &mut output,
            AutoEscape::None,
        )?;
        let steps = state.fuel_levels().map_or(0, |(consumed, _)| consumed);
        Ok((text, steps))
    }
}

/// The guarded instructions of a template.
///
/// # Errors
/// If it passes a bound or is not valid Jinja.
fn compiled<'source>(
    source: &'source str,
    syntax: &SyntaxConfig,
) -> Result<Instructions<'source>, Error> {
    check_tags(source, syntax)?;
    let tree = parse(source, NAME, syntax.clone())?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    guarded(&generator.finish().0)
}

/// The texts of all templates that compile.
static SOURCES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

/// A template's text for as long as the process lives, which is how long the engine's instructions
/// may refer to it. A process loads few templates, and the same one is kept once.
fn interned(source: &str) -> &'static str {
    let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = sources.get(source) {
        return known;
    }
    let source: &'static str = source.to_owned().leak();
    sources.insert(source);
    source
}

fn check_tags(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let (mut tokens, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => tokens += 1,
        }
        if tokens > MAX_TAG_TOKENS {
            return Err(refused(format!(
                "a tag in line {} has more than {MAX_TAG_TOKENS} words and signs",
                span.start_line
            )));
        }
        if branches > MAX_BRANCHES {
            return Err(refused(format!("it has more than {MAX_BRANCHES} `elif`")));
        }
    }
    Ok(())
}

/// What is known of a value on the engine's stack without running the template.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    /// The text or number that the instruction before has loaded.
    Constant,
    /// A text, a number or a truth value.
    Scalar,
    Nothing,
}

/// The same instructions with filters that bound what they make.
fn guarded<'source>(code: &Instructions<'source>) -> Result<Instructions<'source>, Error> {
    let all: Vec<_> = (0..).map_while(|at| code.get(at)).collect();
    let jump_targets: BTreeSet<_> = all.iter().filter_map(|code| jump_target(code)).collect();
    let stored = stored_values(&all);
    let mut writer = Writer {
        code: Instructions::new(NAME, code.source()),
        next: 0,
        line: 1,
        known: Vec::new(),
    };
    let mut places = Vec::with_capacity(all.len() + 1);
    for (at, instruction) in (0..).zip(&all) {
        if jump_targets.contains(&at) {
            writer.known.clear();
        }
        if let Some(line) = code.get_line(at) {
            writer.line = u16::try_from(line).unwrap_or(u16::MAX);
        }
        places.push(writer.next);
        if stored.contains(&at) && writer.peek(0) == Known::Nothing {
            writer.filter(bounds::STORED, 1);
        }
        writer.copy(instruction)?;
    }
    places.push(writer.next);
    let mut code = writer.code;
    for at in 0.. {
        match code.get_mut(at) {
            Some(
                Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::Iterate(target)
                | Instruction::BuildMacro(_, target, _),
            ) => *target = places[*target as usize],
            Some(_) => {}
            None => return Ok(code),
        }
    }
    Ok(code)
}

fn jump_target(code: &Instruction<'_>) -> Option<u32> {
    match *code {
        Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::Iterate(target)
        | Instruction::BuildMacro(_, target, _) => Some(target),
        _ => None,
    }
}

/// Where the value of an assignment to a namespace is on top of the stack: before the namespace is
/// looked up.
fn stored_values(code: &[&Instruction<'_>]) -> BTreeSet<u32> {
    let mut places = BTreeSet::new();
    let mut namespace = 0;
    for (at, instruction) in (0..).zip(code) {
        match instruction {
            Instruction::GetAttr(_) => {}
            Instruction::SetAttr(_) => {
                places.insert(namespace);
            }
            _ => namespace = at,
        }
    }
    places
}

struct Writer<'source> {
    code: Instructions<'source>,
    /// Where the next instruction goes.
    next: u32,
    line: u16,
    /// The top of the stack; what lies below is not known.
    known: Vec<Known>,
}

impl<'source> Writer<'source> {
    fn add(&mut self, instruction: Instruction<'source>) {
        self.next = self.code.add_with_line(instruction, self.line) + 1;
    }

    fn filter(&mut self, name: &'static str, arguments: u16) {
        // The last number says that the filter has no place in the engine's cache.
        self.add(Instruction::ApplyFilter(name, Some(arguments), u8::MAX));
    }

    /// The name of one of our filters, called on the values on top of the stack.
    fn replace_by(&mut self, name: &'static str, operands: u16, result: Known) {
        self.filter(name, operands);
        self.result(operands, result);
    }

    fn keep(&mut self, instruction: &Instruction<'source>, operands: u16, result: Known) {
        self.add(instruction.clone());
        self.result(operands, result);
    }

    fn result(&mut self, operands: u16, result: Known) {
        let rest = self.known.len().saturating_sub(usize::from(operands));
        self.known.truncate(rest);
        self.known.push(result);
    }

    /// How much is known of the value at a depth of the stack.
    fn peek(&self, depth: usize) -> Known {
        let known = self.known.iter().rev().nth(depth);
        known.copied().unwrap_or(Known::Nothing)
    }

    fn copy(&mut self, instruction: &Instruction<'source>) -> Result<(), Error> {
        use Known::{Constant, Nothing, Scalar};
        match instruction {
            Instruction::LoadConst(value) if value.as_object().is_none() => {
                self.keep(instruction, 0, Constant);
            }
            Instruction::Lookup(_) => self.keep(instruction, 0, Nothing),
            Instruction::GetAttr(_) => self.keep(instruction, 1, Nothing),
            Instruction::GetItem if self.peek(0) == Constant && self.last_is_cheap_key() => {
                self.keep(instruction, 2, Nothing);
            }
            Instruction::GetItem => self.replace_by(bounds::ITEM, 2, Nothing),
            Instruction::Slice => self.replace_by(bounds::SLICE, 4, Nothing),
            Instruction::Sub
            | Instruction::Div
            | Instruction::IntDiv
            | Instruction::Rem
            | Instruction::Pow => self.keep(instruction, 2, Scalar),
            Instruction::Not | Instruction::Neg => self.keep(instruction, 1, Scalar),
            // A list can only be added to a list.
            Instruction::Add if self.peek(0) != Nothing || self.peek(1) != Nothing => {
                self.keep(instruction, 2, Scalar);
            }
            Instruction::StringConcat if self.peek(0) != Nothing && self.peek(1) != Nothing => {
                self.keep(instruction, 2, Scalar);
            }
            Instruction::StringConcat => self.replace_by(bounds::CONCAT, 2, Scalar),
            Instruction::Eq
            | Instruction::Ne
            | Instruction::Gt
            | Instruction::Gte
            | Instruction::Lt
            | Instruction::Lte
            | Instruction::In => {
                // To compare with a constant, or to look for one, takes no walk through two large values.
                let constant = usize::from(matches!(instruction, Instruction::In));
                if self.peek(constant) != Constant {
                    self.filter(bounds::MEASURED, 1);
                }
                self.keep(instruction, 2, Scalar);
            }
            Instruction::CompareAndPreserve(_) => {
                self.filter(bounds::MEASURED, 1);
                self.keep(instruction, 2, Nothing);
                self.known.clear();
            }
            Instruction::PerformTest(name, Some(count), _) => {
                if !CHEAP_TESTS.contains(name) {
                    self.filter(bounds::MEASURED, 1);
                }
                self.keep(instruction, *count, Scalar);
            }
            Instruction::ApplyFilter(name, Some(count), _) if CHEAP_FILTERS.contains(name) => {
                self.keep(instruction, *count, Nothing);
            }
            Instruction::ApplyFilter(name, Some(count), _) => {
                self.add(Instruction::LoadConst((*name).into()));
                self.replace_by(bounds::FILTERED, count + 1, Nothing);
            }
            // Without a value to choose from, the engine divides by zero.
            Instruction::CallMethod("cycle", Some(1)) => {
                return Err(refused("`cycle` is called without values".to_owned()));
            }
            // A loop that remembers itself is never freed.
            Instruction::CallMethod("changed", Some(count)) => {
                if *count > 2 {
                    let reason = "`changed` with more than one value is not supported";
                    return Err(refused(reason.to_owned()));
                }
                self.filter(bounds::STORED, 1);
                self.keep(instruction, *count, Scalar);
            }
            Instruction::CallMethod(_, Some(count)) => self.keep(instruction, *count, Nothing),
            Instruction::CallFunction("range" | "namespace", Some(count)) => {
                self.keep(instruction, *count, Nothing);
            }
            Instruction::Emit | Instruction::StoreLocal(_) | Instruction::JumpIfFalse(_) => {
                self.add(instruction.clone());
                self.known.pop();
            }
            Instruction::UnpackLists(_) => {
                let reason = "calls with `*arguments` are not supported in chat templates";
                return Err(refused(reason.to_owned()));
            }
            Instruction::BuildList(Some(count)) if self.are_scalars(*count) => {
                self.add(instruction.clone());
                self.known.clear();
            }
            Instruction::BuildMap(pairs) | Instruction::BuildKwargs(pairs)
                if self.are_scalars(2 * pairs) =>
            {
                self.add(instruction.clone());
                self.known.clear();
            }
            Instruction::LoadConst(_)
            | Instruction::Add
            | Instruction::Mul
            | Instruction::BuildList(Some(_))
            | Instruction::BuildTuple(_)
            | Instruction::BuildMap(_)
            | Instruction::BuildKwargs(_)
            | Instruction::MergeKwargs(_)
            | Instruction::CallFunction(..)
            | Instruction::CallObject(_) => {
                self.add(instruction.clone());
                self.filter(bounds::MEASURED, 1);
                self.known.clear();
            }
            _ => {
                self.add(instruction.clone());
                self.known.clear();
            }
        }
        Ok(())
    }

    fn are_scalars(&self, count: usize) -> bool {
        (0..count).all(|depth| self.peek(depth) != Known::Nothing)
    }

    /// Does the last instruction load a key that takes no search, such as `'role'` or `0`?
    fn last_is_cheap_key(&self) -> bool {
        let last = self.next.checked_sub(1).and_then(|at| self.code.get(at));
        let Some(Instruction::LoadConst(key)) = last else {
            return false;
        };
        key.as_str().is_some() || key.as_usize().is_some_and(|at| at < 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_compile_is_not_kept() {
        let syntax = SyntaxConfig::builder().build().unwrap();
        for (source, compiles) in [
            ("{{ 1 }} is kept", true),
            ("{{ 1 is not kept", false),
            ("{{ f(*x) }} is not kept", false),
        ] {
            let program = Program::new(source.to_owned(), &syntax);
            assert_eq!(program.is_ok(), compiles, "{source}");
            let kept = SOURCES.lock().unwrap().contains(source);
            assert_eq!(kept, compiles, "{source}");
        }
    }
}
