//! Finds which control tokens of a rendered conversation the template wrote, and which came from a
//! message.
//!
//! Every character of a message that could begin or end a control token is a *suspect*. The suspects
//! are replaced by placeholders, which are private-use characters of Unicode, and the conversation is
//! rendered again. If that text equals the original once the placeholders are replaced back, then every
//! control token without a placeholder was written by the template.
//!
//! This holds only if the template treats the suspects like any other text. Qwen3's template does not: it
//! cuts an answer at `</think>`, and may then write the same text itself. There is therefore a second test.
//! It renders the messages with each of their whole control tokens doubled. The output must then have each
//! token twice where its placeholder was.
//!
//! A suspect that fails either test keeps its character. If it begins a whole control token, this token is
//! traced alone, in a rendering in which only this token is doubled. Either the output has the token twice in
//! one place, which shows where the token went, or the output does not change, because the template removed
//! the token.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::template::{ChatTemplate, FUEL, Message};
use super::tokenizer::ControlTokens;
use crate::error::ModelError;

/// The most steps of all renderings of one conversation together. Usually the template does not act on
/// the suspects, and there are two or three renderings. If the template changes every suspect, there are up
/// to four renderings per suspect.
const MAX_STEPS: u64 = 100 * FUEL;

/// A rendering with placeholders, which have four bytes, may take `MAX_SLOWDOWN` times the steps of the
/// original rendering plus `MAX_EXTRA_STEPS`.
const MAX_SLOWDOWN: u64 = 4;
const MAX_EXTRA_STEPS: u64 = 10_000;

/// The number of bytes that are rewritten and compared in one step.
const BYTES_PER_STEP: usize = 16;

/// A part of a rendered conversation.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Text without control tokens of the template.
    Text(String),
    /// The id of a control token that the template wrote.
    Control(u32),
}

/// Renders a conversation, generation prompt included, and splits it at the control tokens that the
/// template wrote. Returns the text and its pieces.
///
/// # Errors
/// If the template refuses the conversation, or if a message contains the text of a control token and the
/// template acts on it in a way that hides where that text went.
pub(super) fn pieces(
    template: &ChatTemplate,
    messages: &[Message],
    control: &ControlTokens,
) -> Result<(String, Vec<Piece>), ModelError> {
    let (rendered, steps) = template.render_within(messages, true, FUEL)?;
    let suspects = suspects(messages, control);
    let placeholders = Placeholders::absent_from(messages, &rendered, &suspects);
    let mut trace = Trace {
        template,
        messages,
        rendered: &rendered,
        control,
        suspects: &suspects,
        placeholders: placeholders.ok_or_else(|| too_many(template))?,
        masked: vec![false; suspects.len()],
        text: rendered.clone(),
        traced_tokens: Vec::new(),
        max_steps: MAX_SLOWDOWN * steps + MAX_EXTRA_STEPS,
        steps_left: Cell::new(MAX_STEPS),
    };
    trace.mask(0..suspects.len())?;
    let from_messages = trace.tokens_from_messages()?;

    let text = &trace.text;
    let mut pieces = Vec::new();
    let (mut start, mut position) = (0, 0);
    while let Some(character) = text[position..].chars().next() {
        match control.longest(&text[position..]) {
            Some(token) if !from_messages.contains(&position) => {
                pieces.push(Piece::Text(
                    trace.placeholders.unmask(&text[start..position]),
                ));
                pieces.push(Piece::Control(token.id));
                position += token.text.len();
                start = position;
            }
            _ => position += character.len_utf8(),
        }
    }
    pieces.push(Piece::Text(trace.placeholders.unmask(&text[start..])));
    Ok((rendered, pieces))
}

fn too_many(template: &ChatTemplate) -> ModelError {
    template.failed(
        &"it acts on characters of control tokens in too many places of the messages, which hides who \
          wrote each control token: use another template, or remove these characters from the messages",
    )
}

/// A character of a message that a control token might begin or end with.
struct Suspect<'a> {
    /// The index of the message.
    message: usize,
    /// The character's byte offset in the message.
    start: usize,
    character: char,
    /// The text of the control token that begins here, if the message contains all of it.
    whole: Option<&'a str>,
}

