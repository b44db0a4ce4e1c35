//! The cached files of a repository.
//!
//! The layout is that of Python's `huggingface_hub`: under `models--org--name`, `refs/BRANCH` holds
//! a commit, `snapshots/COMMIT` the files of that commit as links into `blobs`, and
//! `.no_exist/COMMIT` an empty file for each file that the repository is known not to have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{
    model::{Form, HubModel, MAX_NAME_BYTES},
    settings::HubConfig,
};
use crate::error::{During as _, HubError};

/// The files of a Hugging Face directory other than the weights.
pub(super) const CONFIG: &str = "config.json";
pub(super) const OPTIONAL: [&str; 4] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// The file that every repository with an adapter has.
pub(super) const ADAPTER: &str = "adapter_config.json";
/// The weights in one file, or the index of the files that contain them.
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The largest index that is read, in bytes, and the most files that it may name.
const MAX_INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 10_000;

/// The files of one commit in the cache.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The folder of the repository in the cache.
    repository: PathBuf,
    pub(super) commit: String,
}

/// How complete a model is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheState {
    /// The complete model, at this path.
    Complete(PathBuf),
    /// Everything that is needed to open the model. The repository may have optional files that are not
    /// cached.
    Usable(PathBuf),
    /// Not enough to open the model.
    Missing,
}

impl Snapshot {
    /// The snapshot of a commit.
    pub(super) fn of_commit(model: &HubModel, settings: &HubConfig, commit: &str) -> Self {
        let folder = format!("models--{}--{}", model.organization, model.name);
        Self::at(settings.cache.join(folder), commit)
    }

    /// The snapshot of a commit of the repository that has this folder.
    pub(super) fn at(repository: PathBuf, commit: &str) -> Self {
        Self {
            repository,
            commit: commit.to_owned(),
        }
    }

    /// The snapshot of the commit to which the model's revision referred when the hub was last asked.
    pub(super) fn of_revision(model: &HubModel, settings: &HubConfig) -> Option<Self> {
        let mut snapshot = Self::of_commit(model, settings, &model.revision);
        if !is_commit(&model.revision) {
            let commit = fs::read_to_string(snapshot.reference(&model.revision)).ok()?;
            commit.trim().clone_into(&mut snapshot.commit);
        }
        is_commit(&snapshot.commit).then_some(snapshot)
    }

    /// The folder of the commit's files.
    pub(super) fn folder(&self) -> PathBuf {
        self.repository.join("snapshots").join(&self.commit)
    }

    /// The path of a file of the commit, whether or not it exists.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.folder().join(path)
    }

    /// The folder of the files' contents.
    pub(super) fn blobs(&self) -> PathBuf {
        self.repository.join("blobs")
    }

    /// How complete the model is.
    pub(super) fn cache_state(&self, form: &Form) -> CacheState {
        match form {
            Form::Gguf(file) => {
                let path = self.file(file);
                if path.is_file() {
                    CacheState::Complete(path)
                } else {
                    CacheState::Missing
                }
            }
            Form::Directory => {
                if !(self.file(CONFIG).is_file() && self.has_weights()) {
                    return CacheState::Missing;
                }
                let is_settled =
                    |name: &&str| self.file(name).is_file() || self.absence(name).exists();
                if OPTIONAL.iter().all(is_settled) {
                    CacheState::Complete(self.folder())
                } else {
                    CacheState::Usable(self.folder())
                }
            }
        }
    }

    fn has_weights(&self) -> bool {
        self.file(WEIGHTS).is_file()
            || self
                .shards()
                .is_ok_and(|shards| shards.iter().all(|shard| self.file(shard).is_file()))
    }

    /// The files that contain the weights.
    ///
    /// # Errors
    /// If the index is missing or damaged, or names files outside of the repository's root.
    pub(super) fn shards(&self) -> Result<BTreeSet<String>, HubError> {
        let path = self.file(INDEX);
        let wrong = |reason: String, source| HubError::Index {
            path: path.clone(),
            reason,
            source,
        };
        let text = self.index().during("reading", &path)?;
        if text.len() as u64 > MAX_INDEX_BYTES {
            let reason = format!("has more than {MAX_INDEX_BYTES} bytes");
            return Err(wrong(reason, None));
        }
        let Index { weight_map } = serde_json::from_slice(&text)
            .map_err(|error| wrong("is not the index of a model".to_owned(), Some(error)))?;
        let mut shards = BTreeSet::new();
        for (tensor, shard) in weight_map {
            if !is_plain(&shard) {
                let reason =
                    format!("puts {tensor} into `{shard}`, which is not a file in the same folder");
                return Err(wrong(reason, None));
            }
            shards.insert(shard);
        }
        if shards.len() > MAX_SHARDS {
            let reason = format!("names more than {MAX_SHARDS} files");
            return Err(wrong(reason, None));
        }
        if shards.is_empty() {
            return Err(wrong("names no files".to_owned(), None));
        }
        Ok(shards)
    }

    /// The start of the index, up to one byte more than the limit, which reveals an index that is too large.
    /// The index must be a regular file, because a pipe or a device may have no end.
    fn index(&self) -> io::Result<Vec<u8>> {
        let path = self.file(INDEX);
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = Vec::new();
        let mut start = fs::File::open(path)?.take(MAX_INDEX_BYTES + 1);
        start.read_to_end(&mut text)?;
        Ok(text)
    }

    /// Links a file of the commit to the blob with its contents. Copies the blob if the file system does not
    /// support links.
    pub(super) fn link(&self, file: &str, blob: &str) -> io::Result<()> {
        let path = self.file(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let up = "../".repeat(file.split('/').count() + 1);
        match symlink(&format!("{up}blobs/{blob}"), &path) {
            Ok(()) => Ok(()),
            Err(_) => fs::copy(self.blobs().join(blob), &path).map(drop),
        }
    }

    /// Records that the repository has no such file.
    pub(super) fn record_absence(&self, name: &str) -> io::Result<()> {
        let path = self.absence(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, "")
    }

    /// Records that a branch or tag refers to this commit.
    pub(super) fn record_revision(&self, revision: &str) -> io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, &self.commit)
    }

    fn absence(&self, name: &str) -> PathBuf {
        self.repository
            .join(".no_exist")
            .join(&self.commit)
            .join(name)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.repository.join("refs").join(revision)
    }

    /// The lock for downloading this commit, in addition to those of `huggingface_hub`.
    pub(super) fn commit_lock(&self, settings: &HubConfig) -> PathBuf {
        self.locks(settings)
            .join(format!("{}.polyphony.lock", self.commit))
    }

    /// The lock for downloading a blob. It is the same lock that `huggingface_hub` uses.
    pub(super) fn blob_lock(&self, settings: &HubConfig, blob: &str) -> PathBuf {
        self.locks(settings).join(format!("{blob}.lock"))
    }

    fn locks(&self, settings: &HubConfig) -> PathBuf {
        let folder = self.repository.file_name().unwrap_or_default();
        settings.cache.join(".locks").join(folder)
    }
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The part of the weights' index that is read.
#[derive(Deserialize)]
struct Index {
    /// The file of every tensor.
    weight_map: BTreeMap<String, String>,
}

/// Whether a text is a plain file name on every operating system, so that it cannot lead to another folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let normal = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    normal
        && name.len() <= MAX_NAME_BYTES
        && !name.contains(|character: char| {
            character.is_control() || ['/', '\\', ':'].contains(&character)
        })
}

/// Whether a revision is a full commit hash, which always refers to the same commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
