//! From an endpoint's answer to one suggestion an agent.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::prompt::Review;

/// What an agent is told where the expert has nothing for it.
const NO_EDIT: &str = "Your function needs no edit.";

/// The fields of a chat completion that are used.
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
/// Says what is missing.
pub(super) fn suggestions(body: &str, review: &Review<'_>) -> Result<Vec<String>, String> {
    let completion: Completion = serde_json::from_str(body)
        .map_err(|error| format!("it is no chat completion ({error})"))?;
    let Some(choice) = completion.choices.into_iter().next() else {
        return Err("its list of choices is empty".to_owned());
    };
    let content = choice.message.content.unwrap_or_default();
    let roles: Vec<&str> = review.drafts.iter().map(|draft| draft.role).collect();
    in_text(&content, &roles).map_err(|reason| match choice.finish_reason.as_deref() {
        Some("length") => format!("{reason}, and was cut at the endpoint's limit of length"),
        _ => reason,
    })
}

/// The suggestions in a model's text: the first JSON object in it that has all roles. What stands
/// around it, such as a Markdown fence or an outer object, is passed over.
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
    Err(first_reason.unwrap_or_else(|| "its text holds no whole JSON object".to_owned()))
}

fn by_role(object: &Map<String, Value>, roles: &[&str]) -> Result<Vec<String>, String> {
    roles
        .iter()
        .map(|role| {
            let same = |key: &str| key.trim().eq_ignore_ascii_case(role);
            match object.iter().find(|(key, _)| same(key)) {
                Some((_, value)) => {
                    suggestion(value).ok_or_else(|| format!("`{role}` in its JSON is no text"))
                }
                None => Err(format!("its JSON has no `{role}`")),
            }
        })
        .collect()
}

/// A text, or a list of texts, which is taken as lines.
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
