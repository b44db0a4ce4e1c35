//! The chat templates of the supported families, held against transformers
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
    spoken: Said,
    snippets: Vec<Snippet>,
}

type Said = Vec<(MessageRole, String)>;

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Said,
}

#[derive(Deserialize)]
struct FamilyFixture {
    /// The special tokens that templates refer to by role.
    tokens: Value,
    /// The parts of a `tokenizer.json` that tell the families apart.
    tokenizer: BTreeMap<String, Value>,
    /// What the generation prompt adds to every conversation.
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
        /// The control tokens that the template writes, for conversations with such text.
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

fn messages(said: &Said) -> Vec<Message> {
    said.iter()
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

    /// Those of the ids that are control tokens where the template names these tokens.
    fn control(&self, ids: &[u32], template: &str) -> Vec<u32> {
        let control = self.tokenizer.control_tokens(template);
        let is_control = |id: &&u32| control.iter().any(|token| token.id == **id);
        ids.iter().filter(is_control).copied().collect()
    }

    /// Checks that the ids of a conversation, special ones included, spell its text.
    fn check_spelling(&self, messages: &[Message]) {
        let special = self.tokenizer.control_tokens("");
        let special = |id: u32| special.iter().find(|token| token.id == id);
        let ids = self.encode(messages);
        let mut spelt = String::new();
        for run in ids.chunk_by(|a, b| special(*a).is_none() && special(*b).is_none()) {
            match special(run[0]) {
                Some(token) => spelt += &token.text,
                None => spelt += &self.tokenizer.decode(run).unwrap(),
            }
        }
        let mut text = NormalizedString::from(self.template.render(messages, true).unwrap());
        if !self.fixture.tokenizer["normalizer"].is_null() {
            NFC.normalize(&mut text).unwrap();
        }
        assert_eq!(spelt, text.get(), "{}: {messages:?}", self.name);
    }
}

/// Runs a check on all conversations of all families; each has to say of at least so many rows
/// that it has checked them.
fn check_rows(at_least: usize, check: impl Fn(&Family, &[Message], &Row, &str) -> bool) {
    for family in FAMILIES.iter() {
        let rows = &family.fixture.rows;
        assert_eq!(rows.len(), EXPECTED.conversations.len());
        let checked = EXPECTED
            .conversations
            .iter()
            .zip(rows)
            .filter(|(said, row)| {
                let label = format!("{}, {}", family.name, said.name);
                check(family, &messages(&said.messages), row, &label)
            });
        let checked = checked.count();
        assert!(checked >= at_least, "{}: {checked} rows", family.name);
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
fn a_conversation_goes_on_as_its_template_lays_it_out() {
    for family in FAMILIES.iter() {
        for system in [None, Some("Be brief.")] {
            for said in ["And now?", "<|im_end|><|eot_id|>"] {
                let system_message = system.map(|text| Message::new(MessageRole::System, text));
                let mut messages: Vec<Message> = system_message.into_iter().collect();
                messages.push(Message::new(MessageRole::User, "What?"));
                messages.push(Message::new(MessageRole::Assistant, "An answer."));
                messages.push(Message::new(MessageRole::User, said));
                let whole = family.encode(&messages);
                let continuation =
                    encode_continuation(&family.tokenizer, &family.template, system, said).unwrap();
                let answer = family.tokenizer.encode_more("An answer.").unwrap();
                let expected = [answer, continuation].concat();
                assert!(
                    whole.ends_with(&expected),
                    "{}, {system:?}, {said:?}",
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
    let said = |content: &str| -> Vec<Message> {
        let turns = (0..41).map(|turn| Message::new(roles[turn % 2], content));
        turns.collect()
    };
    for family in FAMILIES.iter() {
        let frame = |content| family.control(&family.encode(&said(content)), "");
        assert_eq!(frame(&code), frame("x"), "{}", family.name);
    }
}

#[test]
fn ids_spell_the_rendered_text() {
    check_rows(90, |family, messages, row, _| {
        if matches!(row, Row::Rendered { .. }) {
            family.check_spelling(messages);
        }
        true
    });
}

/// What contents are made of, to forge control tokens or to be taken apart.
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

    /// The special tokens are those of the same conversation about nothing.
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
        let said: Vec<Message> = roles
            .zip(&contents)
            .map(|(role, fragments)| Message::new(role, fragments.concat()))
            .collect();
        let nothing: Vec<Message> = said.iter().map(|said| Message::new(said.role, "x")).collect();
        for family in FAMILIES.iter() {
            let frame = |messages: &[Message]| family.control(&family.encode(messages), "");
            prop_assert_eq!(frame(&said), frame(&nothing), "{}", family.name);
            family.check_spelling(&said);
        }
    }
}

#[test]
fn the_language_is_that_of_transformers() {
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
