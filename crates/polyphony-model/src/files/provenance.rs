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

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::template::{ChatTemplate, FUEL, Message};
use super::tokenizer::ControlTokens;
use crate::error::ModelError;

/// The most steps of all renderings of one conversation together. Template and messages decide how
/// many there are: two or three where the template pays no attention to the suspects, which is usual,
/// and up to four times the number of suspects where it changes each of them.
const MAX_STEPS: u64 = 100 * FUEL;

/// A rendering with stand-ins, which have four bytes, may take this many times the steps of the
/// conversation as it is, and so many more.
const MAX_SLOWDOWN: u64 = 4;
const MAX_MORE_STEPS: u64 = 10_000;

/// The bytes of text that are rewritten and compared for a step.
const BYTES_PER_STEP: usize = 16;

/// A part of a rendered conversation.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Text in which no control token is meant.
    Text(String),
    /// The id of a control token that the template wrote.
    Control(u32),
}

/// Renders a conversation, generation prompt included, and cuts it at the control tokens that the
/// template itself wrote: the text, and the pieces that it consists of.
///
/// # Errors
/// If the template refuses the conversation, or acts on the text of a control token in a message in a
/// way that hides where that text went.
pub(super) fn pieces(
    template: &ChatTemplate,
    messages: &[Message],
    control: &ControlTokens,
) -> Result<(String, Vec<Piece>), ModelError> {
    let (rendered, steps) = template.render_within(messages, true, FUEL)?;
    let suspects = suspects(messages, control);
    let stand_ins = StandIns::absent_from(messages, &rendered, &suspects);
    let mut trace = Trace {
        template,
        messages,
        rendered: &rendered,
        control,
        suspects: &suspects,
        stand_ins: stand_ins.ok_or_else(|| too_many(template))?,
        masked: vec![false; suspects.len()],
        text: rendered.clone(),
        watched: Vec::new(),
        most_steps: MAX_SLOWDOWN * steps + MAX_MORE_STEPS,
        steps_left: Cell::new(MAX_STEPS),
    };
    trace.mask(0..suspects.len())?;
    let literal = trace.survivors()?;

    let text = &trace.text;
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(character) = text[at..].chars().next() {
        match control.longest(&text[at..]) {
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
    Ok((rendered, pieces))
}

fn too_many(template: &ChatTemplate) -> ModelError {
    template.failed(
        &"it acts on characters of control tokens in so many places of the messages that it hides \
          whose control token each is: use another template, or take these characters out of the \
          messages",
    )
}

/// A character of a message that a control token might begin or end with.
struct Suspect<'a> {
    /// The message.
    message: usize,
    /// The byte in it.
    start: usize,
    character: char,
    /// The control token that begins here, if all of it is there.
    whole: Option<&'a str>,
}

/// The suspects in the order in which they are said.
fn suspects<'a>(messages: &[Message], control: &'a ControlTokens) -> Vec<Suspect<'a>> {
    let mut suspects = Vec::new();
    for (message, Message { content, .. }) in messages.iter().enumerate() {
        // Up to here a whole control token reaches, whose beginning stands for all of it.
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

/// What is known of where the text of messages goes.
struct Trace<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    /// The conversation as it is.
    rendered: &'a str,
    control: &'a ControlTokens,
    suspects: &'a [Suspect<'a>],
    stand_ins: StandIns,
    /// Which suspects have a stand-in.
    masked: Vec<bool>,
    /// The conversation with these stand-ins, otherwise equal to `rendered`.
    text: String,
    /// The suspects that begin whole control tokens which the template pays attention to, and these.
    watched: Vec<(usize, &'a str)>,
    /// The most steps of one rendering.
    most_steps: u64,
    steps_left: Cell<u64>,
}

