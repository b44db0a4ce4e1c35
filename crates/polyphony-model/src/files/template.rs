//! Chat templates: from a conversation to the text that a model was trained to continue.
//!
//! Templates are Jinja programs written for transformers. The engine is set up as in transformers
//! (`trim_blocks`, `lstrip_blocks`, loop controls, Python's methods, its own `tojson`), with two
//! differences that make rendering a pure function of the conversation: `strftime_now` is not defined,
//! so that templates fall back to their fixed date, and `enable_thinking` is false.
//!
//! Templates come from untrusted sources. The size of their source, the steps that they take and the
//! values that they create are bounded ([`program`], [`bounds`]).

mod bounds;
#[cfg(test)]
mod hostile;
mod program;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use self::bounds::{FUEL, Size, measured, pay, refused};
use self::program::CompiledTemplate;
pub(super) use self::program::MAX_SOURCE;
use super::contain::catch_panic;
use super::python;
use crate::error::{ModelError, truncated};

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageRole {
    /// Instructions for the whole conversation.
    System,
    /// Questions and other input for the model.
    User,
    /// Answers of the model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: MessageRole,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of this author with this text.
    pub fn new(role: MessageRole, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    compiled: CompiledTemplate,
    environment: Environment<'static>,
}

/// The longest error text of a template that is passed on, in characters.
const MAX_REASON: usize = 2000;

/// The roles of special tokens in a `tokenizer_config.json`.
const TOKEN_ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
];

impl ChatTemplate {
    /// Parses a template. `path` is its origin, for error messages, and `tokenizer_config` defines the
    /// special tokens that it may refer to.
    ///
    /// # Errors
    /// If the template is not valid Jinja or exceeds a bound.
    pub fn new(
        source: &str,
        tokenizer_config: Option<&Value>,
        path: &Path,
    ) -> Result<Self, ModelError> {
        // Jinja reads every kind of line end as a newline, even inside string literals.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failed(path, &error))?;
        bounds::add_to(&mut environment);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("trim", python::trim);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", raise_exception);
        let compiled =
            CompiledTemplate::new(source, &syntax).map_err(|error| failed(path, &error))?;
        let token = |role| token_text(tokenizer_config?.get(role)?);
        for role in TOKEN_ROLES {
            if let Some(token) = token(role) {
                environment.add_global(role, token);
            }
        }
        environment.add_global("enable_thinking", false);
        environment.add_global("tools", ());
        environment.add_global("documents", ());
        Ok(Self {
            path: path.to_owned(),
            compiled,
            environment,
        })
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's next answer
    /// begins.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or exceeds a bound.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let (text, _) = self.render_within(messages, add_generation_prompt, FUEL)?;
        Ok(text)
    }

    /// As [`ChatTemplate::render`] with a different bound of the steps; also returns the number of steps.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub(super) fn render_within(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        max_steps: u64,
    ) -> Result<(String, u64), ModelError> {
        let variables = context! {
            messages => minijinja::value::Serde(messages),
            add_generation_prompt,
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(max_steps));
        // No panic of the engine is known. Should one happen, it is reported as the template's failure.
        let render = || self.compiled.render(&environment, variables);
        match catch_panic(render) {
            Ok(rendered) => rendered.map_err(|error| self.failed(&bounds::explain(&error))),
            Err(_) => Err(self.failed(&"the template engine panicked")),
        }
    }

    /// The template's text.
    pub(super) fn source(&self) -> &str {
        self.compiled.source()
    }

    pub(super) fn failed(&self, reason: &impl ToString) -> ModelError {
        failed(&self.path, reason)
    }
}

fn failed(path: &Path, reason: &impl ToString) -> ModelError {
    ModelError::Template {
        path: path.to_owned(),
        reason: truncated(reason.to_string(), MAX_REASON),
    }
}

/// The function with which a template refuses a conversation.
fn raise_exception(message: String) -> Result<(), Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// A special token's text: a plain string, or an object with the string as `content`.
pub(super) fn token_text(token: &Value) -> Option<String> {
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some(text.to_owned())
}

