//! The peers, which are measured by the scripts in `xtask/peers`.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{self, say};

/// Variables that some machines set for other programs, and that slow the peers down.
const SLOWING: [&str; 2] = ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"];

/// Runs the peers' scripts.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) python: PathBuf,
    /// The folder of the scripts.
    pub(super) scripts: PathBuf,
    /// The folder for llama.cpp's copy of the model.
    pub(super) cache: PathBuf,
    /// What to do if a script fails because packages are missing or damaged.
    pub(super) advice: String,
}

impl Peers {
    /// The object that a script prints as its last line.
    ///
    /// # Errors
    /// If the script fails. The message has the end of its output.
    pub(super) fn measure<A: AsRef<OsStr>>(&self, script: &str, arguments: &[A]) -> Result<Value> {
        let printed = self.run(script, arguments)?;
        let printed = String::from_utf8_lossy(&printed);
        let line = printed.trim_end().lines().next_back().unwrap_or_default();
        serde_json::from_str(line)
            .with_context(|| format!("{script} printed no measurements, but `{line}`"))
    }

    /// The versions of the peers, as an object.
    ///
    /// # Errors
    /// If they cannot be determined.
    pub(super) fn versions(&self) -> Result<Value> {
        self.measure::<&str>("versions.py", &[])
    }

    /// The default model in bf16 for llama.cpp. It is written at the first call.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn gguf(&self) -> Result<PathBuf> {
        let path = self.cache.join("smollm2-135m-bf16.gguf");
        if !path.is_file() {
            say(format_args!("writing {}", path.display()));
            let unfinished = path.with_extension("unfinished");
            self.run("write_gguf.py", &[&unfinished])?;
            fs::rename(&unfinished, &path)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(path)
    }

    fn run<A: AsRef<OsStr>>(&self, script: &str, arguments: &[A]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(script)).args(arguments);
        for variable in SLOWING {
            command.env_remove(variable);
        }
        process::captured(&mut command).with_context(|| {
            format!(
                "the peers' script {script} failed ({}; `--only` chooses parts)",
                self.advice
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peers whose Python is a shell.
    fn peers(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Peers) {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in scripts {
            fs::write(folder.path().join(name), script).unwrap();
        }
        let peers = Peers {
            python: "sh".into(),
            scripts: folder.path().to_owned(),
            cache: folder.path().to_owned(),
            advice: "install them".to_owned(),
        };
        (folder, peers)
    }

    #[test]
    fn the_last_line_has_the_measurements() {
        let script = r#"echo "loading"; echo "{\"seconds\": $1}""#;
        let (_folder, peers) = peers(&[("a", script), ("b", "echo loading")]);
        assert_eq!(peers.measure("a", &["1.5"]).unwrap()["seconds"], 1.5);
        let error = peers.measure::<&str>("b", &[]).unwrap_err().to_string();
        assert_eq!(error, "b printed no measurements, but `loading`");
    }

    #[test]
    fn a_failing_script_is_shown_with_the_way_out() {
        let (_folder, peers) = peers(&[("a", "echo no module >&2; exit 1")]);
        let error = format!("{:#}", peers.measure::<&str>("a", &[]).unwrap_err());
        let start = "the peers' script a failed (install them; `--only` chooses parts): `sh ";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with("\n    no module"), "{error}");
    }

    #[test]
    fn an_unfinished_model_is_written_again() {
        let (folder, peers) = peers(&[("write_gguf.py", "echo x >> $1; test -f ok")]);
        assert!(peers.gguf().is_err() && peers.gguf().is_err());
        fs::write(folder.path().join("write_gguf.py"), "echo y > $1").unwrap();
        let path = peers.gguf().unwrap();
        fs::remove_file(folder.path().join("write_gguf.py")).unwrap();
        assert_eq!(fs::read(peers.gguf().unwrap()).unwrap(), b"y\n");
        assert_eq!(path, folder.path().join("smollm2-135m-bf16.gguf"));
    }
}
