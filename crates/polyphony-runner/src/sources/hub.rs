//! Models on the Hugging Face hub, through the cache that Python's `huggingface_hub` keeps.
//!
//! Start reading at [`HubModel::obtain`]: what the cache holds, or else what the hub sends.

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::Freshness;

mod download;
mod explain;
mod listing;
mod settings;
mod snapshot;

pub(crate) use listing::cached_models;
pub(crate) use settings::Settings;

use explain::NoConnection;
use settings::Network;
use snapshot::{Kept, Snapshot, is_commit};

/// A model in a repository on the hub: `org/name[@revision][/file.gguf]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    organization: String,
    name: String,
    /// A branch, a tag or a commit.
    revision: String,
    form: Form,
}

/// What of a repository is the model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// The Hugging Face directory that the repository's root is.
    Directory,
    /// One GGUF file, with its folder.
    Gguf(String),
}

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// How a model on the hub is written.
const FORM: &str = "write `hub:org/name`, `hub:org/name@revision` or \
                    `hub:org/name@revision/file.gguf`";

impl HubModel {
    /// Reads what follows `hub:`. A revision that holds a slash cannot be followed by a file.
    ///
    /// # Errors
    /// Names the part that is missing or malformed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some((organization, rest)) = text.split_once('/') else {
            bail!("the organization is missing: {FORM}");
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
            ensure!(
                is_repository_word(part),
                "`{part}` is no name of an organization or a repository: {FORM}"
            );
        }
        ensure!(!revision.is_empty(), "the revision is empty: {FORM}");
        ensure!(is_path(revision), "`{revision}` is no revision: {FORM}");
        let form = match file {
            None => Form::Directory,
            Some(file) if is_gguf(file) && is_path(file) => Form::Gguf(file.to_owned()),
            Some(file) => bail!("`{file}` is no .gguf file in a repository: {FORM}"),
        };
        Ok(Self {
            organization: organization.to_owned(),
            name: name.to_owned(),
            revision: revision.to_owned(),
            form,
        })
    }

    /// Whether it is a whole directory, not one file.
    pub(super) fn is_directory(&self) -> bool {
        self.form == Form::Directory
    }

    /// The repository, as the hub calls it.
    fn repository(&self) -> String {
        format!("{}/{}", self.organization, self.name)
    }

    /// The path of the model in the cache; it is downloaded first if need be.
    ///
    /// # Errors
    /// If the hub refuses it or cannot be reached, or the repository holds no such model: says how
    /// to help.
    pub(super) fn obtain(&self, settings: &Settings, freshness: Freshness) -> Result<PathBuf> {
        let kept = match Snapshot::of_revision(self, settings) {
            Some(snapshot) => snapshot.kept(&self.form),
            None => Kept::Not,
        };
        let kept = match kept {
            Kept::Whole(path) if freshness == Freshness::Cached || is_commit(&self.revision) => {
                return Ok(path);
            }
            Kept::Whole(path) | Kept::Enough(path) => Some(path),
            Kept::Not => None,
        };
        let outcome = match settings.network {
            Network::On => download::download(self, settings),
            Network::Off => Err(NoConnection::offline(self, settings).into()),
        };
        let silence = outcome.as_ref().err();
        let silence = silence.and_then(|error| error.downcast_ref::<NoConnection>());
        if let (Some(silence), Some(path)) = (silence, kept) {
            if settings.network == Network::On {
                log::warn!("taking {self} as it is in the cache: {}", silence.reason());
            }
            return Ok(path);
        }
        outcome.with_context(|| format!("`{self}` could not be obtained"))
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

fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether the hub could call an organization or a repository so. Two hyphens in a row stand for
/// a slash in the names of the cache's folders.
fn is_repository_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !text.contains("--")
        && !text.contains("..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a text is a relative path that stays below the folder that it is taken in, with
/// nothing in it that would confuse a reader.
fn is_path(text: &str) -> bool {
    let inside = |part: &str| !part.is_empty() && part != "." && part != "..";
    text.split('/').all(inside)
        && !text.contains(|one: char| one.is_whitespace() || one.is_control())
        && !text.contains(['\\', ':', '@'])
}

#[cfg(test)]
mod tests;
