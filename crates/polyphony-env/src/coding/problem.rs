//! Reads a coding problem from the fields of a task.

use polyphony_episode::{EnvironmentError, Task};
use polyphony_sandbox::Tests;
use ruff_python_ast::{
    Stmt, StmtFunctionDef,
    statement_visitor::{self, StatementVisitor},
};
use ruff_text_size::Ranged;

use super::{
    extract::{begins, unix_lines},
    python::parse,
};

/// The name of the helper function.
pub(super) const HELPER: &str = "aux";

/// One problem to solve together.
#[derive(Debug, PartialEq)]
pub(super) struct Problem {
    /// The task's identifier, for errors.
    pub(super) id: String,
    /// The text that the agents see: usually a signature and a docstring.
    pub(super) prompt: String,
    /// The name of the entry function, which solves the problem.
    pub(super) entry_point: String,
    /// The first line of that function, such as `def f(x: int) -> int:`; `None` if the prompt has none.
    pub(super) signature: Option<String>,
    /// The import statements of the prompt, including those inside the entry function, which the solutions
    /// of HumanEval/115 need. Imports inside `try`, a class or another function are left out.
    pub(super) imports: String,
    /// The functions that the prompt defines completely, besides the entry point.
    pub(super) functions: Vec<String>,
    /// The tests: source that defines `check(candidate)`.
    pub(super) test: String,
}

impl Problem {
    /// Reads a task.
    ///
    /// # Errors
    /// If a field is missing or blank, if the entry point is not a name or is the helper's name, or if
    /// the tests do not define `check`.
    pub(super) fn read(task: &Task) -> Result<Self, EnvironmentError> {
        let prompt = text_of(task, "prompt")?;
        let entry_point = text_of(task, "entry_point")?;
        let test = text_of(task, "test")?;
        let failed = |reason: String| {
            let id = &task.id;
            EnvironmentError::failed(format!("task `{id}`: {reason}"))
        };
        if !is_name(&entry_point) {
            return Err(failed(format!(
                "`entry_point` is `{entry_point}`, which is not a valid name of a Python function"
            )));
        }
        if entry_point == HELPER {
            return Err(failed(format!(
                "`entry_point` is `{HELPER}`, which is the helper's name: give it another name"
            )));
        }
        if !test.lines().any(|line| begins(line, "check")) {
            return Err(failed(
                "`test` defines no function `check(candidate)`, which must contain the asserts"
                    .to_owned(),
            ));
        }
        let mut problem = Self {
            id: task.id.clone(),
            prompt,
            entry_point,
            signature: None,
            imports: String::new(),
            functions: Vec::new(),
            test,
        };
        problem.read_prompt();
        Ok(problem)
    }

    /// The tests, with the same imports and functions as the program.
    pub(super) fn tests(&self) -> Tests {
        let mut setup = self.imports.clone();
        for function in &self.functions {
            setup.push_str(function);
            setup.push('\n');
        }
        Tests {
            setup,
            source: self.test.clone(),
        }
    }

    fn read_prompt(&mut self) {
        let prompt = self.prompt.clone();
        let Some(suite) = parse(&prompt) else {
            return self.read_prose(&prompt);
        };
        for statement in &suite {
            match statement {
                Stmt::FunctionDef(function) if function.name == self.entry_point => {
                    self.signature = Some(signature(function, &prompt));
                    self.imports_in(&function.body, &prompt);
                }
                Stmt::FunctionDef(function) if has_body(function) => {
                    self.functions.push(prompt[function.range()].to_owned());
                }
                statement => self.imports_in(std::slice::from_ref(statement), &prompt),
            }
        }
    }

    fn imports_in(&mut self, body: &[Stmt], prompt: &str) {
        let mut search = ImportSearch { found: Vec::new() };
        search.visit_body(body);
        for import in search.found {
            self.import(&prompt[import.range()]);
        }
    }

    /// Reads a prompt that is not Python, such as a sentence followed by a signature.
    fn read_prose(&mut self, prompt: &str) {
        for line in prompt.lines() {
            let unindented = line.trim_start();
            if parse(unindented).is_some_and(|suite| is_import(&suite)) {
                self.import(unindented);
            } else if self.signature.is_none() && begins(line, &self.entry_point) {
                self.signature = Some(line.trim().to_owned());
            }
        }
    }

    fn import(&mut self, statement: &str) {
        self.imports.push_str(statement);
        self.imports.push('\n');
    }
}

/// Finds import statements, including nested ones, but not inside functions and classes. Imports inside
/// `try` are skipped, because they may fail.
struct ImportSearch<'a> {
    found: Vec<&'a Stmt>,
}

impl<'a> StatementVisitor<'a> for ImportSearch<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::Import(_) | Stmt::ImportFrom(_) => self.found.push(statement),
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) | Stmt::Try(_) => {}
            _ => statement_visitor::walk_stmt(self, statement),
        }
    }
}

fn text_of(task: &Task, field: &str) -> Result<String, EnvironmentError> {
    let text = task.field(field)?;
    if text.trim().is_empty() {
        let id = &task.id;
        return Err(EnvironmentError::failed(format!(
            "field `{field}` of task `{id}` is blank: give it text or leave the task out"
        )));
    }
    Ok(unix_lines(text))
}

