//! Compiles a template to instructions whose memory and time are bounded.
//!
//! minijinja's fuel covers instructions, text and the items of one list. It does not cover nested
//! values: thirty assignments of `[x, x]` create a value of 2³⁰ parts, and a namespace can contain
//! itself. Every instruction that creates or reads such values is therefore followed or replaced by a
//! filter from [`bounds`](super::bounds), which measures them. Where a value is known to be a text or a
//! number, as in almost all of a model's template, nothing is added.

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

/// The template's name in errors of the engine.
const NAME: &str = "chat";

/// The longest template in bytes. The longest of a known model has about 20 KB.
pub(in super::super) const MAX_SOURCE: usize = 1 << 18;

/// The longest line in bytes, which is below the limit of the engine's column counter.
const MAX_LINE: usize = 60_000;

/// The most tokens in one tag, which bounds how deep an expression can be.
const MAX_TAG_TOKENS: usize = 1000;

/// The most `elif`, each of which is parsed inside the previous one.
const MAX_BRANCHES: usize = 500;

/// A stack size that suffices to parse everything within these bounds, even in unoptimized builds.
const PARSER_STACK: usize = 1 << 26;

/// Tests that check only the kind of a value.
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

/// Filters that measure their input themselves, or return a part of it.
const CHEAP_FILTERS: [&str; 8] = [
    "trim", "tojson", "length", "count", "default", "d", "first", "last",
];

/// The instructions of a template.
#[derive(Debug)]
pub(super) struct CompiledTemplate {
    instructions: Instructions<'static>,
}

impl CompiledTemplate {
    /// # Errors
    /// If the template exceeds a bound or is not valid Jinja.
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
        // A source is interned, and so leaked, only if it compiles.
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

