//! The file system that a zygote sees: the interpreter and its library, nothing else.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicI32,
};

use super::{
    enter::{Mount, Root},
    interpreter::Installation,
};

/// Directories of a standard library that contain third-party packages.
const THIRD_PARTY: [&str; 2] = ["site-packages", "dist-packages"];

/// A path as a C string, for the kernel.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// A private root for an interpreter, with the same paths as on the host.
///
/// # Errors
///
/// If a path is not valid.
pub(super) fn root_for(installation: &Installation) -> io::Result<Root> {
    let mut builder = RootBuilder::default();
    for library in &installation.libraries {
        builder.mount(&library.path, &library.path, Kind::Directory);
        for name in THIRD_PARTY {
            let directory = library.path.join(name);
            if directory.is_dir() {
                builder.hidden.push(directory);
            }
        }
    }
    let interpreter = &installation.interpreter.path;
    builder.mount(interpreter, interpreter, Kind::File);
    if let Some(loader) = &installation.loader {
        builder.mount(loader, loader, Kind::File);
    }
    for shared in &installation.shared {
        builder.mount(&shared.path, &shared.path, Kind::File);
    }
    for file in installation.libraries.iter().chain(&installation.shared) {
        for alias in &file.aliases {
            builder.link(alias, &file.path);
        }
    }
    builder.root()
}

/// The directories of an interpreter's shared libraries. The loader needs them, since it has no cache in
/// the private root.
pub(super) fn library_path(installation: &Installation) -> Vec<u8> {
    let folders: BTreeSet<&Path> = installation
        .shared
        .iter()
        .filter_map(|shared| shared.path.parent())
        .collect();
    let folders: Vec<&[u8]> = folders
        .iter()
        .map(|folder| folder.as_os_str().as_bytes())
        .collect();
    folders.join(&b':')
}

/// The entries of an interpreter's library that may be read: all except third-party packages.
///
/// # Errors
///
/// If the library cannot be listed.
pub(super) fn readable(library: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(library)? {
        let entry = entry?;
        if !THIRD_PARTY.iter().any(|name| entry.file_name() == *name) {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

#[derive(Default)]
struct RootBuilder {
    directories: BTreeSet<PathBuf>,
    mounts: Vec<(PathBuf, PathBuf, Kind)>,
    links: Vec<(PathBuf, PathBuf)>,
    hidden: Vec<PathBuf>,
}

impl RootBuilder {
    fn mount(&mut self, source: &Path, target: &Path, kind: Kind) {
        if self.is_covered(target) {
            return;
        }
        self.make_parents(target);
        if kind == Kind::Directory {
            self.directories.insert(target.to_owned());
        }
        self.mounts
            .push((source.to_owned(), target.to_owned(), kind));
    }

    fn link(&mut self, name: &Path, to: &Path) {
        if self.is_covered(name) || self.links.iter().any(|(existing, _)| existing == name) {
            return;
        }
        self.make_parents(name);
        self.links.push((name.to_owned(), to.to_owned()));
    }

    /// Whether a path is a mount or lies inside a mount, so that it exists already.
    fn is_covered(&self, path: &Path) -> bool {
        let mut targets = self.mounts.iter().map(|(_, target, _)| target);
        targets.any(|target| path.starts_with(target))
    }

    fn make_parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            // The root itself exists.
            if parent.parent().is_some() {
                self.directories.insert(parent.to_owned());
            }
        }
    }

    fn root(self) -> io::Result<Root> {
        let below_root = |path: &Path| c_path(path.strip_prefix("/").unwrap_or(path));
        let mut root = Root::default();
        // Paths are sorted, so a directory comes before its content.
        for directory in &self.directories {
            root.directories.push(below_root(directory)?);
        }
        for (source, target, kind) in &self.mounts {
            if *kind == Kind::File {
                root.files.push(below_root(target)?);
            }
            root.mounts.push(Mount {
                source: c_path(source)?,
                target: below_root(target)?,
                copied: AtomicI32::new(-1),
            });
        }
        for (name, to) in &self.links {
            root.links.push((below_root(name)?, c_path(to)?));
        }
        for hidden in &self.hidden {
            root.hidden.push(below_root(hidden)?);
        }
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::{Interpreter, linux::interpreter::RequiredFile};

    fn texts<'a>(paths: impl IntoIterator<Item = &'a CString>) -> Vec<&'a str> {
        let paths = paths.into_iter().map(|path| CStr::to_str(path).unwrap());
        paths.collect()
    }

    #[test]
    fn a_root_contains_the_interpreter_and_its_files() {
        let library = tempfile::tempdir().unwrap();
        fs::create_dir(library.path().join("site-packages")).unwrap();
        let installation = Installation {
            interpreter: Interpreter {
                path: "/opt/bin/python".into(),
                version: "3.12.1".to_owned(),
            },
            loader: Some("/lib64/ld.so".into()),
            libraries: vec![RequiredFile {
                path: library.path().to_owned(),
                aliases: vec!["/opt/lib".into()],
            }],
            shared: vec![
                RequiredFile {
                    path: "/usr/lib/libz.so.1.2".into(),
                    aliases: vec!["/usr/lib/libz.so.1".into(), "/usr/lib/libz.so.1".into()],
                },
                // It exists already, as a part of the library.
                RequiredFile {
                    path: library.path().join("libpython.so"),
                    aliases: vec![library.path().join("libpython.so.1")],
                },
            ],
        };
        let below = library.path().to_str().unwrap().trim_start_matches('/');
        let root = root_for(&installation).unwrap();
        assert_eq!(
            texts(root.mounts.iter().map(|mount| &mount.target)),
            [
                below,
                "opt/bin/python",
                "lib64/ld.so",
                "usr/lib/libz.so.1.2"
            ]
        );
        assert_eq!(
            texts(&root.files),
            ["opt/bin/python", "lib64/ld.so", "usr/lib/libz.so.1.2"]
        );
        assert_eq!(
            texts(root.links.iter().flat_map(|(name, to)| [name, to])),
            [
                "opt/lib",
                library.path().to_str().unwrap(),
                "usr/lib/libz.so.1",
                "/usr/lib/libz.so.1.2"
            ]
        );
        assert_eq!(texts(&root.hidden), [format!("{below}/site-packages")]);
        // Every directory comes after its parent.
        let directories = texts(&root.directories);
        for (index, directory) in directories.iter().enumerate() {
            let parent = Path::new(directory).parent().unwrap().to_str().unwrap();
            assert!(
                parent.is_empty() || directories[..index].contains(&parent),
                "{directory}"
            );
        }
        assert_eq!(
            library_path(&installation),
            format!("/{below}:/usr/lib").as_bytes()
        );
    }

    #[test]
    fn third_party_packages_are_not_readable() {
        let library = tempfile::tempdir().unwrap();
        for name in ["site-packages", "dist-packages", "json", "encodings"] {
            fs::create_dir(library.path().join(name)).unwrap();
        }
        fs::write(library.path().join("abc.py"), "").unwrap();
        let readable = readable(library.path()).unwrap();
        let names = readable.iter().map(|path| path.file_name().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["abc.py", "encodings", "json"]);
    }
}
