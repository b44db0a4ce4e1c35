//! `polyphony models`: which models there are and where they lie.

use std::{fs, io::Write, path::Path};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;

use crate::{
    json_lines,
    sources::{self, Cache, known_models},
};

/// The arguments of `polyphony models`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Obtains a model if need be and prints its directory.
    Fetch {
        /// The model's name, or a path, which is printed as it is.
        name: String,
    },
}

/// A model that is known by name.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    /// Where it is, or will be once fetched.
    path: String,
    cached: bool,
    /// The size on disk; `null` where it is not cached.
    bytes: Option<u64>,
    package: String,
    licence: &'static str,
}

/// Lists the known models, one a line, or fetches one.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    match &arguments.command {
        None => list(&Cache::open()?, output),
        Some(Command::Fetch { name }) => {
            let path = sources::resolve(name)?;
            writeln!(output, "{}", path.display()).context("writing results")
        }
    }
}

fn list(cache: &Cache, output: &mut dyn Write) -> Result<()> {
    for model in known_models() {
        let path = cache.model(model.name);
        let cached = path.is_dir();
        let listed = Listed {
            name: model.name,
            path: path.display().to_string(),
            cached,
            bytes: if cached { Some(size(&path)?) } else { None },
            package: format!("{} {} on PyPI", model.package, model.version),
            licence: model.licence,
        };
        json_lines::write(output, &listed)?;
    }
    Ok(())
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
    use serde_json::Value;

    fn first(cache: &Cache) -> Value {
        let mut output = Vec::new();
        list(cache, &mut output).unwrap();
        serde_json::from_slice(output.split(|byte| *byte == b'\n').next().unwrap()).unwrap()
    }

    #[test]
    fn known_models_are_listed_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let directory = cache.model("smollm2-135m");
        let listed = first(&cache);
        assert_eq!(listed["name"], "smollm2-135m");
        assert_eq!(listed["path"], directory.to_str().unwrap());
        assert_eq!(
            (&listed["cached"], &listed["bytes"]),
            (&false.into(), &Value::Null)
        );

        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), "{}").unwrap();
        let listed = first(&cache);
        assert_eq!(
            (&listed["cached"], &listed["bytes"]),
            (&true.into(), &2.into())
        );
    }
}