    /// The rendered text, and the number of steps that rendering took.
    pub(super) fn render(
        &self,
        environment: &Environment<'static>,
        variables: Value,
    ) -> Result<(String, u64), Error> {
        // A chat template is a single file, so no other template extends its blocks.
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
/// If it exceeds a bound or is not valid Jinja.
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

/// The sources of all templates that were compiled.
static SOURCES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

/// A copy of a template's source that lives as long as the process, because the engine's instructions
/// refer to it. A process loads few templates, and equal sources are stored once.
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

/// What is known about a value on the engine's stack without running the template.
#[derive(Clone, Copy, PartialEq)]
enum StaticKind {
    /// A text or number loaded by the previous instruction.
    Constant,
    /// A text, a number or a boolean.
    Scalar,
    /// Any value.
    Unknown,
}

/// The same instructions, with filters that bound the created values.
fn guarded<'source>(code: &Instructions<'source>) -> Result<Instructions<'source>, Error> {
    let all: Vec<_> = (0..).map_while(|position| code.get(position)).collect();
    let jump_targets: BTreeSet<_> = all.iter().filter_map(|code| jump_target(code)).collect();
    let stored = stored_values(&all);
    let mut writer = Writer {
        code: Instructions::new(NAME, code.source()),
        next: 0,
        line: 1,
        stack: Vec::new(),
    };
    let mut new_positions = Vec::with_capacity(all.len() + 1);
    for (position, instruction) in (0..).zip(&all) {
        if jump_targets.contains(&position) {
            writer.stack.clear();
        }
        if let Some(line) = code.get_line(position) {
            writer.line = u16::try_from(line).unwrap_or(u16::MAX);
        }
        new_positions.push(writer.next);
        if stored.contains(&position) && writer.peek(0) == StaticKind::Unknown {
            writer.filter(bounds::STORED, 1);
        }
        writer.copy(instruction)?;
    }
    new_positions.push(writer.next);
    let mut code = writer.code;
    for position in 0.. {
        match code.get_mut(position) {
            Some(
                Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::Iterate(target)
                | Instruction::BuildMacro(_, target, _),
            ) => *target = new_positions[*target as usize],
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

/// The positions at which the value of an assignment to a namespace is on top of the stack: just before
/// the namespace is looked up.
fn stored_values(code: &[&Instruction<'_>]) -> BTreeSet<u32> {
    let mut positions = BTreeSet::new();
    let mut namespace = 0;
    for (position, instruction) in (0..).zip(code) {
        match instruction {
            Instruction::GetAttr(_) => {}
            Instruction::SetAttr(_) => {
                positions.insert(namespace);
            }
            _ => namespace = position,
        }
    }
    positions
}

struct Writer<'source> {
    code: Instructions<'source>,
    /// The position of the next instruction.
    next: u32,
    line: u16,
    /// The top of the engine's stack; the values below it are unknown.
    stack: Vec<StaticKind>,
}

impl<'source> Writer<'source> {
    fn add(&mut self, instruction: Instruction<'source>) {
        self.next = self.code.add_with_line(instruction, self.line) + 1;
    }

    fn filter(&mut self, name: &'static str, arguments: u16) {
        // The last argument means that the filter has no entry in the engine's cache.
        self.add(Instruction::ApplyFilter(name, Some(arguments), u8::MAX));
    }

    /// Replaces an instruction by one of our filters, applied to the values on top of the stack.
    fn replace_by(&mut self, name: &'static str, operands: u16, result: StaticKind) {
        self.filter(name, operands);
        self.result(operands, result);
    }

    fn keep(&mut self, instruction: &Instruction<'source>, operands: u16, result: StaticKind) {
        self.add(instruction.clone());
        self.result(operands, result);
    }

    fn result(&mut self, operands: u16, result: StaticKind) {
        let rest = self.stack.len().saturating_sub(usize::from(operands));
        self.stack.truncate(rest);
        self.stack.push(result);
    }

    /// What is known about the value at a depth of the stack.
    fn peek(&self, depth: usize) -> StaticKind {
        let kind = self.stack.iter().rev().nth(depth);
        kind.copied().unwrap_or(StaticKind::Unknown)
    }

    /// Adds an instruction. If it could create or read large values, filters that measure them are added too,
    /// or one of our filters replaces the instruction.
    ///
    /// # Errors
    /// If the instruction is not supported in chat templates.
    fn copy(&mut self, instruction: &Instruction<'source>) -> Result<(), Error> {
        use StaticKind::{Constant, Scalar, Unknown};
        match instruction {
            Instruction::LoadConst(value) if value.as_object().is_none() => {
                self.keep(instruction, 0, Constant);
            }
            Instruction::Lookup(_) => self.keep(instruction, 0, Unknown),
            Instruction::GetAttr(_) => self.keep(instruction, 1, Unknown),
            Instruction::GetItem if self.peek(0) == Constant && self.last_is_cheap_key() => {
                self.keep(instruction, 2, Unknown);
            }
            Instruction::GetItem => self.replace_by(bounds::ITEM, 2, Unknown),
            Instruction::Slice => self.replace_by(bounds::SLICE, 4, Unknown),
            Instruction::Sub
            | Instruction::Div
            | Instruction::IntDiv
            | Instruction::Rem
            | Instruction::Pow => self.keep(instruction, 2, Scalar),
            Instruction::Not | Instruction::Neg => self.keep(instruction, 1, Scalar),
            // A list can only be added to a list.
            Instruction::Add if self.peek(0) != Unknown || self.peek(1) != Unknown => {
                self.keep(instruction, 2, Scalar);
            }
            Instruction::StringConcat if self.peek(0) != Unknown && self.peek(1) != Unknown => {
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
                // Comparing with a constant, or searching for one, never traverses two large values.
                let constant = usize::from(matches!(instruction, Instruction::In));
                if self.peek(constant) != Constant {
                    self.filter(bounds::MEASURED, 1);
                }
                self.keep(instruction, 2, Scalar);
            }
            Instruction::CompareAndPreserve(_) => {
                self.filter(bounds::MEASURED, 1);
                self.keep(instruction, 2, Unknown);
                self.stack.clear();
            }
            Instruction::PerformTest(name, Some(count), _) => {
                if !CHEAP_TESTS.contains(name) {
                    self.filter(bounds::MEASURED, 1);
                }
                self.keep(instruction, *count, Scalar);
            }
            Instruction::ApplyFilter(name, Some(count), _) if CHEAP_FILTERS.contains(name) => {
                self.keep(instruction, *count, Unknown);
            }
            Instruction::ApplyFilter(name, Some(count), _) => {
                self.add(Instruction::LoadConst((*name).into()));
                self.replace_by(bounds::FILTERED, count + 1, Unknown);
            }
            // Without arguments the engine would divide by zero.
            Instruction::CallMethod("cycle", Some(1)) => {
                return Err(refused("`cycle` is called without values".to_owned()));
            }
            // A loop that stores itself is never freed.
            Instruction::CallMethod("changed", Some(count)) => {
                if *count > 2 {
                    let reason = "`changed` with more than one value is not supported";
                    return Err(refused(reason.to_owned()));
                }
                self.filter(bounds::STORED, 1);
                self.keep(instruction, *count, Scalar);
            }
            Instruction::CallMethod(_, Some(count)) => self.keep(instruction, *count, Unknown),
            Instruction::CallFunction("range" | "namespace", Some(count)) => {
                self.keep(instruction, *count, Unknown);
            }
            Instruction::Emit | Instruction::StoreLocal(_) | Instruction::JumpIfFalse(_) => {
                self.add(instruction.clone());
                self.stack.pop();
            }
            Instruction::UnpackLists(_) => {
                let reason = "calls with `*arguments` are not supported in chat templates";
                return Err(refused(reason.to_owned()));
            }
            Instruction::BuildList(Some(count)) if self.are_scalars(*count) => {
                self.add(instruction.clone());
                self.stack.clear();
            }
            Instruction::BuildMap(pairs) | Instruction::BuildKwargs(pairs)
                if self.are_scalars(2 * pairs) =>
            {
                self.add(instruction.clone());
                self.stack.clear();
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
                self.stack.clear();
            }
            _ => {
                self.add(instruction.clone());
                self.stack.clear();
            }
        }
        Ok(())
    }

    fn are_scalars(&self, count: usize) -> bool {
        (0..count).all(|depth| self.peek(depth) != StaticKind::Unknown)
    }

    /// Whether the last instruction loads a key that needs no search, such as `'role'` or `0`.
    fn last_is_cheap_key(&self) -> bool {
        let last = self
            .next
            .checked_sub(1)
            .and_then(|position| self.code.get(position));
        let Some(Instruction::LoadConst(key)) = last else {
            return false;
        };
        key.as_str().is_some() || key.as_usize().is_some_and(|index| index < 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_does_not_compile_is_not_interned() {
        let syntax = SyntaxConfig::builder().build().unwrap();
        for (source, compiles) in [
            ("{{ 1 }} is interned", true),
            ("{{ 1 is not interned", false),
            ("{{ f(*x) }} is not interned", false),
        ] {
            let compiled = CompiledTemplate::new(source.to_owned(), &syntax);
            assert_eq!(compiled.is_ok(), compiles, "{source}");
            let interned = SOURCES.lock().unwrap().contains(source);
            assert_eq!(interned, compiles, "{source}");
        }
    }
}
