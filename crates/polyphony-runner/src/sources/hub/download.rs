//! Fetching a model from the hub into the cache.
//!
//! The crate `hf-hub` asks the hub, finds the token and keeps the cache's layout. Two things are
//! added here. Its downloads start over when they broke off (huggingface/hf-hub issue 196), so
//! large files are fetched piece by piece and go on where they stopped. And it takes what a server
//! sends for the file, so sizes and digests are checked before a file counts as there.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use hf_hub::{
    HFError, HFRepositorySync, RepoTypeModel,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
    repository::RepoTreeEntry,
};
use sha1_smol::Sha1;

use super::{
    super::{digest::Sha256Digest, lock::lock, transfer::Transfer},
    Form, HubModel, Settings,
    explain::{explain, first_file, is_silence},
    snapshot::{ADAPTER, CONFIG, INDEX, OPTIONAL, Snapshot, WEIGHTS, is_commit},
};

/// Fetches what the cache does not hold of a model; returns the model's path in the cache.
///
/// # Errors
/// If the hub does not answer, which is a [`NoConnection`](super::NoConnection), if it refuses, or
/// if the repository holds no such model.
pub(super) fn download(model: &HubModel, settings: &Settings) -> Result<PathBuf> {
    let first = first_file(&model.form);
    let explain = |error| explain(error, first, model, settings);
    let client = settings.client().map_err(explain)?;
    let repository = client.model(&model.organization, &model.name);
    let info = repository.info().revision(&model.revision);
    let info = info
        .expand(vec!["sha".to_owned()])
        .send()
        .map_err(explain)?;
    let commit = info.sha.filter(|commit| is_commit(commit));
    let commit = commit.with_context(|| {
        let endpoint = &settings.endpoint;
        format!(
            "{endpoint} does not say which commit `{}` is",
            model.revision
        )
    })?;
    let snapshot = Snapshot::of_commit(model, settings, &commit);
    let context = || {
        let cache = settings.cache.display();
        format!("{cache} cannot hold models: set HF_HOME to a folder that can")
    };
    let lock_path = snapshot.lock_path(settings);
    if let Some(folder) = lock_path.parent() {
        fs::create_dir_all(folder).with_context(context)?;
    }
    let _lock = lock(&lock_path).with_context(context)?;
    let download = Download {
        model,
        settings,
        repository,
        snapshot,
    };
    let path = match &model.form {
        Form::Directory => download.directory()?,
        Form::Gguf(file) => download.gguf(file)?,
    };
    // Only now, so that the revision never leads to half a model.
    let noted = download.snapshot.note_revision(&model.revision);
    noted.with_context(context)?;
    Ok(path)
}

/// The fetching of one commit.
struct Download<'a> {
    model: &'a HubModel,
    settings: &'a Settings,
    repository: HFRepositorySync<RepoTypeModel>,
    snapshot: Snapshot,
}

/// A file that the repository has.
struct Listed {
    path: String,
    bytes: u64,
    storage: Storage,
}

/// Where the hub keeps a file.
enum Storage {
    /// In the repository itself: a small one.
    Git,
    /// Apart from it, named by its SHA-256 digest. The repository holds a pointer with that digest,
    /// whose git object id this is.
    Large { pointer: String },
}

