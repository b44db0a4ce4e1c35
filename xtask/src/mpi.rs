//! Whether this machine can build and run programs with MPI.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The feature that connects several processes.
pub(crate) const FEATURE: &str = "polyphony/mpi";

/// The name of the launcher.
pub(crate) const LAUNCHER: &str = "mpirun";

/// How to install what is missing.
const INSTALL: &str =
    "on Debian, `apt-get install libopenmpi-dev openmpi-bin libclang-dev` installs it";

/// The features for building the workspace: that of MPI if this machine has what it needs.
pub(crate) fn features() -> Vec<&'static str> {
    match missing() {
        None => vec!["--features", FEATURE],
        Some(_) => Vec::new(),
    }
}

/// What is missing, and how to install it; `None` if nothing is.
pub(crate) fn missing() -> Option<String> {
    let programs = ["mpicc", LAUNCHER]
        .into_iter()
        .find(|name| find(name).is_none());
    let what = match programs {
        Some(program) => Some(format!("`{program}` was not found")),
        None => (!has_libclang()).then(|| "libclang was not found".to_owned()),
    };
    what.map(|what| format!("{what}: {INSTALL}"))
}

/// The path of a program, as a shell finds it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    candidates.find(|candidate| candidate.is_file())
}

/// Whether the library with which bindgen reads `mpi.h` is in one of the usual folders.
fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let llvm = entries(Path::new("/usr/lib"))
        .into_iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("llvm"))
        })
        .map(|path| path.join("lib"));
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ];
    let mut folders = llvm.chain(usual.map(PathBuf::from));
    let is_libclang = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libclang.so") || name.starts_with("libclang-")
    };
    folders.any(|folder| entries(&folder).iter().any(is_libclang))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
