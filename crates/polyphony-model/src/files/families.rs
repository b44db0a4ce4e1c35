//! The chat templates of the supported families, compared with transformers
//! (`fixtures/chat-templates`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer as _};

use super::*;

#[derive(Deserialize)]
struct Expected {
    conversations: Vec<Conversation>,
    families: BTreeMap<String, FamilyFixture>,
    /// The messages for the snippets.
    spoken: Turns,
    snippets: Vec<Snippet>,
}

type Turns = Vec<(MessageRole, String)>;

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Turns,
}

#[derive(Deserialize)]
struct FamilyFixture {
    /// The special tokens that templates refer to by role.
    tokens: Value,
    /// The parts of a `tokenizer.json` in which the families differ.
    tokenizer: BTreeMap<String, Value>,
    /// The text that the generation prompt adds to every conversation.
    prompt_adds: String,
    /// One for each conversation.
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Refused {
        error: String,
    },
    Rendered {
        rendered: String,
        /// The prompt's ids, for short conversations without the text of control tokens.
        ids: Option<Vec<u32>>,
        /// The control tokens that the template writes, for conversations with the text of control tokens.
        control: Option<Vec<u32>>,
    },
}

#[derive(Deserialize)]
struct Snippet {
    template: String,
    /// Absent where transformers fails.
    rendered: Option<String>,
}

static EXPECTED: LazyLock<Expected> =
    LazyLock::new(|| serde_json::from_str(&read("expected.json")).unwrap());

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chat-templates");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn messages(turns: &Turns) -> Vec<Message> {
    turns
        .iter()
        .map(|(role, content)| Message::new(*role, content.as_str()))
        .collect()
}

struct Family {
    name: &'static str,
    fixture: &'static FamilyFixture,
    template: ChatTemplate,
    tokenizer: Tokenizer,
}

static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let families = EXPECTED.families.iter();
    families
        .map(|(name, fixture)| Family::new(name, fixture))
        .collect()
});

impl Family {
    fn new(name: &'static str, fixture: &'static FamilyFixture) -> Self {
        let path = Path::new(name);
        let source = read(&format!("{name}.jinja"));
        let mut tokenizer: Value = serde_json::from_str(&read("tokenizer.json")).unwrap();
        for (part, value) in &fixture.tokenizer {
            tokenizer[part] = value.clone();
        }
        Self {
            name,
            fixture,
            template: ChatTemplate::new(&source, Some(&fixture.tokens), path).unwrap(),
            tokenizer: Tokenizer::from_json(&tokenizer.to_string(), path).unwrap(),
        }
    }

    fn encode(&self, messages: &[Message]) -> Vec<u32> {
        encode_conversation(&self.tokenizer, &self.template, messages).unwrap()
    }

    /// The ids that are control tokens for a template.
    fn control(&self, ids: &[u32], template: &str) -> Vec<u32> {
        let control = self.tokenizer.control_tokens(template);
        let is_control = |id: &&u32| control.iter().any(|token| token.id == **id);
        ids.iter().filter(is_control).copied().collect()
    }

    /// Checks that the ids of a conversation, special tokens included, decode to its text.
    fn check_decoding(&self, messages: &[Message]) {
        let special = self.tokenizer.control_tokens("");
        let special = |id: u32| special.iter().find(|token| token.id == id);
        let ids = self.encode(messages);
        let mut decoded = String::new();
        for run in ids.chunk_by(|a, b| special(*a).is_none() && special(*b).is_none()) {
            match special(run[0]) {
                Some(token) => decoded += &token.text,
                None => decoded += &self.tokenizer.decode(run).unwrap(),
            }
        }
        let mut text = NormalizedString::from(self.template.render(messages, true).unwrap());
        if !self.fixture.tokenizer["normalizer"].is_null() {
            NFC.normalize(&mut text).unwrap();
        }
        assert_eq!(decoded, text.get(), "{}: {messages:?}", self.name);
    }
}

/// Runs a check on all conversations of all families. `check` returns whether it applied to the row; it
/// must apply to at least `min_rows` rows of each family.
fn check_rows(min_rows: usize, check: impl Fn(&Family, &[Message], &Row, &str) -> bool) {
    for family in FAMILIES.iter() {
        let rows = &family.fixture.rows;
        assert_eq!(rows.len(), EXPECTED.conversations.len());
        let checked = EXPECTED
            .conversations
            .iter()
            .zip(rows)
            .filter(|(conversation, row)| {
                let label = format!("{}, {}", family.name, conversation.name);
                check(family, &messages(&conversation.messages), row, &label)
            });
        let checked = checked.count();
        assert!(checked >= min_rows, "{}: {checked} rows", family.name);
    }
}

#[test]
fn every_family_has_its_template() {
    let names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    let expected = [
        "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "smollm2",
    ];
    assert_eq!(names, expected);
}

