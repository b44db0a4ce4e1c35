//! Downloads models from the hub into the cache: exactly the files that are read.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    blob::BlobFetch,
    client::{Failure, HubClient, RemoteFile},
    explain::{explain, first_file},
    model::{Form, HubModel},
    settings::{FOLDER_VARIABLE, HubConfig},
    snapshot::{ADAPTER, CONFIG, INDEX, OPTIONAL, Snapshot, WEIGHTS},
};
use crate::{
    error::{During as _, HubError},
    lock::lock,
    transfer::Transfer,
};

/// The largest file with weights, in bytes. The hub itself accepts no larger file.
const MAX_WEIGHT_BYTES: u64 = 500_000_000_000;

/// The largest other file, in bytes. A larger file would not be opened.
const MAX_OTHER_BYTES: u64 = 64 << 20;

/// The maximum number of GGUF files that an error lists.
const MAX_HINTS: usize = 20;

/// Fetches the files of a model that are not cached. Returns the model's path in the cache.
///
/// # Errors
/// If the hub does not answer ([`HubError::Unreachable`]), if it refuses, or if the repository has no
/// such model.
pub(super) fn download(
    model: &HubModel,
    settings: &HubConfig,
    on_transfer: &dyn Fn(Transfer<'_>),
) -> Result<PathBuf, HubError> {
    let first = first_file(&model.form);
    let explain = |failure| explain(failure, first, model, settings);
    let client = HubClient::new(model, settings).map_err(explain)?;
    let commit = client.commit(&model.revision).map_err(explain)?;
    let snapshot = Snapshot::of_commit(model, settings, &commit);
    let _lock = locked(&snapshot.commit_lock(settings), settings)?;
    let download = Download {
        model,
        settings,
        client,
        snapshot,
        on_transfer,
    };
    let path = match &model.form {
        Form::Directory => download.directory()?,
        Form::Gguf(file) => download.gguf(file)?,
    };
    // Recorded last, so that a revision never refers to an incomplete model.
    let recorded = download.snapshot.record_revision(&model.revision);
    recorded.map_err(|source| unwritable(source, settings))?;
    Ok(path)
}

/// The download of one commit.
struct Download<'a> {
    model: &'a HubModel,
    settings: &'a HubConfig,
    client: HubClient<'a>,
    snapshot: Snapshot,
    on_transfer: &'a dyn Fn(Transfer<'_>),
}

