//! Analyses the source of one function: whether it returns a value, and how it uses its helper.

use std::collections::HashSet;

use ruff_python_ast::{
    Expr, ExprContext, Stmt, StmtFunctionDef,
    statement_visitor::{self, StatementVisitor},
    visitor::{self, Visitor},
};
use serde::{Deserialize, Serialize};

use super::{extract, python::parse};

/// A function that was found in a response.
pub(super) struct Function {
    /// Its source.
    pub(super) source: String,
    /// Its syntax tree; `None` where the source is not Python.
    tree: Option<StmtFunctionDef>,
}

/// How an entry function uses its helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HelperUse {
    /// It does not call the helper, or it defines something else with the helper's name.
    NotCalled,
    /// It calls the helper.
    Called {
        /// Whether the function does anything else.
        body: EntryBody,
        /// Whether it uses the helper's results.
        results: HelperResults,
    },
}

/// Whether an entry function does anything besides calling its helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryBody {
    /// Apart from its docstring, it only returns the helper's result.
    Wrapper,
    /// It has code of its own.
    Own,
}

/// Whether an entry function uses the results of its helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HelperResults {
    /// It uses the results of all calls.
    Used,
    /// At least one result is ignored: the call is a statement, or its target is never read.
    Ignored,
}

impl Function {
    /// The function called `name` in a response.
    pub(super) fn find(response: &str, name: &str) -> Option<Self> {
        let source = extract::definition(response, name)?;
        let tree = parse(&source)
            .and_then(|suite| suite.into_iter().next())
            .and_then(Stmt::function_def_stmt);
        Some(Self { source, tree })
    }

    /// Whether it has a `return` with a value; nested functions do not count. If the source is not
    /// Python, whether a line contains the word `return` followed by a value.
    pub(super) fn returns_value(&self) -> bool {
        match &self.tree {
            Some(function) => {
                let mut search = ReturnSearch { found: false };
                search.visit_body(&function.body);
                search.found
            }
            None => self.source.lines().any(line_returns_value),
        }
    }

    /// How it uses the function called `helper`. Source without a syntax tree counts as no call.
    pub(super) fn use_of(&self, helper: &str) -> HelperUse {
        let Some(function) = &self.tree else {
            return HelperUse::NotCalled;
        };
        let mut names = Names::new(helper);
        for parameter in &*function.parameters {
            names.bind(parameter.name());
        }
        names.visit_body(&function.body);
        if names.calls == 0 || names.is_rebound {
            return HelperUse::NotCalled;
        }
        HelperUse::Called {
            body: if is_wrapper(function, helper) {
                EntryBody::Wrapper
            } else {
                EntryBody::Own
            },
            results: if names.has_ignored_result() {
                HelperResults::Ignored
            } else {
                HelperResults::Used
            },
        }
    }
}

struct ReturnSearch {
    found: bool,
}

impl<'a> StatementVisitor<'a> for ReturnSearch {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::Return(returned) => self.found |= returned.value.is_some(),
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {}
            _ => statement_visitor::walk_stmt(self, statement),
        }
    }
}

/// Whether a line of broken code returns a value: it has the word `return`, followed by something
/// that is not a comment.
fn line_returns_value(line: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("return").any(|(start, word)| {
        let (before, after) = (&line[..start], &line[start + word.len()..]);
        let value = after.trim_start();
        !before.ends_with(is_name)
            && !before.contains('#')
            && !after.starts_with(is_name)
            && !value.is_empty()
            && !value.starts_with(['#', ';'])
    })
}

/// The names that a function reads and binds, and its calls of a helper.
struct Names<'a> {
    helper: &'a str,
    calls: usize,
    /// Whether the function binds the helper's name to something else.
    is_rebound: bool,
    read: HashSet<&'a str>,
    /// Whether a call of the helper is a statement of its own.
    has_bare_call: bool,
    /// The target names of each call whose result is assigned to plain names.
    assigned: Vec<Vec<&'a str>>,
}

impl<'a> Names<'a> {
    fn new(helper: &'a str) -> Self {
        Self {
            helper,
            calls: 0,
            is_rebound: false,
            read: HashSet::new(),
            has_bare_call: false,
            assigned: Vec::new(),
        }
    }