/// The suspects of all messages, in order.
fn suspects<'a>(messages: &[Message], control: &'a ControlTokens) -> Vec<Suspect<'a>> {
    let mut suspects = Vec::new();
    for (message, Message { content, .. }) in messages.iter().enumerate() {
        // The end of the last whole control token. Its first character stands for all of it, so the others
        // are suspects only if another whole token begins there.
        let mut covered = 0;
        for (start, character) in content.char_indices() {
            if !control.has_edge(character) {
                continue;
            }
            let token = control.longest(&content[start..]);
            let whole = token.map(|token| token.text.as_str());
            if whole.is_some() || start >= covered {
                suspects.push(Suspect {
                    message,
                    start,
                    character,
                    whole,
                });
            }
            covered = covered.max(start + whole.map_or(0, str::len));
        }
    }
    suspects
}

/// What is known about where the text of the messages went.
struct Trace<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    /// The original rendering.
    rendered: &'a str,
    control: &'a ControlTokens,
    suspects: &'a [Suspect<'a>],
    placeholders: Placeholders,
    /// Which suspects are replaced by placeholders.
    masked: Vec<bool>,
    /// The rendering with these placeholders, otherwise equal to `rendered`.
    text: String,
    /// The whole control tokens that the template acts on, each with the suspect that begins it.
    traced_tokens: Vec<(usize, &'a str)>,
    /// The most steps of one rendering.
    max_steps: u64,
    steps_left: Cell<u64>,
}

