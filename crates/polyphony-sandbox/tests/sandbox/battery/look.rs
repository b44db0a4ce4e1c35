//! Searches for objects that a battery's programs may have left.
//!
//! A machine has other users: files, sockets and System V objects come and go while a battery runs.
//! Therefore programs use names that nobody else uses, and the search only looks for these.

use std::collections::BTreeMap;
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    hash::{BuildHasher, RandomState},
    net::Ipv4Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{self, Command},
    time::SystemTime,
};

/// The names that the programs of one battery give to their objects, and the address of its servers.
pub(super) struct Names {
    /// Part of the name of each file, socket and queue.
    pub(super) mark: String,
    /// The key of each System V object.
    pub(super) key: i32,
    /// An address of this machine that nobody else connects to by chance.
    pub(super) host: Ipv4Addr,
    /// The time at which the names were created.
    since: SystemTime,
    /// The folder of Python's library, where a program could leave something too.
    library: PathBuf,
}

impl Names {
    pub(super) fn new() -> Self {
        let nonce = RandomState::new().hash_one(process::id());
        let [a, b, c, ..] = nonce.to_le_bytes().map(|byte| byte % 254 + 1);
        let python = Command::new("python3")
            .args(["-c", "import os; print(os.path.dirname(os.__file__))"])
            .output()
            .unwrap();
        Self {
            mark: format!("polyphony-battery-{nonce:016x}-"),
            // A key of 0 would mean that there is no key.
            key: (nonce >> 32) as i32 & i32::MAX | 1,
            host: Ipv4Addr::new(127, a, b, c),
            since: SystemTime::now(),
            library: String::from_utf8(python.stdout).unwrap().trim().into(),
        }
    }

    /// The objects that exist under these names.
    pub(super) fn look(&self) -> LeftObjects {
        LeftObjects {
            files: self.files(),
            abstract_sockets: abstract_sockets("self")
                .into_iter()
                .filter(|name| name.contains(&self.mark))
                .collect(),
            system_v: self.system_v(),
            queue: queue_exists(&self.mark),
        }
    }

    /// Files with the mark in their name, and core files of programs.
    fn files(&self) -> BTreeSet<PathBuf> {
        let folders = [
            std::env::temp_dir(),
            "/".into(),
            "/tmp".into(),
            "/var/tmp".into(),
            "/dev/shm".into(),
            "/run".into(),
            self.library.clone(),
        ];
        let entries = folders.into_iter().flat_map(fs::read_dir).flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let left = paths.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains(&self.mark) || (name.starts_with("core") && self.is_core(path))
        });
        left.collect()
    }

    /// Whether a file is the core file of a program. The source of every program contains the mark.
    fn is_core(&self, path: &Path) -> bool {
        let is_new = fs::metadata(path).is_ok_and(|file| {
            file.is_file() && file.modified().is_ok_and(|time| time >= self.since)
        });
        let mark = self.mark.as_bytes();
        let has_mark = |bytes: Vec<u8>| bytes.windows(mark.len()).any(|piece| piece == mark);
        is_new && fs::read(path).is_ok_and(has_mark)
    }

    /// System V objects with the key: kind and number.
    fn system_v(&self) -> BTreeSet<String> {
        let key = self.key.to_string();
        let objects = ["shm", "sem", "msg"].into_iter().flat_map(|kind| {
            let list = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            let lines = list.lines().filter_map(|line| {
                let mut fields = line.split_whitespace();
                let has_key = fields.next() == Some(&key);
                has_key.then(|| format!("{kind} {}", fields.next().unwrap_or_default()))
            });
            lines.collect::<Vec<_>>()
        });
        objects.collect()
    }
}

/// The objects that exist under the names of a battery.
#[derive(Debug, PartialEq)]
pub(super) struct LeftObjects {
    pub(super) files: BTreeSet<PathBuf>,
    pub(super) abstract_sockets: BTreeSet<String>,
    pub(super) system_v: BTreeSet<String>,
    pub(super) queue: bool,
}

/// The abstract sockets in the network namespace of a process.
fn abstract_sockets(pid: &str) -> BTreeSet<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_once('@'));
    names.map(|(_, name)| name.to_owned()).collect()
}

/// Whether there is a POSIX message queue with a program's mark.
fn queue_exists(mark: &str) -> bool {
    let name = CString::new(format!("/{mark}")).unwrap();
    // SAFETY: the name is a C string that lives until the call returns. Opening an existing queue takes no
    // further arguments.
    let queue = unsafe { libc::mq_open(name.as_ptr(), libc::O_RDONLY) };
    if queue >= 0 {
        // SAFETY: the descriptor was just opened and is used nowhere else.
        unsafe { libc::mq_close(queue) };
    }
    queue >= 0
}

/// The root and the abstract sockets that a zygote sees. Nobody else is in its namespaces.
pub(super) fn inside(pid: u32) -> (BTreeSet<PathBuf>, BTreeSet<String>) {
    let root = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
    let names = root.map(|entry| entry.unwrap().path());
    (names.collect(), abstract_sockets(&pid.to_string()))
}

/// Name, state, priority and limits of a process.
pub(super) fn state_of_process(pid: u32) -> String {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = file("stat");
    let fields: Vec<&str> = stat.split(' ').collect();
    let [_, name, state, ..] = fields[..] else {
        return "gone".to_owned();
    };
    format!("{name} {state} {:?} {}", &fields[17..19], file("limits"))
}

/// Names, owners, modes, times and contents.
pub(super) fn state_of_folder(folder: &Path) -> BTreeMap<PathBuf, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let (mode, owner) = (metadata.mode(), metadata.uid());
        let times = (metadata.mtime(), metadata.mtime_nsec());
        (path, format!("{owner} {mode:o} {times:?} {text}"))
    });
    entries.collect()
}