/// Whether Python accepts the text as the name of a function.
fn is_name(text: &str) -> bool {
    parse(&format!("def {text}(): pass"))
        .is_some_and(|suite| matches!(&suite[..], [Stmt::FunctionDef(one)] if &one.name == text))
}

fn is_import(suite: &[Stmt]) -> bool {
    matches!(suite, [Stmt::Import(_) | Stmt::ImportFrom(_)])
}

/// Whether a function has a body besides its docstring.
fn has_body(function: &StmtFunctionDef) -> bool {
    !matches!(&function.body[..], [Stmt::Expr(statement)] if statement.value.is_literal_expr())
}

/// A function's signature as one line.
fn signature(function: &StmtFunctionDef, prompt: &str) -> String {
    let end = function
        .returns
        .as_ref()
        .map_or(function.parameters.end(), |returns| returns.end());
    let name_to_end = &prompt[function.name.start().to_usize()..end.to_usize()];
    let words: Vec<&str> = name_to_end.split_whitespace().collect();
    format!("def {}:", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(prompt: &str) -> Problem {
        let fields = [
            ("prompt", prompt),
            ("entry_point", "solve"),
            (
                "test",
                "def check(candidate):\n    assert candidate(1) == 2",
            ),
        ];
        Problem::read(&Task::new("t/1", fields)).unwrap()
    }

    #[test]
    fn imports_functions_and_the_signature_are_read_from_the_prompt() {
        let prompt = "from typing import (\n    List,\n)\nimport math as m\nLIMIT = 3\n\n\
                      @cached\ndef double(x):\n    return 2 * x\n\n\
                      def stub(x):\n    \"\"\" Not written yet. \"\"\"\n\n\
                      def solve(\n    numbers: List[int], x=3\n) -> int:\n    \"\"\" Do it. \"\"\"\n";
        let parsed = problem(prompt);
        assert_eq!(
            parsed.imports,
            "from typing import (\n    List,\n)\nimport math as m\n"
        );
        assert_eq!(
            parsed.functions,
            ["@cached\ndef double(x):\n    return 2 * x"]
        );
        assert_eq!(
            parsed.signature.as_deref(),
            Some("def solve( numbers: List[int], x=3 ) -> int:")
        );
        assert_eq!(
            parsed.tests().setup,
            format!(
                "{}@cached\ndef double(x):\n    return 2 * x\n",
                parsed.imports
            )
        );
    }

    #[test]
    fn nested_imports_of_the_prompt_count() {
        let prompt = "if True:\n    import re\n\n\
                      def double(x):\n    import os\n    return 2 * x\n\n\
                      def solve(x):\n    import math\n    from typing import (\n        List,\n    )\n    \
                      try:\n        import numpy\n    except ImportError:\n        pass\n    \
                      \"\"\" Do it. \"\"\"\n";
        let parsed = problem(prompt);
        let imports = "import re\nimport math\nfrom typing import (\n        List,\n    )\n";
        assert_eq!(parsed.imports, imports);
        assert_eq!(
            parsed.functions,
            ["def double(x):\n    import os\n    return 2 * x"]
        );
        let parsed = problem("Write this:\n\tdef solve(x):\n\t\timport math\n");
        assert_eq!(parsed.imports, "import math\n");
    }

    #[test]
    fn a_prompt_that_is_not_python_is_read_line_by_line() {
        let parsed =
            problem("Write this function:\r\nimport math\r\n  def solve(x, y):\r\nimport it");
        assert_eq!(parsed.imports, "import math\nimport it\n");
        assert_eq!(parsed.signature.as_deref(), Some("def solve(x, y):"));
        assert_eq!(parsed.functions, [""; 0]);
        assert_eq!(problem("Add one.").signature, None);
    }

    #[test]
    fn errors_say_what_is_wrong_with_a_task() {
        let rows = [
            (
                ["", "f", "def check(c): pass"],
                "field `prompt` of task `t/1` is blank: give it text or leave the task out",
            ),
            (
                ["x", " ", "def check(c): pass"],
                "field `entry_point` of task `t/1` is blank: give it text or leave the task out",
            ),
            (
                ["x", "f(", "def check(c): pass"],
                "task `t/1`: `entry_point` is `f(`, which is not a valid name of a Python function",
            ),
            (
                ["x", "lambda", "def check(c): pass"],
                "task `t/1`: `entry_point` is `lambda`, which is not a valid name of a Python function",
            ),
            (
                ["x", "aux", "def check(c): pass"],
                "task `t/1`: `entry_point` is `aux`, which is the helper's name: \
                 give it another name",
            ),
            (
                ["x", "f", "assert f(1)"],
                "task `t/1`: `test` defines no function `check(candidate)`, \
                 which must contain the asserts",
            ),
        ];
        for ([prompt, entry_point, test], expected) in rows {
            let fields = [
                ("prompt", prompt),
                ("entry_point", entry_point),
                ("test", test),
            ];
            let error = Problem::read(&Task::new("t/1", fields)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let error = Problem::read(&Task::new("t/1", [("prompt", "x")])).unwrap_err();
        let expected = "task `t/1` has no field `entry_point`; it has: prompt";
        assert_eq!(error.to_string(), expected);
    }
}