impl<'a> Trace<'a> {
    /// Masks those of the given suspects that the template does not act on.
    fn mask(&mut self, suspects: Range<usize>) -> Result<(), ModelError> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.masked[suspects.clone()].fill(true);
        if let Some(text) = self.render_masked()? {
            self.text = text;
            return Ok(());
        }
        self.masked[suspects.clone()].fill(false);
        if suspects.len() == 1 {
            let whole = self.suspects[suspects.start].whole;
            self.traced_tokens
                .extend(whole.map(|token| (suspects.start, token)));
            return Ok(());
        }
        let middle = suspects.start + suspects.len() / 2;
        self.mask(suspects.start..middle)?;
        self.mask(middle..suspects.end)
    }

    /// The rendering with placeholders; `None` if the template treats them differently from the
    /// characters that they replace.
    fn render_masked(&self) -> Result<Option<String>, ModelError> {
        // A template may refuse messages in which it no longer recognizes something.
        let masked = self.render(|suspect, output| output.push(self.character(suspect)))?;
        let same = |masked: &String| {
            let unmasked = self.placeholders.unmasked(masked);
            unmasked.eq(self.rendered.chars())
        };
        let Some(masked) = masked.filter(same) else {
            return Ok(None);
        };
        let is_masked_token =
            |(suspect, masked): (&Suspect<'_>, &bool)| *masked && suspect.whole.is_some();
        if !self.suspects.iter().zip(&self.masked).any(is_masked_token) {
            return Ok(Some(masked));
        }
        let twice = self.render(|suspect, output| {
            let Suspect {
                character, whole, ..
            } = self.suspects[suspect];
            if self.masked[suspect] {
                output.extend(whole);
            }
            output.push(character);
        })?;
        let Some(twice) = twice else {
            return Ok(None);
        };
        let same = twice == self.with_whole_tokens_twice(&masked)?;
        Ok(same.then_some(masked))
    }

    /// The original rendering, but with every masked whole control token written twice.
    fn with_whole_tokens_twice(&self, masked: &str) -> Result<String, ModelError> {
        let mut twice = String::with_capacity(2 * masked.len());
        let mut rest = self.rendered;
        let mut tokens = 0;
        for character in masked.chars() {
            if self.placeholders.is_for_whole(character) {
                let token = self.control.longest(rest);
                twice.extend(token.map(|token| token.text.as_str()));
                tokens += 1;
            }
            let mut characters = rest.chars();
            twice.extend(characters.next());
            rest = characters.as_str();
        }
        self.pay(tokens)?;
        Ok(twice)
    }

    /// The positions in `text` of the traced tokens that the template passed on.
    fn tokens_from_messages(&self) -> Result<BTreeSet<usize>, ModelError> {
        let mut positions = BTreeSet::new();
        for &(traced, token) in &self.traced_tokens {
            let untraceable = || {
                self.template.failed(&format!(
                    "it acts on `{token}` in message {} in a way that hides who wrote that control \
                     token: remove that text from the message",
                    self.suspects[traced].message + 1
                ))
            };
            let twice = self.render(|suspect, output| {
                if suspect == traced {
                    output.push_str(token);
                }
                output.push(self.character(suspect));
            })?;
            let twice = twice.ok_or_else(untraceable)?;
            if twice == self.text || !self.text.contains(token) {
                continue;
            }
            let candidates = insertion_points(&self.text, &twice, token);
            self.pay(candidates.len())?;
            let is_token = |position: &usize| {
                let begins =
                    |text: &str| text.as_bytes()[*position..].starts_with(token.as_bytes());
                !positions.contains(position) && begins(&self.text) && begins(&twice)
            };
            let position = candidates.clone().find(is_token);
            positions.insert(position.ok_or_else(untraceable)?);
        }
        Ok(positions)
    }

    /// Renders the messages with every suspect written by `write`; `None` if the template refuses them.
    ///
    /// # Errors
    /// If all renderings together take too many steps.
    fn render(&self, write: impl Fn(usize, &mut String)) -> Result<Option<String>, ModelError> {
        let mut suspects = self.suspects.iter().enumerate().peekable();
        let mut messages = Vec::with_capacity(self.messages.len());
        let mut bytes = 0;
        for (index, Message { role, content }) in self.messages.iter().enumerate() {
            let mut text = String::with_capacity(content.len());
            let mut copied = 0;
            while let Some((number, suspect)) =
                suspects.next_if(|(_, suspect)| suspect.message == index)
            {
                text.push_str(&content[copied..suspect.start]);
                write(number, &mut text);
                copied = suspect.start + suspect.character.len_utf8();
            }
            text.push_str(&content[copied..]);
            bytes += text.len();
            messages.push(Message::new(*role, text));
        }
        let rendered = self.template.render_within(&messages, true, self.max_steps);
        // A failed rendering does not report its steps, so it counts with the maximum.
        let (text, steps) = match rendered {
            Ok((text, steps)) => (Some(text), steps),
            Err(_) => (None, self.max_steps),
        };
        bytes += text.as_ref().map_or(0, String::len);
        self.pay(steps as usize + self.suspects.len() + bytes / BYTES_PER_STEP)?;
        Ok(text)
    }

    fn pay(&self, steps: usize) -> Result<(), ModelError> {
        let left = self.steps_left.get().checked_sub(steps as u64);
        self.steps_left
            .set(left.ok_or_else(|| too_many(self.template))?);
        Ok(())
    }

    /// The character of a suspect, or its placeholder if it is masked.
    fn character(&self, suspect: usize) -> char {
        let Suspect {
            character, whole, ..
        } = self.suspects[suspect];
        match (self.masked[suspect], whole) {
            (false, _) => character,
            (true, Some(_)) => self.placeholders.whole[&character],
            (true, None) => self.placeholders.part[&character],
        }
    }
}

/// The positions at which inserting a token of this length may turn `text` into `twice`: the texts are
/// equal before such a position, and after it.
fn insertion_points(text: &str, twice: &str, token: &str) -> Range<usize> {
    if twice.len() != text.len() + token.len() {
        return 0..0;
    }
    let equal = |(a, b): &(u8, u8)| a == b;
    let prefix = text.bytes().zip(twice.bytes()).take_while(equal).count();
    let (text_back, twice_back) = (text.bytes().rev(), twice.bytes().rev());
    let suffix = text_back.zip(twice_back).take_while(equal).count();
    text.len() - suffix..prefix + 1
}

