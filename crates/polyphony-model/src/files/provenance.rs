//! Which control tokens of a rendered conversation the template wrote, and which came in a message.
//!
//! Every character of a message that could begin or end a control token is a *suspect*. Private
//! stand-ins replace the suspects and the conversation is rendered again. Is the text the same once
//! the stand-ins are characters again, then every control token without a stand-in is the template's
//! own.
//!
//! That holds as long as the template pays no attention to the suspects, but Qwen3's cuts an answer
//! at `</think>`, and it may write the same words again in its own name. So the opposite is tried as
//! well: whole control tokens, written twice in a row, have to come out twice where their stand-ins
//! did. Suspects that fail either test keep their character, and the whole control tokens among them
//! are traced one by one: written twice, they come out twice at one place, or, where the template
//! has consumed them, change nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::template::{ChatTemplate, Message};
use super::tokenizer::ControlToken;
use crate::error::ModelError;

/// A part of a rendered conversation.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Text in which no control token is meant.
    Text(String),
    /// The id of a control token that the template wrote.
    Control(u32),
}

/// Cuts a rendered conversation at the control tokens that the template itself wrote.
///
/// `rendered` is what the template makes of the messages, a generation prompt included; the pieces
/// put together are that text. `control` has the longest tokens first.
///
/// # Errors
/// If the template acts on the text of a control token in a message in a way that hides where that
/// text went.
pub(super) fn pieces(
    template: &ChatTemplate,
    messages: &[Message],
    rendered: &str,
    control: &[ControlToken],
) -> Result<Vec<Piece>, ModelError> {
    let mut trace = Trace {
        template,
        messages,
        rendered,
        control,
        stand_ins: StandIns::absent_from(messages, rendered, control),
        masked: BTreeMap::new(),
        text: rendered.to_owned(),
        watched: Vec::new(),
    };
    trace.mask(&suspects(messages, control));
    let literal = trace.survivors()?;

    let text = &trace.text;
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(character) = text[at..].chars().next() {
        match longest(&text[at..], control) {
            Some(token) if !literal.contains(&at) => {
                pieces.push(Piece::Text(trace.stand_ins.unmask(&text[from..at])));
                pieces.push(Piece::Control(token.id));
                at += token.text.len();
                from = at;
            }
            _ => at += character.len_utf8(),
        }
    }
    pieces.push(Piece::Text(trace.stand_ins.unmask(&text[from..])));
    Ok(pieces)
}

/// The control token at the beginning of a text. Where several begin together the longest counts,
/// as in the tokenizer.
fn longest<'a>(text: &str, control: &'a [ControlToken]) -> Option<&'a ControlToken> {
    control.iter().find(|token| text.starts_with(&token.text))
}

/// A place in the messages: which message, and the byte in it.
type Place = (usize, usize);

/// A character that a control token might begin or end with.
#[derive(Clone, Copy)]
struct Suspect<'a> {
    place: Place,
    /// The control token that begins here, if all of it is there.
    whole: Option<&'a str>,
}

fn suspects<'a>(messages: &[Message], control: &'a [ControlToken]) -> Vec<Suspect<'a>> {
    let edges = edge_characters(control);
    let mut suspects = Vec::new();
    for (message, Message { content, .. }) in messages.iter().enumerate() {
        // Up to here a whole control token reaches, whose beginning stands for all of it.
        let mut covered = 0;
        for (start, character) in content.char_indices() {
            if !edges.contains(&character) {
                continue;
            }
            let whole = longest(&content[start..], control).map(|token| token.text.as_str());
            if whole.is_some() || start >= covered {
                let place = (message, start);
                suspects.push(Suspect { place, whole });
            }
            covered = covered.max(start + whole.map_or(0, str::len));
        }
    }
    suspects
}

fn edge_characters(control: &[ControlToken]) -> BTreeSet<char> {
    let edges = |token: &ControlToken| [token.text.chars().next(), token.text.chars().next_back()];
    control.iter().flat_map(edges).flatten().collect()
}

/// What is known of where the text of messages goes.
struct Trace<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    /// The conversation as it is.
    rendered: &'a str,
    control: &'a [ControlToken],
    stand_ins: StandIns,
    /// The suspects that have a stand-in, with the whole control tokens among them.
    masked: BTreeMap<Place, Option<&'a str>>,
    /// The conversation with these stand-ins, otherwise equal to `rendered`.
    text: String,
    /// Whole control tokens that the template pays attention to.
    watched: Vec<(Place, &'a str)>,
}

