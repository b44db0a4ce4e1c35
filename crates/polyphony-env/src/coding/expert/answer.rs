//! Reads one suggestion per agent from an endpoint's answer.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::prompt::Review;

/// The suggestion for an agent if the expert leaves its entry empty.
const NO_EDIT: &str = "Your function needs no edit.";

/// The fields of a chat completion that this crate uses.
#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

/// The suggestions in a chat completion, in the order of the drafts.
///
/// # Errors
/// If a suggestion is missing; the error says which.
pub(super) fn suggestions(body: &str, review: &Review<'_>) -> Result<Vec<String>, String> {
    let completion: Completion = serde_json::from_str(body)
        .map_err(|error| format!("it is not a chat completion ({error})"))?;
    let Some(choice) = completion.choices.into_iter().next() else {
        return Err("its list of choices is empty".to_owned());
    };
    let content = choice.message.content.unwrap_or_default();
    let roles: Vec<&str> = review.drafts.iter().map(|draft| draft.role).collect();
    in_text(&content, &roles).map_err(|reason| match choice.finish_reason.as_deref() {
        Some("length") => format!("{reason}, and was cut at the endpoint's length limit"),
        _ => reason,
    })
}

/// The suggestions in a model's text: the first JSON object in it that has all roles. Text around it,
/// such as a Markdown fence or an outer object, is ignored.
fn in_text(text: &str, roles: &[&str]) -> Result<Vec<String>, String> {
    let mut first_reason = None;
    for (start, _) in text.match_indices('{') {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
        let Some(Ok(Value::Object(object))) = values.next() else {
            continue;
        };
        match by_role(&object, roles) {
            Ok(suggestions) => return Ok(suggestions),
            Err(reason) => first_reason = first_reason.or(Some(reason)),
        }
    }
    Err(first_reason.unwrap_or_else(|| "its text contains no complete JSON object".to_owned()))
}

fn by_role(object: &Map<String, Value>, roles: &[&str]) -> Result<Vec<String>, String> {
    roles
        .iter()
        .map(|role| {
            let is_role = |key: &str| key.trim().eq_ignore_ascii_case(role);
            match object.iter().find(|(key, _)| is_role(key)) {
                Some((_, value)) => {
                    suggestion(value).ok_or_else(|| format!("`{role}` in its JSON is not a text"))
                }
                None => Err(format!("its JSON has no `{role}`")),
            }
        })
        .collect()
}

/// Reads a text, or a list of texts, which become lines.
fn suggestion(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(lines) => {
            let lines: Option<Vec<&str>> = lines.iter().map(Value::as_str).collect();
            lines?.join("\n")
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    match text.trim() {
        "" => Some(NO_EDIT.to_owned()),
        text => Some(text.to_owned()),
    }
}
