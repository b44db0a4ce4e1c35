//! The targets that the programs of the battery can attack, and the search for traces of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Debug,
    fs, io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use polyphony_sandbox::Tier;
use rustix::process::{geteuid, getpid, set_child_subreaper};

use super::{
    look::{LeftObjects, Names, inside, state_of_folder, state_of_process},
    prelude::{NUMBERS, PRELUDE},
};
use crate::processes::{Process, descendants};

/// A variable in the environment of the process that holds the pool.
pub(super) const SECRET_NAME: &str = "POLYPHONY_BATTERY_SECRET";
pub(super) const SECRET: &str = "heron-under-the-bridge";
/// The content of the canary file.
const CANARY: &str = "nobody = 'has been here'";
/// The user that programs run as if root runs the sandbox.
pub(super) const NOBODY: u32 = 65534;

/// The targets. All of them are open to every user, so only the sandbox protects them.
pub(super) struct Scene {
    tier: Tier,
    names: Names,
    folder: tempfile::TempDir,
    /// One process of this user and one of nobody. A program attacks the one that it could signal.
    bystanders: [Child; 2],
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    hidden: UnixListener,
    before: Option<Surroundings>,
}

impl Scene {
    /// Sets up the targets. The pools exist already, so their processes do not count as traces.
    pub(super) fn new(tier: Tier) -> Self {
        // Orphaned processes become children of this process, so that they are noticed.
        set_child_subreaper(Some(getpid())).unwrap();
        let names = Names::new();
        let host = names.host;
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o777));
        open(folder.path()).unwrap();
        let canary = folder.path().join("canary.py");
        fs::write(&canary, CANARY).unwrap();
        open(&canary).unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        open(&folder.path().join("socket")).unwrap();
        let address = SocketAddr::from_abstract_name(&names.mark).unwrap();
        let mut scene = Self {
            tier,
            names,
            folder,
            bystanders: [bystander(geteuid().as_raw()), bystander(NOBODY)],
            tcp: TcpListener::bind((host, 0)).unwrap(),
            udp: UdpSocket::bind((host, 0)).unwrap(),
            unix,
            hidden: UnixListener::bind_addr(&address).unwrap(),
            before: None,
        };
        scene.tcp.set_nonblocking(true).unwrap();
        scene.udp.set_nonblocking(true).unwrap();
        scene.unix.set_nonblocking(true).unwrap();
        scene.hidden.set_nonblocking(true).unwrap();
        scene.before = Some(scene.look());
        scene
    }

    /// Puts the targets, and functions to attack them, before a program.
    pub(super) fn with_prelude(&self, source: &str) -> String {
        let folder = self.folder().to_str().unwrap();
        let [mine, nobodys] = [0, 1].map(|index: usize| self.bystanders[index].id());
        let numbers: String = NUMBERS
            .iter()
            .map(|(name, number)| format!("'{name}': {number}, "))
            .collect();
        format!(
            "import ctypes, os, struct\n\
             FOLDER = {folder:?}\n\
             CANARY = FOLDER + '/canary.py'\n\
             MARK, KEY, TRAINER = {:?}, {}, {}\n\
             BYSTANDER = {{{NOBODY}: {nobodys}}}.get(os.getuid(), {mine})\n\
             HOST, TCP, UDP = '{}', {}, {}\n\
             SECRET_NAME = {SECRET_NAME:?}\n\
             NUMBERS = {{{numbers}}}\n\
             {PRELUDE}{source}",
            self.names.mark,
            self.names.key,
            process::id(),
            self.host(),
            self.tcp(),
            self.udp(),
        )
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn mark(&self) -> &str {
        &self.names.mark
    }

    pub(super) fn key(&self) -> i32 {
        self.names.key
    }

    /// The address of its servers.
    pub(super) fn host(&self) -> Ipv4Addr {
        self.names.host
    }

    /// A process that this one may signal.
    pub(super) fn bystander(&self) -> u32 {
        self.bystanders[0].id()
    }

    /// The port that accepts connections.
    pub(super) fn tcp(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    /// The port that receives datagrams.
    pub(super) fn udp(&self) -> u16 {
        self.udp.local_addr().unwrap().port()
    }

    /// The changes since the last look, in words; empty if there are none.
    pub(super) fn traces(&mut self) -> String {
        let Some(before) = self.before.take() else {
            return String::new();
        };
        let after = self.look();
        let mut traces = before.difference(&after);
        traces.extend(self.visitors());
        self.before = Some(after);
        traces.concat()
    }

    /// The number of processes below this one, without the bystanders.
    pub(super) fn processes(&self) -> usize {
        descendants(process::id()).len() - self.bystanders.len()
    }

    fn look(&self) -> Surroundings {
        let processes = descendants(process::id());
        let bystanders: Vec<u32> = self.bystanders.iter().map(Child::id).collect();
        let mut zygotes: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        zygotes.retain(|pid| !bystanders.contains(pid));
        zygotes.sort_unstable();
        let descriptors = zygotes.iter().copied().chain([process::id()]).map(|pid| {
            let list = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            (pid, list.count())
        });
        let watched = Watched {
            descriptors: descriptors.collect(),
            processes,
            canary: state_of_folder(self.folder.path()),
            bystanders: bystanders.into_iter().map(state_of_process).collect(),
            hidden: match self.tier {
                Tier::Full => zygotes.iter().map(|pid| inside(*pid)).collect(),
                _ => Vec::new(),
            },
        };
        Surroundings {
            watched,
            left: self.names.look(),
        }
    }

    /// Connections and messages that came in.
    fn visitors(&self) -> Option<String> {
        let is_silent = |error: Option<io::Error>| {
            error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let servers = [
            ("TCP", is_silent(self.tcp.accept().err())),
            ("UDP", is_silent(self.udp.recv(&mut [0; 64]).err())),
            ("Unix", is_silent(self.unix.accept().err())),
            ("abstract", is_silent(self.hidden.accept().err())),
        ];
        let visited: Vec<&str> = servers
            .into_iter()
            .filter(|(_, is_silent)| !is_silent)
            .map(|(name, _)| name)
            .collect();
        (!visited.is_empty()).then(|| format!("a program contacted {visited:?}; "))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for bystander in &mut self.bystanders {
            let _ = bystander.kill();
            let _ = bystander.wait();
        }
    }
}

/// Everything that programs must not change. All of it belongs to this battery.
struct Surroundings {
    watched: Watched,
    left: LeftObjects,
}

#[derive(Debug, PartialEq)]
struct Watched {
    /// The zygotes, the bystanders, and nothing else.
    processes: HashSet<Process>,
    /// The number of descriptors of each zygote and of this process.
    descriptors: BTreeMap<u32, usize>,
    canary: BTreeMap<PathBuf, String>,
    bystanders: Vec<String>,
    /// The content of the zygotes' namespaces.
    hidden: Vec<(BTreeSet<PathBuf>, BTreeSet<String>)>,
}

impl Surroundings {
    fn difference(&self, after: &Self) -> Vec<String> {
        fn changed<T: Debug + PartialEq>(what: &str, before: &T, after: &T) -> Option<String> {
            (before != after).then(|| format!("{what}: {before:?} became {after:?}; "))
        }
        let (watched, left) = (&self.watched, &self.left);
        let (watched_after, left_after) = (&after.watched, &after.left);
        [
            changed("processes", &watched.processes, &watched_after.processes),
            changed(
                "descriptors",
                &watched.descriptors,
                &watched_after.descriptors,
            ),
            changed("the canary", &watched.canary, &watched_after.canary),
            changed("bystanders", &watched.bystanders, &watched_after.bystanders),
            changed("namespaces", &watched.hidden, &watched_after.hidden),
            changed("files", &left.files, &left_after.files),
            changed(
                "abstract sockets",
                &left.abstract_sockets,
                &left_after.abstract_sockets,
            ),
            changed("System V", &left.system_v, &left_after.system_v),
            changed("message queue", &left.queue, &left_after.queue),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn bystander(user: u32) -> Child {
    let mut command = Command::new("sleep");
    command.arg("6000").stdin(Stdio::null());
    if geteuid().is_root() {
        command.uid(user);
    }
    let child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !state_of_process(child.id()).starts_with("(sleep) S") {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(5));
    }
    child
}