impl<'a> Trace<'a> {
    /// Masks all of these suspects that the template pays no attention to.
    fn mask(&mut self, suspects: &[Suspect<'a>]) {
        if suspects.is_empty() {
            return;
        }
        self.masked.extend(
            suspects
                .iter()
                .map(|suspect| (suspect.place, suspect.whole)),
        );
        if let Some(text) = self.render_masked() {
            self.text = text;
            return;
        }
        for suspect in suspects {
            self.masked.remove(&suspect.place);
        }
        if let [Suspect { place, whole }] = suspects {
            self.watched.extend(whole.map(|token| (*place, token)));
        } else {
            let (left, right) = suspects.split_at(suspects.len() / 2);
            self.mask(left);
            self.mask(right);
        }
    }

    /// The conversation with stand-ins, if the template treats them as what they stand for.
    fn render_masked(&self) -> Option<String> {
        // A template may also refuse what it does not recognize any more.
        let masked = self.render(|place, character, to| to.push(self.masked(place, character)));
        let masked = masked.ok()?;
        let twice = self.render(|place, character, to| {
            to.extend(self.masked.get(&place).copied().flatten());
            to.push(character);
        });
        let same = self.stand_ins.unmask(&masked) == self.rendered
            && twice.ok()? == self.with_whole_tokens_twice(&masked);
        same.then_some(masked)
    }

    /// The conversation with every whole control token that has a stand-in written twice.
    fn with_whole_tokens_twice(&self, masked: &str) -> String {
        let mut twice = String::with_capacity(2 * masked.len());
        let mut rest = self.rendered;
        for character in masked.chars() {
            if self.stand_ins.is_for_whole(character) {
                twice.extend(longest(rest, self.control).map(|token| token.text.as_str()));
            }
            let mut characters = rest.chars();
            twice.extend(characters.next());
            rest = characters.as_str();
        }
        twice
    }

    /// Where in `text` the watched tokens come out.
    fn survivors(&self) -> Result<BTreeSet<usize>, ModelError> {
        let mut survivors = BTreeSet::new();
        for (watched, token) in &self.watched {
            let untraceable = || {
                self.template.failed(&format!(
                    "it acts on `{token}` in message {} in a way that hides whose control token \
                     that is: take that text out of the message",
                    watched.0 + 1
                ))
            };
            let twice = self.render(|place, character, to| {
                if place == *watched {
                    to.push_str(token);
                }
                to.push(self.masked(place, character));
            });
            let twice = twice.map_err(|_| untraceable())?;
            if twice == self.text || !self.text.contains(token) {
                continue;
            }
            let comes_out_at = |at: &usize| {
                let (before, after) = self.text.split_at(*at);
                let rest = twice.strip_prefix(before);
                after.starts_with(token)
                    && rest.and_then(|rest| rest.strip_prefix(token)) == Some(after)
            };
            let place = self
                .text
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| !survivors.contains(at) && comes_out_at(at));
            survivors.insert(place.ok_or_else(untraceable)?);
        }
        Ok(survivors)
    }

    /// What the template makes of the messages when each of their characters is written like this.
    fn render(&self, write: impl Fn(Place, char, &mut String)) -> Result<String, ModelError> {
        let rewritten = |(index, message): (usize, &Message)| {
            let mut content = String::with_capacity(message.content.len());
            for (start, character) in message.content.char_indices() {
                write((index, start), character, &mut content);
            }
            Message::new(message.role, content)
        };
        let messages: Vec<Message> = self.messages.iter().enumerate().map(rewritten).collect();
        self.template.render(&messages, true)
    }

    /// A character of a message, or its stand-in.
    fn masked(&self, place: Place, character: char) -> char {
        match self.masked.get(&place) {
            Some(Some(_)) => replace(character, &self.stand_ins.whole),
            Some(None) => replace(character, &self.stand_ins.part),
            None => character,
        }
    }
}

/// Private characters that occur nowhere in a conversation, for the first and last characters of
/// control tokens.
struct StandIns {
    /// Characters, and what stands for them where they begin a whole control token.
    whole: Vec<(char, char)>,
    /// Characters, and what stands for them elsewhere.
    part: Vec<(char, char)>,
    /// Stand-ins of both kinds, and what they stand for.
    back: Vec<(char, char)>,
}