    fn has_ignored_result(&self) -> bool {
        let is_ignored = |names: &Vec<&str>| names.iter().all(|name| !self.read.contains(name));
        self.has_bare_call || self.assigned.iter().any(is_ignored)
    }

    fn bind(&mut self, name: &str) {
        self.is_rebound |= name == self.helper;
    }

    fn assign(&mut self, targets: impl IntoIterator<Item = &'a Expr>, value: &Expr) {
        let mut names = Vec::new();
        if is_call_of(value, self.helper)
            && targets
                .into_iter()
                .all(|target| plain_names(target, &mut names))
        {
            self.assigned.push(names);
        }
    }
}

impl<'a> Visitor<'a> for Names<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::Expr(bare) => self.has_bare_call |= is_call_of(&bare.value, self.helper),
            Stmt::Assign(assign) => self.assign(&assign.targets, &assign.value),
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    self.assign([&*assign.target], value);
                }
            }
            Stmt::FunctionDef(function) => self.bind(&function.name),
            Stmt::ClassDef(class) => self.bind(&class.name),
            Stmt::Import(import) => import
                .names
                .iter()
                .for_each(|name| self.bind(bound_name(name))),
            Stmt::ImportFrom(import) => import
                .names
                .iter()
                .for_each(|name| self.bind(bound_name(name))),
            _ => {}
        }
        visitor::walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        self.calls += usize::from(is_call_of(expression, self.helper));
        if let Expr::Name(name) = expression {
            match name.ctx {
                ExprContext::Load => {
                    self.read.insert(&name.id);
                }
                _ => self.bind(&name.id),
            }
        }
        visitor::walk_expr(self, expression);
    }

    fn visit_parameter(&mut self, parameter: &'a ruff_python_ast::Parameter) {
        self.bind(&parameter.name);
        visitor::walk_parameter(self, parameter);
    }

    fn visit_except_handler(&mut self, handler: &'a ruff_python_ast::ExceptHandler) {
        let ruff_python_ast::ExceptHandler::ExceptHandler(clause) = handler;
        clause.name.iter().for_each(|name| self.bind(name));
        visitor::walk_except_handler(self, handler);
    }
}

/// The name that an import binds.
fn bound_name(alias: &ruff_python_ast::Alias) -> &str {
    alias.asname.as_ref().unwrap_or(&alias.name)
}

/// Adds the names in an assignment's target to `names`. Returns whether the target consists of nothing
/// but names; an attribute, for example, is not a name.
fn plain_names<'a>(target: &'a Expr, names: &mut Vec<&'a str>) -> bool {
    match target {
        Expr::Name(name) => {
            names.push(&name.id);
            true
        }
        Expr::Tuple(tuple) => tuple.elts.iter().all(|one| plain_names(one, names)),
        Expr::List(list) => list.elts.iter().all(|one| plain_names(one, names)),
        Expr::Starred(starred) => plain_names(&starred.value, names),
        _ => false,
    }
}

fn is_call_of(expression: &Expr, helper: &str) -> bool {
    let Expr::Call(call) = expression else {
        return false;
    };
    matches!(&*call.func, Expr::Name(name) if name.id == helper)
}

/// Whether the body, apart from its docstring, is only one of these: nothing, a `return` whose value
/// mentions the helper, or an assignment of the helper's result to a name that is then returned.
fn is_wrapper(function: &StmtFunctionDef, helper: &str) -> bool {
    let body = match function.body.split_first() {
        Some((Stmt::Expr(first), rest)) if first.value.is_string_literal_expr() => rest,
        _ => &function.body[..],
    };
    match body {
        [] => true,
        [Stmt::Return(returned)] => returned.value.as_deref().is_some_and(|value| {
            let mut names = Names::new(helper);
            names.visit_expr(value);
            names.read.contains(helper)
        }),
        [assignment, Stmt::Return(returned)] => {
            let assigned = match assignment {
                Stmt::Assign(assign) => match &assign.targets[..] {
                    [target] => Some((target, &*assign.value)),
                    _ => None,
                },
                Stmt::AnnAssign(assign) => assign
                    .value
                    .as_deref()
                    .map(|value| (&*assign.target, value)),
                _ => None,
            };
            matches!(
                (assigned, returned.value.as_deref()),
                (Some((Expr::Name(assigned), value)), Some(Expr::Name(returned)))
                    if assigned.id == returned.id && is_call_of(value, helper)
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