impl Download<'_> {
    fn gguf(&self, file: &str) -> Result<PathBuf> {
        let listed = self.list(&[file])?;
        match listed.iter().find(|listed| listed.path == file) {
            Some(listed) => self.fetch(listed)?,
            None => bail!(
                "the repository has no file {file}{}",
                self.gguf_files_instead()
            ),
        }
        Ok(self.snapshot.file(file))
    }

    fn directory(&self) -> Result<PathBuf> {
        let mut names = vec![CONFIG, WEIGHTS, INDEX, ADAPTER];
        names.extend(OPTIONAL);
        let listed = self.list(&names)?;
        let find = |name: &str| listed.iter().find(|file| file.path == name);
        let whole = find(WEIGHTS).or(find(INDEX)).and(find(CONFIG));
        if let (None, Some(_)) = (whole, find(ADAPTER)) {
            bail!("{}", self.adapter_by_hand());
        }
        match find(CONFIG) {
            Some(config) => self.fetch(config)?,
            None => bail!(
                "the repository has no {CONFIG}, so it is no model in Hugging Face form{}",
                self.gguf_files_instead()
            ),
        }
        for name in OPTIONAL {
            match find(name) {
                Some(file) => self.fetch(file)?,
                None => self.snapshot.note_absence(name)?,
            }
        }
        match (find(WEIGHTS), find(INDEX)) {
            (Some(weights), _) => self.fetch(weights)?,
            (None, Some(index)) => self.shards(index)?,
            (None, None) => bail!(
                "the repository has neither {WEIGHTS} nor {INDEX}, and other weights are not \
                 read{}",
                self.gguf_files_instead()
            ),
        }
        Ok(self.snapshot.folder())
    }

    /// Fetches the index of the weights, then exactly the files that it names.
    fn shards(&self, index: &Listed) -> Result<()> {
        self.fetch(index)?;
        let shards = self.snapshot.shards()?;
        let names: Vec<&str> = shards.iter().map(String::as_str).collect();
        let listed = self.list(&names)?;
        for name in names {
            let Some(shard) = listed.iter().find(|file| file.path == name) else {
                bail!("the repository has no file {name}, which {INDEX} names");
            };
            self.fetch(shard)?;
        }
        Ok(())
    }

    /// Those of these files that the repository has.
    fn list(&self, names: &[&str]) -> Result<Vec<Listed>> {
        let paths: Vec<String> = names.iter().copied().map(str::to_owned).collect();
        let entries = self.repository.get_paths_info().paths(paths);
        let entries = entries.revision(&self.snapshot.commit).send();
        let entries = entries.map_err(|error| self.explain(error, names[0]))?;
        let files = entries.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File {
                path,
                size,
                oid,
                lfs,
                xet_hash,
                ..
            } => Some(Listed {
                path,
                bytes: size,
                storage: if lfs.is_some() || xet_hash.is_some() {
                    Storage::Large { pointer: oid }
                } else {
                    Storage::Git
                },
            }),
            RepoTreeEntry::Directory { .. } => None,
        });
        Ok(files.collect())
    }

    /// Fetches a file that the cache does not hold.
    fn fetch(&self, file: &Listed) -> Result<()> {
        if self.snapshot.file(&file.path).exists() {
            return Ok(());
        }
        let pieces = match &file.storage {
            Storage::Large { pointer } if !self.has_contents(file.bytes, pointer)? => {
                Some(self.fetch_in_pieces(file)?)
            }
            Storage::Large { .. } | Storage::Git => None,
        };
        // Where the contents are there already, this only links them.
        let path = self.repository.download_file().filename(&file.path);
        let path = path.revision(&self.snapshot.commit).send();
        let path = path.map_err(|error| self.explain(error, &file.path))?;
        let blob = fs::canonicalize(&path)?;
        if let Some(pieces) = pieces {
            if pieces == blob {
                return Ok(());
            }
            // The hub's digest is another: the pieces were damaged, and `hf-hub` has loaded the
            // file anew.
            remove(&pieces)?;
        }
        if is_whole(&blob, file.bytes)? {
            return Ok(());
        }
        remove(&path)?;
        remove(&blob)?;
        bail!(
            "{} came with another size or digest than the hub says: run the command again",
            file.path
        )
    }

    /// Whether the contents that a pointer points at are there, from another commit.
    fn has_contents(&self, bytes: u64, pointer: &str) -> Result<bool> {
        let blobs = match fs::read_dir(self.snapshot.blobs()) {
            Ok(blobs) => blobs,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for blob in blobs {
            let blob = blob?;
            let name = blob.file_name();
            let digest = name.to_string_lossy().parse::<Sha256Digest>();
            let matches = digest.is_ok_and(|digest| pointer_id(&digest, bytes) == pointer);
            if matches && blob.metadata()?.len() == bytes {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fetches a large file, going on where an earlier attempt stopped; returns where its contents
    /// are. The caller holds the lock.
    fn fetch_in_pieces(&self, file: &Listed) -> Result<PathBuf> {
        let blobs = self.snapshot.blobs();
        fs::create_dir_all(&blobs).with_context(|| format!("making {}", blobs.display()))?;
        let name = file.path.replace('/', "--");
        let partial = blobs.join(format!("{}-{name}.incomplete", self.snapshot.commit));
        let context = || format!("writing {}", partial.display());
        let mut target = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&partial)
            .with_context(context)?;
        let mut have = target.metadata().with_context(context)?.len();
        if have > file.bytes {
            target.set_len(0).with_context(context)?;
            have = 0;
        }
        let transfer = Arc::new(Transfer::start(&file.path, file.bytes, have));
        let mut failures = 0;
        while have < file.bytes {
            let end = file.bytes.min(have + self.settings.piece_bytes);
            let piece = self.repository.download_file_to_bytes();
            let piece = piece
                .filename(&file.path)
                .revision(&self.snapshot.commit)
                .range(have..end)
                .progress(PieceProgress {
                    transfer: Arc::clone(&transfer),
                    before: have,
                })
                .send();
            let piece = match piece {
                // `hf-hub` tries requests again, but not answers that break off.
                Err(error) if is_silence(&error) && failures < self.settings.retries => {
                    failures += 1;
                    continue;
                }
                piece => piece.map_err(|error| self.explain(error, &file.path))?,
            };
            ensure!(
                piece.len() as u64 == end - have,
                "the server sent {} bytes of {} where {} were asked for: run the command again",
                piece.len(),
                file.path,
                end - have
            );
            target.write_all(&piece).with_context(context)?;
            have = end;
            failures = 0;
        }
        target.sync_all().with_context(context)?;
        let digest = Sha256Digest::of_file(&partial).with_context(context)?;
        let blob = blobs.join(digest.as_str());
        fs::rename(&partial, &blob).with_context(context)?;
        Ok(fs::canonicalize(blob)?)
    }

    /// What to do with a repository of adapters, which say what they were trained on by a name that
    /// means nothing here.
    fn adapter_by_hand(&self) -> String {
        let (repository, revision) = (self.model.repository(), &self.model.revision);
        format!(
            "the repository is an adapter ({ADAPTER}), not a whole model: run `hf download \
             {repository} --revision {revision} --local-dir DIRECTORY`, fetch the model that its \
             {ADAPTER} calls `base_model_name_or_path` with `polyphony models fetch`, put the path \
             that this prints in place of that name, and give DIRECTORY in place of \
             `{}`",
            self.model
        )
    }

    /// A hint at the repository's GGUF files, where it has any.
    fn gguf_files_instead(&self) -> String {
        let tree = self.repository.list_tree().revision(&self.snapshot.commit);
        let entries = tree.recursive(true).send().unwrap_or_default();
        let names = entries.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, .. } if super::is_gguf(&path) => Some(path),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        let Some(first) = names.first() else {
            return String::new();
        };
        let model = HubModel {
            form: Form::Gguf(first.clone()),
            ..self.model.clone()
        };
        format!(
            ". It has GGUF files: name one, such as `{model}` ({})",
            names.join(", ")
        )
    }

    fn explain(&self, error: HFError, file: &str) -> Error {
        explain(error, file, self.model, self.settings)
    }
}

/// Shows how far a piece is.
struct PieceProgress {
    transfer: Arc<Transfer>,
    /// The bytes of the file before the piece.
    before: u64,
}

impl ProgressHandler for PieceProgress {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Download(DownloadEvent::Progress { files }) = event {
            for file in files {
                self.transfer.at(self.before + file.bytes_completed);
            }
        }
    }
}

/// The git object id of the pointer to contents with this digest and size, in git-lfs's form.
fn pointer_id(digest: &Sha256Digest, bytes: u64) -> String {
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {bytes}\n");
    let object = format!("blob {}\0{pointer}", pointer.len());
    Sha1::from(object).digest().to_string()
}

/// Whether contents have the size that the hub says, and the digest if they are named by it.
fn is_whole(blob: &Path, bytes: u64) -> Result<bool> {
    if fs::metadata(blob)?.len() != bytes {
        return Ok(false);
    }
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    match name.parse::<Sha256Digest>() {
        Ok(digest) => Ok(Sha256Digest::of_file(blob)? == digest),
        // Files in git are named by another digest.
        Err(_) => Ok(true),
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