impl Download<'_> {
    fn gguf(&self, file: &str) -> Result<PathBuf, HubError> {
        let files = self.list(&[file])?;
        match files.iter().find(|found| found.path == file) {
            Some(found) => self.fetch(found)?,
            None => {
                return Err(HubError::NoFile {
                    file: file.to_owned(),
                    hint: self.gguf_files_instead(),
                });
            }
        }
        Ok(self.snapshot.file(file))
    }

    fn directory(&self) -> Result<PathBuf, HubError> {
        let mut names = vec![CONFIG, WEIGHTS, INDEX, ADAPTER];
        names.extend(OPTIONAL);
        let files = self.list(&names)?;
        let find = |name: &str| files.iter().find(|file| file.path == name);
        let full_model = find(WEIGHTS).or(find(INDEX)).and(find(CONFIG));
        if let (None, Some(_)) = (full_model, find(ADAPTER)) {
            return Err(HubError::Adapter {
                repository: self.model.repository(),
                revision: self.model.revision.clone(),
                model: self.model.to_string(),
            });
        }
        match find(CONFIG) {
            Some(config) => self.fetch(config)?,
            None => {
                let lacks = format!("no {CONFIG}, so it is not a model in Hugging Face format");
                return Err(self.not_a_model(lacks));
            }
        }
        for name in OPTIONAL {
            match find(name) {
                Some(file) => self.fetch(file)?,
                None => {
                    let recorded = self.snapshot.record_absence(name);
                    recorded.map_err(|source| unwritable(source, self.settings))?;
                }
            }
        }
        match (find(WEIGHTS), find(INDEX)) {
            (Some(weights), _) => self.fetch(weights)?,
            (None, Some(index)) => self.shards(index)?,
            (None, None) => {
                let lacks =
                    format!("neither {WEIGHTS} nor {INDEX}, and other weights are not read");
                return Err(self.not_a_model(lacks));
            }
        }
        Ok(self.snapshot.folder())
    }

    /// Fetches the index of the weights, then exactly the files that it names.
    fn shards(&self, index: &RemoteFile) -> Result<(), HubError> {
        self.fetch(index)?;
        let shards = self.snapshot.shards()?;
        let names: Vec<&str> = shards.iter().map(String::as_str).collect();
        let files = self.list(&names)?;
        for name in names {
            let Some(shard) = files.iter().find(|file| file.path == name) else {
                return Err(HubError::NoFile {
                    file: name.to_owned(),
                    hint: format!(", which {INDEX} names"),
                });
            };
            self.fetch(shard)?;
        }
        Ok(())
    }

    /// The files with these names, as far as the repository contains them.
    fn list(&self, names: &[&str]) -> Result<Vec<RemoteFile>, HubError> {
        let files = self.client.files(&self.snapshot.commit, names);
        files.map_err(|failure| self.explain(failure, names.first().unwrap_or(&"")))
    }

    /// Fetches a file, unless it is cached.
    fn fetch(&self, file: &RemoteFile) -> Result<(), HubError> {
        if self.snapshot.file(&file.path).exists() {
            return Ok(());
        }
        let is_small = file.path == CONFIG || file.path == INDEX || OPTIONAL.contains(&&*file.path);
        let most = if is_small {
            MAX_OTHER_BYTES
        } else {
            MAX_WEIGHT_BYTES
        };
        if file.bytes > most {
            return Err(HubError::TooLarge {
                file: file.path.clone(),
                bytes: file.bytes,
                most,
            });
        }
        let name = file.contents.blob();
        let _lock = locked(&self.snapshot.blob_lock(self.settings, name), self.settings)?;
        let blobs = self.snapshot.blobs();
        fs::create_dir_all(&blobs).during("making", &blobs)?;
        let fetch = BlobFetch {
            client: &self.client,
            settings: self.settings,
            commit: &self.snapshot.commit,
            file,
            on_transfer: self.on_transfer,
        };
        let fetched = fetch.place_at(&blobs.join(name));
        fetched.map_err(|failure| self.explain(failure, &file.path))?;
        let link = self.snapshot.file(&file.path);
        self.snapshot.link(&file.path, name).during("making", &link)
    }

    fn not_a_model(&self, lacks: String) -> HubError {
        HubError::NotAModel {
            lacks,
            hint: self.gguf_files_instead(),
        }
    }

    /// A hint at the repository's GGUF files, if it has any.
    fn gguf_files_instead(&self) -> String {
        let names = self.client.gguf_names(&self.snapshot.commit);
        let mut names = names.unwrap_or_default();
        let Some(first) = names.first() else {
            return String::new();
        };
        let model = HubModel {
            form: Form::Gguf(first.clone()),
            ..self.model.clone()
        };
        if names.len() > MAX_HINTS {
            names.truncate(MAX_HINTS);
            names.push("…".to_owned());
        }
        format!(
            ". It has GGUF files: name one, such as `{model}` ({})",
            names.join(", ")
        )
    }

    fn explain(&self, failure: Failure, file: &str) -> HubError {
        explain(failure, file, self.model, self.settings)
    }
}

/// Takes a lock in the cache. The folder of the lock file is created if needed.
fn locked(path: &Path, settings: &HubConfig) -> Result<File, HubError> {
    let take = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        lock(path)
    };
    take().map_err(|source| unwritable(source, settings))
}

fn unwritable(source: io::Error, settings: &HubConfig) -> HubError {
    HubError::Folder {
        path: settings.cache.clone(),
        variable: FOLDER_VARIABLE,
        source,
    }
}