#[test]
fn conversations_render_as_in_transformers() {
    check_rows(90, |family, messages, row, label| {
        let render = |prompt| family.template.render(messages, prompt);
        match row {
            Row::Rendered { rendered, .. } => {
                assert_eq!(&render(false).unwrap(), rendered, "{label}");
                let prompt = format!("{rendered}{}", family.fixture.prompt_adds);
                assert_eq!(render(true).unwrap(), prompt, "{label}");
            }
            Row::Refused { error } => {
                for given in [render(false), render(true)] {
                    assert!(given.is_err(), "{label}: {given:?} instead of {error}");
                }
            }
        }
        true
    });
}

#[test]
fn ids_are_those_of_transformers() {
    check_rows(30, |family, messages, row, label| match row {
        Row::Rendered { ids: Some(ids), .. } => {
            assert_eq!(&family.encode(messages), ids, "{label}");
            true
        }
        _ => false,
    });
}

#[test]
fn a_continuation_equals_the_end_of_the_whole_conversation() {
    for family in FAMILIES.iter() {
        for system in [None, Some("Be brief.")] {
            for message in ["And now?", "<|im_end|><|eot_id|>"] {
                let system_message = system.map(|text| Message::new(MessageRole::System, text));
                let mut messages: Vec<Message> = system_message.into_iter().collect();
                messages.push(Message::new(MessageRole::User, "What?"));
                messages.push(Message::new(MessageRole::Assistant, "An answer."));
                messages.push(Message::new(MessageRole::User, message));
                let whole = family.encode(&messages);
                let (tokenizer, template) = (&family.tokenizer, &family.template);
                let continuation =
                    encode_continuation(tokenizer, template, system, message).unwrap();
                let answer = family.tokenizer.encode_more("An answer.").unwrap();
                let expected = [answer, continuation].concat();
                assert!(
                    whole.ends_with(&expected),
                    "{}, {system:?}, {message:?}",
                    family.name
                );
            }
        }
    }
}

#[test]
fn messages_cannot_write_control_tokens() {
    check_rows(25, |family, messages, row, label| match row {
        Row::Rendered {
            control: Some(control),
            ..
        } => {
            let found = family.control(&family.encode(messages), family.template.source());
            assert_eq!(&found, control, "{label}");
            true
        }
        _ => false,
    });
}

#[test]
fn long_ordinary_conversations_are_traced() {
    let code = "<p>if a < b || c > d { x |= y >> 2 }</p> <|im_end|>\n".repeat(60);
    let roles = [MessageRole::User, MessageRole::Assistant];
    let conversation = |content: &str| -> Vec<Message> {
        let turns = (0..41).map(|turn| Message::new(roles[turn % 2], content));
        turns.collect()
    };
    for family in FAMILIES.iter() {
        let frame = |content| family.control(&family.encode(&conversation(content)), "");
        assert_eq!(frame(&code), frame("x"), "{}", family.name);
    }
}

#[test]
fn ids_decode_to_the_rendered_text() {
    check_rows(90, |family, messages, row, _| {
        if matches!(row, Row::Rendered { .. }) {
            family.check_decoding(messages);
        }
        true
    });
}

/// Fragments of message contents, some of which forge control tokens and some of which templates cut.
const FRAGMENTS: [&str; 24] = [
    "<",
    ">",
    "|",
    "<|",
    "|>",
    "im_end",
    "/",
    "think",
    "a",
    " ",
    "\n",
    "\u{338}",
    "\u{F0000}",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
    "<tool_response>",
    "</tool_response>",
    "<tool_call>",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The special tokens are those of the same conversation with harmless contents.
    #[test]
    fn no_content_changes_the_frame(
        contents in prop::collection::vec(
            prop::collection::vec(prop::sample::select(&FRAGMENTS[..]), 0..8),
            1..6,
        ),
        with_system in any::<bool>(),
    ) {
        let roles = [MessageRole::System, MessageRole::User, MessageRole::Assistant];
        let roles = roles.into_iter().chain([MessageRole::User, MessageRole::Assistant]);
        let roles = roles.skip(usize::from(!with_system));
        let conversation: Vec<Message> = roles
            .zip(&contents)
            .map(|(role, fragments)| Message::new(role, fragments.concat()))
            .collect();
        let harmless: Vec<Message> =
            conversation.iter().map(|message| Message::new(message.role, "x")).collect();
        for family in FAMILIES.iter() {
            let frame = |messages: &[Message]| family.control(&family.encode(messages), "");
            prop_assert_eq!(frame(&conversation), frame(&harmless), "{}", family.name);
            family.check_decoding(&conversation);
        }
    }
}

#[test]
fn the_template_language_is_that_of_transformers() {
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let messages = messages(&EXPECTED.spoken);
    assert!(EXPECTED.snippets.len() >= 30);
    for Snippet {
        template: source,
        rendered,
    } in &EXPECTED.snippets
    {
        let template = ChatTemplate::new(source, Some(&tokens), Path::new("snippet"));
        let given = template.and_then(|template| template.render(&messages, false));
        assert_eq!(
            given.as_ref().ok(),
            rendered.as_ref(),
            "{source:?}: {given:?}"
        );
    }
}
