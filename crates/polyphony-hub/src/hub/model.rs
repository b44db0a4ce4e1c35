//! Names of models on the hub.

use std::fmt;

/// A model in a repository on the hub: `org/name[@revision][/file.gguf]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    pub(super) organization: String,
    pub(super) name: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
    pub(super) form: Form,
}

/// The part of a repository that is the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The repository's root, a Hugging Face directory.
    Directory,
    /// One GGUF file, by its path in the repository.
    Gguf(String),
}

/// The longest name of a file that file systems allow, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The longest name of an organization or a repository that the hub allows, in bytes.
const MAX_WORD_BYTES: usize = 96;

/// The default branch.
pub(super) const MAIN: &str = "main";

/// The hint at the right form of a name, for error messages.
pub(super) const FORM: &str = "write `hub:org/name`, `hub:org/name@revision` or \
                    `hub:org/name@revision/file.gguf`";

impl HubModel {
    /// Parses the part after `hub:`. A file cannot follow a revision that contains a slash.
    ///
    /// # Errors
    /// Names the part that is missing or malformed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((organization, rest)) = text.split_once('/') else {
            return Err(format!("the organization is missing: {FORM}"));
        };
        let (name, revision, file) = match rest.find(['@', '/']) {
            None => (rest, MAIN, None),
            Some(end) => {
                let (name, after) = (&rest[..end], &rest[end + 1..]);
                if rest.as_bytes()[end] == b'/' {
                    (name, MAIN, Some(after))
                } else {
                    match after.split_once('/') {
                        Some((revision, file)) if is_gguf(file) => (name, revision, Some(file)),
                        _ => (name, after, None),
                    }
                }
            }
        };
        for part in [organization, name] {
            if !is_repository_word(part) {
                return Err(format!(
                    "`{part}` is not a name of an organization or a repository: {FORM}"
                ));
            }
        }
        if revision.is_empty() {
            return Err(format!("the revision is empty: {FORM}"));
        }
        if !is_path(revision) {
            return Err(format!("`{revision}` is not a revision: {FORM}"));
        }
        let form = match file {
            None => Form::Directory,
            Some(file) if is_gguf(file) && is_path(file) => Form::Gguf(file.to_owned()),
            Some(file) => {
                return Err(format!(
                    "`{file}` is not a .gguf file in a repository: {FORM}"
                ));
            }
        };
        Ok(Self {
            organization: organization.to_owned(),
            name: name.to_owned(),
            revision: revision.to_owned(),
            form,
        })
    }

    /// Whether the model is a directory and not a single file.
    pub(crate) fn is_directory(&self) -> bool {
        self.form == Form::Directory
    }

    /// The repository's name on the hub.
    pub(super) fn repository(&self) -> String {
        format!("{}/{}", self.organization, self.name)
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hub:{}/{}", self.organization, self.name)?;
        if self.revision != MAIN {
            write!(formatter, "@{}", self.revision)?;
        }
        match &self.form {
            Form::Directory => Ok(()),
            Form::Gguf(file) => write!(formatter, "/{file}"),
        }
    }
}

pub(super) fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether a text can be the name of an organization or a repository on the hub. It must not contain two
/// hyphens in a row, which stand for a slash in the names of the cache's folders.
pub(super) fn is_repository_word(text: &str) -> bool {
    text.len() <= MAX_WORD_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !text.contains("--")
        && !text.contains("..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a text is a relative path that stays below its folder and has no confusing characters.
pub(super) fn is_path(text: &str) -> bool {
    let is_plain_part = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_NAME_BYTES
    };
    text.split('/').all(is_plain_part)
        && !text.contains(|character: char| character.is_whitespace() || character.is_control())
        && !text.contains(['\\', ':', '@'])
}