impl<'a> Trace<'a> {
    /// Masks all of these suspects that the template pays no attention to.
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
            self.watched
                .extend(whole.map(|token| (suspects.start, token)));
            return Ok(());
        }
        let middle = suspects.start + suspects.len() / 2;
        self.mask(suspects.start..middle)?;
        self.mask(middle..suspects.end)
    }

    /// The conversation with stand-ins, if the template treats them as what they stand for.
    fn render_masked(&self) -> Result<Option<String>, ModelError> {
        // A template may also refuse what it does not recognize any more.
        let masked = self.render(|suspect, to| to.push(self.character(suspect)))?;
        let same = |masked: &String| {
            let unmasked = self.stand_ins.unmasked(masked);
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
        let twice = self.render(|suspect, to| {
            let Suspect {
                character, whole, ..
            } = self.suspects[suspect];
            if self.masked[suspect] {
                to.extend(whole);
            }
            to.push(character);
        })?;
        let Some(twice) = twice else {
            return Ok(None);
        };
        let same = twice == self.with_whole_tokens_twice(&masked)?;
        Ok(same.then_some(masked))
    }

    /// The conversation with every whole control token that has a stand-in written twice.
    fn with_whole_tokens_twice(&self, masked: &str) -> Result<String, ModelError> {
        let mut twice = String::with_capacity(2 * masked.len());
        let mut rest = self.rendered;
        let mut tokens = 0;
        for character in masked.chars() {
            if self.stand_ins.is_for_whole(character) {
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

    /// Where in `text` the watched tokens come out.
    fn survivors(&self) -> Result<BTreeSet<usize>, ModelError> {
        let mut survivors = BTreeSet::new();
        for &(watched, token) in &self.watched {
            let untraceable = || {
                self.template.failed(&format!(
                    "it acts on `{token}` in message {} in a way that hides whose control token \
                     that is: take that text out of the message",
                    self.suspects[watched].message + 1
                ))
            };
            let twice = self.render(|suspect, to| {
                if suspect == watched {
                    to.push_str(token);
                }
                to.push(self.character(suspect));
            })?;
            let twice = twice.ok_or_else(untraceable)?;
            if twice == self.text || !self.text.contains(token) {
                continue;
            }
            let places = doubled(&self.text, &twice, token);
            self.pay(places.len())?;
            let comes_out_at = |at: &usize| {
                let begins = |text: &str| text.as_bytes()[*at..].starts_with(token.as_bytes());
                !survivors.contains(at) && begins(&self.text) && begins(&twice)
            };
            let place = places.clone().find(comes_out_at);
            survivors.insert(place.ok_or_else(untraceable)?);
        }
        Ok(survivors)
    }

    /// What the template makes of the messages when the suspects are written like this; `None` if it
    /// refuses them.
    ///
    /// # Errors
    /// If all renderings together take too many steps.
    fn render(&self, write: impl Fn(usize, &mut String)) -> Result<Option<String>, ModelError> {
        let mut suspects = self.suspects.iter().enumerate().peekable();
        let mut messages = Vec::with_capacity(self.messages.len());
        let mut bytes = 0;
        for (index, Message { role, content }) in self.messages.iter().enumerate() {
            let mut text = String::with_capacity(content.len());
            let mut from = 0;
            while let Some((number, suspect)) =
                suspects.next_if(|(_, suspect)| suspect.message == index)
            {
                text.push_str(&content[from..suspect.start]);
                write(number, &mut text);
                from = suspect.start + suspect.character.len_utf8();
            }
            text.push_str(&content[from..]);
            bytes += text.len();
            messages.push(Message::new(*role, text));
        }
        let rendered = self
            .template
            .render_within(&messages, true, self.most_steps);
        // How many steps a rendering took that failed is not known.
        let (text, steps) = match rendered {
            Ok((text, steps)) => (Some(text), steps),
            Err(_) => (None, self.most_steps),
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

    /// The character of a suspect, or its stand-in.
    fn character(&self, suspect: usize) -> char {
        let Suspect {
            character, whole, ..
        } = self.suspects[suspect];
        match (self.masked[suspect], whole) {
            (false, _) => character,
            (true, Some(_)) => self.stand_ins.whole[&character],
            (true, None) => self.stand_ins.part[&character],
        }
    }
}

/// Where a token may have been written once more, if that is all that tells one text from the other:
/// what is before such a place and what is behind it is the same.
fn doubled(text: &str, twice: &str, token: &str) -> Range<usize> {
    if twice.len() != text.len() + token.len() {
        return 0..0;
    }
    let alike = |(a, b): &(u8, u8)| a == b;
    let before = text.bytes().zip(twice.bytes()).take_while(alike).count();
    let (text_back, twice_back) = (text.bytes().rev(), twice.bytes().rev());
    let behind = text_back.zip(twice_back).take_while(alike).count();
    text.len() - behind..before + 1
}

/// Private characters that occur nowhere in a conversation, for the suspects.
struct StandIns {
    /// Characters, and what stands for them where they begin a whole control token.
    whole: BTreeMap<char, char>,
    /// Characters, and what stands for them elsewhere.
    part: BTreeMap<char, char>,
    /// Stand-ins of both kinds, and what they stand for.
    back: BTreeMap<char, char>,
}

/// The first of the private characters in planes 15 and 16.
const FIRST_STAND_IN: char = '\u{F0000}';

impl StandIns {
    /// `None` if there are not enough of them.
    fn absent_from(messages: &[Message], rendered: &str, suspects: &[Suspect<'_>]) -> Option<Self> {
        let contents = messages.iter().flat_map(|message| message.content.chars());
        let used = contents.chain(rendered.chars());
        let used: HashSet<char> = used.filter(|used| *used >= FIRST_STAND_IN).collect();
        let edges: BTreeSet<char> = suspects.iter().map(|suspect| suspect.character).collect();
        let mut free = (FIRST_STAND_IN..='\u{FFFFD}')
            .chain('\u{100000}'..='\u{10FFFD}')
            .filter(|character| !used.contains(character));
        let whole: BTreeMap<_, _> = edges.iter().copied().zip(&mut free).collect();
        let part: BTreeMap<_, _> = edges.iter().copied().zip(&mut free).collect();
        let back = whole.iter().chain(&part);
        let back = back.map(|(edge, stand_in)| (*stand_in, *edge)).collect();
        (part.len() == edges.len()).then_some(Self { whole, part, back })
    }

    fn is_for_whole(&self, character: char) -> bool {
        let edge = self.back.get(&character);
        edge.is_some_and(|edge| self.whole[edge] == character)
    }

    /// The characters of a text in place of their stand-ins.
    fn unmasked(&self, text: &str) -> impl Iterator<Item = char> {
        text.chars().map(move |character| {
            if character < FIRST_STAND_IN {
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

    /// The rendered text with the template's own control tokens in guillemets.
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
    fn tracing_ends() {
        let work = "{% for i in range(60000) %}{{ '' }}{% endfor %}";
        let said = "messages[0].content";
        let escaped = format!("{{{{ {said}|escape }}}}");
        let many = "<".repeat(2000);
        // As long as there is little to do, all of it is done.
        assert_eq!(marked(&escaped, &many), Ok("&lt;".repeat(2000)));
        let rows = [
            (format!("{work}{escaped}"), many.clone()),
            (escaped.clone(), "<".repeat(50_000)),
            (format!("{escaped}{{{{ '<' * 1000000 }}}}"), many.clone()),
            // It refuses whatever it does not know.
            (
                format!(
                    "{{% if {said} != '{many}' %}}{{{{ raise_exception('') }}}}{{% endif %}}{work}"
                ),
                many,
            ),
        ];
        for (source, content) in rows {
            let message = marked(&source, &content).unwrap_err();
            assert!(message.contains("hides whose control token"), "{message}");
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