/// Private-use characters that occur nowhere in a conversation, to replace the suspects.
struct Placeholders {
    /// From characters to their placeholders at the beginning of a whole control token.
    whole: BTreeMap<char, char>,
    /// From characters to their placeholders elsewhere.
    part: BTreeMap<char, char>,
    /// From placeholders of both kinds back to the characters.
    back: BTreeMap<char, char>,
}

/// The first of the private-use characters in planes 15 and 16.
const FIRST_PLACEHOLDER: char = '\u{F0000}';

impl Placeholders {
    /// `None` if the conversation leaves too few private-use characters unused.
    fn absent_from(messages: &[Message], rendered: &str, suspects: &[Suspect<'_>]) -> Option<Self> {
        let contents = messages.iter().flat_map(|message| message.content.chars());
        let used = contents.chain(rendered.chars());
        let used: HashSet<char> = used.filter(|used| *used >= FIRST_PLACEHOLDER).collect();
        let edges: BTreeSet<char> = suspects.iter().map(|suspect| suspect.character).collect();
        let mut free = (FIRST_PLACEHOLDER..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|character| !used.contains(character));
        let whole: BTreeMap<_, _> = edges.iter().copied().zip(&mut free).collect();
        let part: BTreeMap<_, _> = edges.iter().copied().zip(&mut free).collect();
        let back = whole.iter().chain(&part);
        let back = back
            .map(|(edge, placeholder)| (*placeholder, *edge))
            .collect();
        (part.len() == edges.len()).then_some(Self { whole, part, back })
    }

    fn is_for_whole(&self, character: char) -> bool {
        let edge = self.back.get(&character);
        edge.is_some_and(|edge| self.whole[edge] == character)
    }

    /// The characters of a text, with placeholders replaced back.
    fn unmasked(&self, text: &str) -> impl Iterator<Item = char> {
        text.chars().map(move |character| {
            if character < FIRST_PLACEHOLDER {
                return character;
            }
            self.back.get(&character).copied().unwrap_or(character)
        })
    }

    fn unmask(&self, text: &str) -> String {
        self.unmasked(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::template::MessageRole;
    use super::super::tokenizer::Tokenizer;
    use super::*;

    /// The rendered text with the template's control tokens in guillemets.
    fn marked(source: &str, content: &str) -> Result<String, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-chat");
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
        let template = ChatTemplate::new(source, None, Path::new("some.jinja")).unwrap();
        let messages = [Message::new(MessageRole::User, content)];
        let control = tokenizer.control_tokens(source);
        let pieces = pieces(&template, &messages, &control);
        let (rendered, pieces) = pieces.map_err(|error| error.to_string())?;
        let text = |guillemets: [&str; 2]| -> String {
            let text = |piece: &Piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Control(id) => {
                    let token = control.iter().find(|token| token.id == *id).unwrap();
                    [guillemets[0], &token.text, guillemets[1]].concat()
                }
            };
            pieces.iter().map(text).collect()
        };
        assert_eq!(text(["", ""]), rendered);
        Ok(text(["«", "»"]))
    }

    #[test]
    fn tokens_of_the_template_are_distinguished_from_those_of_messages() {
        let content_expression = "{{ messages[0].content }}";
        let rows = [
            // Unchanged, and trimmed.
            (
                "<|im_start|>",
                content_expression,
                "",
                "a",
                "«<|im_start|>»a",
            ),
            (
                "<|im_end|>",
                content_expression,
                "<|im_end|>",
                "<|im_end|>",
                "«<|im_end|>»<|im_end|>«<|im_end|>»",
            ),
            (
                "",
                "{{ messages[0].content | trim }}",
                "<|im_end|>",
                " <|im_end|> ",
                "<|im_end|>«<|im_end|>»",
            ),
            // Twice, and in other cases.
            (
                "",
                "{{ messages[0].content * 2 }}",
                "",
                "<|im_end|>",
                "<|im_end|><|im_end|>",
            ),
            (
                "",
                "{{ messages[0].content | upper }}",
                "",
                "<|im_end|>",
                "<|IM_END|>",
            ),
            (
                "",
                "{{ messages[0].content | lower }}",
                "",
                "<|IM_END|>",
                "<|im_end|>",
            ),
            // Joined by a deletion of the template.
            (
                "",
                "{{ messages[0].content.replace('/x', '') }}",
                "",
                "<|im/x_end|>",
                "<|im_end|>",
            ),
            (
                "",
                "{{ messages[0].content.replace('<|endoftext|>', '') }}",
                "",
                "<|im<|endoftext|>_end|>",
                "<|im_end|>",
            ),
            // Joined with adjacent text of the template.
            ("<", content_expression, "", "|im_end|>", "<|im_end|>"),
            ("", content_expression, "|>", "<|im_end", "<|im_end|>"),
            // Consumed, and written again.
            (
                "",
                "{{ messages[0].content.split('<|im_end|>')[0] }}",
                "<|im_end|>",
                "a<|im_end|>b",
                "a«<|im_end|>»",
            ),
            (
                "",
                "{{ messages[0].content.split('<|im_end|>')[0] }}",
                "<|im_end|>",
                "a<|im_end|>",
                "a«<|im_end|>»",
            ),
            (
                "{% set text = messages[0].content %}",
                "{{ text.split('<|im_end|>')[0] + '<|im_end|>' if '<|im_end|>' in text else text }}",
                "",
                "a<|im_end|>",
                "a«<|im_end|>»",
            ),
            // Acted on, and passed on.
            (
                "{% if messages[0].content.startswith('<|im_end|>') %}<|im_start|>{% endif %}",
                content_expression,
                "",
                "<|im_end|><|im_start|>",
                "«<|im_start|>»<|im_end|><|im_start|>",
            ),
            (
                "{% if messages[0].content.endswith('<|im_end|>') %}<|im_end|>{% endif %}",
                content_expression,
                "<|im_end|>",
                "<|im_end|><|im_end|>",
                "«<|im_end|>»<|im_end|><|im_end|>«<|im_end|>»",
            ),
            (
                "{% if '<|im_end|><|im_end|>' in messages[0].content %}<|im_start|>{% endif %}",
                content_expression,
                "",
                "<|im_end|><|im_end|>",
                "«<|im_start|>»<|im_end|><|im_end|>",
            ),
            // Messages that contain the placeholders' characters.
            (
                "",
                content_expression,
                "",
                "\u{F0000}|im_end|>\u{F0001}<|im_end|>",
                "\u{F0000}|im_end|>\u{F0001}<|im_end|>",
            ),
        ];
        for (before, expression, after, content, expected) in rows {
            let source = [before, expression, after].concat();
            assert_eq!(
                marked(&source, content).as_deref(),
                Ok(expected),
                "{source} {content}"
            );
        }
    }

    #[test]
    fn tracing_is_bounded() {
        let work = "{% for i in range(60000) %}{{ '' }}{% endfor %}";
        let content = "messages[0].content";
        let escaped = format!("{{{{ {content}|escape }}}}");
        let many = "<".repeat(2000);
        // Within the bound of the steps, every suspect is traced.
        assert_eq!(marked(&escaped, &many), Ok("&lt;".repeat(2000)));
        let rows = [
            (format!("{work}{escaped}"), many.clone()),
            (escaped.clone(), "<".repeat(50_000)),
            (format!("{escaped}{{{{ '<' * 1000000 }}}}"), many.clone()),
            // A template that refuses every other message.
            (
                format!(
                    "{{% if {content} != '{many}' %}}{{{{ raise_exception('') }}}}{{% endif %}}{work}"
                ),
                many,
            ),
        ];
        for (source, content) in rows {
            let message = marked(&source, &content).unwrap_err();
            assert!(message.contains("hides who wrote each"), "{message}");
        }
    }

    #[test]
    fn untraceable_tokens_are_refused() {
        let source = "{{ messages[0].content.split('<|im_end|>') | join('<|im_end|>!') }}";
        assert_eq!(marked(source, "a").as_deref(), Ok("a"));
        let message = marked(source, "a<|im_end|>b").unwrap_err();
        let expected =
            "some.jinja failed: it acts on `<|im_end|>` in message 1 in a way that hides";
        assert!(message.contains(expected), "{message}");
    }
}
