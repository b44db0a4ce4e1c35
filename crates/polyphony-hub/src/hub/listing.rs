//! Lists the cached models from the hub, no matter which program downloaded them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    model::{Form, HubModel, MAIN, is_gguf, is_repository_word},
    settings::HubConfig,
    snapshot::{CONFIG, CacheState, OPTIONAL, Snapshot, WEIGHTS, is_commit},
};
use crate::error::{During as _, HubError};

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedModel {
    pub(crate) model: HubModel,
    pub(crate) path: PathBuf,
    /// The size of the files that are read, in bytes.
    pub(crate) bytes: u64,
}

/// The models that can be opened without a network, sorted by name.
///
/// # Errors
/// If the cache cannot be read.
pub(crate) fn cached_models(settings: &HubConfig) -> Result<Vec<CachedModel>, HubError> {
    models_in(&settings.cache).during("reading", &settings.cache)
}

fn models_in(cache: &Path) -> io::Result<Vec<CachedModel>> {
    let mut found = Vec::new();
    for repository in entries(cache)? {
        let folder = name_of(&repository);
        let parts: Vec<&str> = folder.split("--").collect();
        let ["models", organization, name] = parts[..] else {
            continue;
        };
        if !(is_repository_word(organization) && is_repository_word(name)) {
            continue;
        }
        let revisions = revisions(&repository.join("refs"))?;
        for snapshot in entries(&repository.join("snapshots"))? {
            let commit = name_of(&snapshot);
            if !is_commit(&commit) {
                continue;
            }
            let model = |revision: &str, form: Form| HubModel {
                organization: organization.to_owned(),
                name: name.to_owned(),
                revision: revision.to_owned(),
                form,
            };
            let revision = revisions.get(&commit).unwrap_or(&commit);
            let snapshot = Snapshot::at(repository.clone(), &commit);
            if let CacheState::Complete(path) | CacheState::Usable(path) =
                snapshot.cache_state(&Form::Directory)
            {
                let bytes = directory_bytes(&snapshot);
                let model = model(revision, Form::Directory);
                found.push(CachedModel { model, path, bytes });
            }
            // In `hub:org/name@revision/file.gguf`, the revision must not contain a slash.
            let revision = if revision.contains('/') {
                &commit
            } else {
                revision
            };
            for (file, path) in gguf_files(&snapshot.folder())? {
                let bytes = fs::metadata(&path).map_or(0, |file| file.len());
                let model = model(revision, Form::Gguf(file));
                found.push(CachedModel { model, path, bytes });
            }
        }
    }
    found.sort_by_cached_key(|cached| cached.model.to_string());
    Ok(found)
}

/// The size of the files that are read from a Hugging Face directory, in bytes.
fn directory_bytes(snapshot: &Snapshot) -> u64 {
    let mut files = vec![CONFIG.to_owned()];
    files.extend(OPTIONAL.map(str::to_owned));
    if snapshot.file(WEIGHTS).is_file() {
        files.push(WEIGHTS.to_owned());
    } else {
        files.extend(snapshot.shards().unwrap_or_default());
    }
    let bytes = files
        .iter()
        .filter_map(|file| Some(fs::metadata(snapshot.file(file)).ok()?.len()));
    bytes.sum()
}

/// The name of each commit: `main` if that is one of its names, otherwise the first name in alphabetical
/// order.
fn revisions(references: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for (name, path) in files_below(references)? {
        let commit = fs::read_to_string(path)?.trim().to_owned();
        if name == MAIN || !names.contains_key(&commit) {
            names.insert(commit, name);
        }
    }
    Ok(names)
}

/// The GGUF files of a snapshot, with their names in the repository.
fn gguf_files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = files_below(folder)?;
    files.retain(|(name, path)| is_gguf(name) && path.is_file());
    Ok(files)
}

/// All files below a folder by their relative paths, in alphabetical order.
fn files_below(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for path in entries(&folder)? {
            let name = format!("{prefix}{}", name_of(&path));
            if path.is_dir() {
                folders.push((format!("{name}/"), path));
            } else {
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The paths in a folder; empty if the folder does not exist.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