/// The template inside a `tokenizer_config.json`: either one text, or the text called `default` in a
/// list of named ones.
pub(crate) fn embedded_template(tokenizer_config: &Value) -> Option<&str> {
    let template = tokenizer_config.get("chat_template")?;
    if let Some(text) = template.as_str() {
        return Some(text);
    }
    let default = |entry: &&Value| entry.get("name").is_some_and(|name| name == "default");
    template
        .as_array()?
        .iter()
        .find(default)?
        .get("template")?
        .as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Expected {
        conversations: Vec<ExpectedConversation>,
    }

    #[derive(Deserialize)]
    struct ExpectedConversation {
        messages: Vec<Message>,
        rendered: String,
        prompt: String,
    }

    fn read(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-chat");
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    fn tiny_chat() -> ChatTemplate {
        let config = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
        let source = read("chat_template.jinja");
        ChatTemplate::new(&source, Some(&config), Path::new("chat_template.jinja")).unwrap()
    }

    #[test]
    fn rendered_text_is_that_of_transformers() {
        let template = tiny_chat();
        let expected: Expected = serde_json::from_str(&read("expected.json")).unwrap();
        assert!(!expected.conversations.is_empty());
        for row in expected.conversations {
            assert_eq!(template.render(&row.messages, false).unwrap(), row.rendered);
            assert_eq!(template.render(&row.messages, true).unwrap(), row.prompt);
        }
    }

    #[test]
    fn an_error_raised_by_a_template_is_passed_on() {
        let messages = [
            Message::new(MessageRole::User, "a"),
            Message::new(MessageRole::System, "b"),
        ];
        let message = tiny_chat()
            .render(&messages, false)
            .unwrap_err()
            .to_string();
        assert!(message.contains("chat_template.jinja failed"), "{message}");
        assert!(
            message.contains("The system message must come first."),
            "{message}"
        );
    }

    #[test]
    fn long_conversations_stay_within_the_bounds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chat-templates");
        let roles = [MessageRole::User, MessageRole::Assistant];
        let content = "<think>\nHm.\n</think>\n\nIt is so. ".repeat(30);
        let messages: Vec<Message> = (0..2000)
            .map(|turn| Message::new(roles[turn % 2], content.as_str()))
            .collect();
        let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let mut templates = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jinja")
            {
                let source = std::fs::read_to_string(&path).unwrap();
                let template = ChatTemplate::new(&source, Some(&tokens), &path).unwrap();
                assert!(template.render(&messages, true).unwrap().len() > 10_000);
                templates += 1;
            }
        }
        assert!(templates >= 6);
    }

    #[test]
    fn slices_and_ranges_are_those_of_python() {
        let rows = [
            ("'abcde'[1:3]", "bc"),
            ("'abcde'[-2:]", "de"),
            ("'abcde'[::-1]", "edcba"),
            ("'abcde'[3:0:-2]", "db"),
            ("'abcde'[-9:9]", "abcde"),
            ("'abcde'[9:]", ""),
            ("'äöü'[1:]", "öü"),
            ("[1, 2, 3][:-1]", "[1, 2]"),
            ("[1, 2, 3][::2]", "[1, 3]"),
            ("[][::-1]", "[]"),
            ("none[1:]", "[]"),
            ("range(3)|list", "[0, 1, 2]"),
            ("range(3, 0, -2)|list", "[3, 1]"),
            ("range(0, 5, 2)|list", "[0, 2, 4]"),
            ("range(2, 0)|list", "[]"),
            ("'abc'[-1] ~ [1, 2][-1]", "c2"),
            ("messages[1:]|length", "0"),
        ];
        let messages = [Message::new(MessageRole::User, "a")];
        for (expression, expected) in rows {
            let source = format!("{{{{ {expression} }}}}");
            let template = ChatTemplate::new(&source, None, Path::new("some.jinja")).unwrap();
            let rendered = template.render(&messages, false).unwrap();
            assert_eq!(rendered, expected, "{expression}");
        }
    }

    #[test]
    fn a_malformed_template_is_an_error() {
        let error = ChatTemplate::new("{% for %}", None, Path::new("some.jinja")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the chat template of some.jinja failed"),
            "{error}"
        );
    }

    #[test]
    fn templates_are_found_in_the_tokenizer_configuration() {
        let rows = [
            (json!({"chat_template": "one"}), Some("one")),
            (
                json!({"chat_template": [
                    {"name": "tool_use", "template": "other"},
                    {"name": "default", "template": "this"},
                ]}),
                Some("this"),
            ),
            (
                json!({"chat_template": [{"name": "rag", "template": "other"}]}),
                None,
            ),
            (json!({"chat_template": null}), None),
            (json!({}), None),
        ];
        for (config, expected) in rows {
            assert_eq!(embedded_template(&config), expected, "{config}");
        }
    }
}