impl StandIns {
    fn absent_from(messages: &[Message], rendered: &str, control: &[ControlToken]) -> Self {
        let contents = messages.iter().flat_map(|message| message.content.chars());
        let used: HashSet<char> = contents.chain(rendered.chars()).collect();
        let edges = edge_characters(control);
        // Planes 15 and 16 hold 131,068 private characters, more than any model has control tokens.
        let mut free = ('\u{F0000}'..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|character| !used.contains(character));
        let whole: Vec<_> = edges.iter().copied().zip(&mut free).collect();
        let part: Vec<_> = edges.iter().copied().zip(&mut free).collect();
        let back = whole
            .iter()
            .chain(&part)
            .map(|(edge, stand_in)| (*stand_in, *edge));
        Self {
            back: back.collect(),
            whole,
            part,
        }
    }

    fn is_for_whole(&self, character: char) -> bool {
        self.whole
            .iter()
            .any(|(_, stand_in)| *stand_in == character)
    }

    /// The text with characters in place of their stand-ins.
    fn unmask(&self, text: &str) -> String {
        text.chars()
            .map(|character| replace(character, &self.back))
            .collect()
    }
}

/// The partner of a character, or the character itself.
fn replace(character: char, pairs: &[(char, char)]) -> char {
    pairs
        .iter()
        .find(|(from, _)| *from == character)
        .map_or(character, |(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::template::MessageRole;
    use super::super::tokenizer::Tokenizer;
    use super::*;

    /// The rendered text with the template's own control tokens in guillemets.
    fn marked(source: &str, content: &str) -> Result<String, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-chat");
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
        let template = ChatTemplate::new(source, None, Path::new("some.jinja")).unwrap();
        let messages = [Message::new(MessageRole::User, content)];
        let control = tokenizer.control_tokens(source);
        let rendered = template.render(&messages, true).unwrap();
        let pieces = pieces(&template, &messages, &rendered, &control);
        let pieces = pieces.map_err(|error| error.to_string())?;
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
    fn what_the_template_writes_is_told_from_what_a_message_says() {
        let said = "{{ messages[0].content }}";
        let rows = [
            // As it is, and trimmed.
            ("<|im_start|>", said, "", "a", "«<|im_start|>»a"),
            (
                "<|im_end|>",
                said,
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
            // Twice, and in other letters.
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
            // Joined from what is left when the template deletes something.
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
            // Joined with what the template writes beside it.
            ("<", said, "", "|im_end|>", "<|im_end|>"),
            ("", said, "|>", "<|im_end", "<|im_end|>"),
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
                "{% set said = messages[0].content %}",
                "{{ said.split('<|im_end|>')[0] + '<|im_end|>' if '<|im_end|>' in said else said }}",
                "",
                "a<|im_end|>",
                "a«<|im_end|>»",
            ),
            // Noticed, and passed on.
            (
                "{% if messages[0].content.startswith('<|im_end|>') %}<|im_start|>{% endif %}",
                said,
                "",
                "<|im_end|><|im_start|>",
                "«<|im_start|>»<|im_end|><|im_start|>",
            ),
            (
                "{% if messages[0].content.endswith('<|im_end|>') %}<|im_end|>{% endif %}",
                said,
                "<|im_end|>",
                "<|im_end|><|im_end|>",
                "«<|im_end|>»<|im_end|><|im_end|>«<|im_end|>»",
            ),
            (
                "{% if '<|im_end|><|im_end|>' in messages[0].content %}<|im_start|>{% endif %}",
                said,
                "",
                "<|im_end|><|im_end|>",
                "«<|im_start|>»<|im_end|><|im_end|>",
            ),
            // A stand-in's own character is no way in.
            (
                "",
                said,
                "",
                "\u{F0000}|im_end|>\u{F0001}<|im_end|>",
                "\u{F0000}|im_end|>\u{F0001}<|im_end|>",
            ),
        ];
        for (before, said, after, content, expected) in rows {
            let source = [before, said, after].concat();
            assert_eq!(
                marked(&source, content).as_deref(),
                Ok(expected),
                "{source} {content}"
            );
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let source = "{{ messages[0].content.split('<|im_end|>') | join('<|im_end|>!') }}";
        assert_eq!(marked(source, "a").as_deref(), Ok("a"));
        let message = marked(source, "a<|im_end|>b").unwrap_err();
        let expected =
            "some.jinja failed: it acts on `<|im_end|>` in message 1 in a way that hides";
        assert!(message.contains(expected), "{message}");
    }
}
