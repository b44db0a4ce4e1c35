//! What the programs of the battery find to attack, and a look for what they left.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Debug,
    fs, io,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
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

use crate::processes::{Process, descendants};

/// A variable in the environment of the process that holds the pool.
pub(super) const SECRET_NAME: &str = "POLYPHONY_BATTERY_SECRET";
pub(super) const SECRET: &str = "heron-under-the-bridge";
/// How the names start that programs give to something.
const MARK: &str = "polyphony-battery-";
/// What is in the canary file.
const CANARY: &str = "nobody = 'has been here'";
/// Whom programs run as where root runs the sandbox.
const NOBODY: u32 = 65534;

/// What there is to attack. All of it is open to every user: only the sandbox is in the way.
pub(super) struct Scene {
    tier: Tier,
    /// How long other processes of the machine may have something that looks like a trace.
    patience: Duration,
    /// Part of every name that a program gives to something.
    mark: String,
    folder: tempfile::TempDir,
    /// One of this user and one of nobody: a program takes the one that it could signal.
    bystanders: [Child; 2],
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    hidden: UnixListener,
    before: Option<Surroundings>,
}

impl Scene {
    /// Sets everything up. The pools are there already: what they have is no trace.
    pub(super) fn new(tier: Tier, patience: Duration) -> Self {
        // What loses its parent becomes a child of this process, where it is seen.
        set_child_subreaper(Some(getpid())).unwrap();
        let mark = format!("{MARK}{}-", process::id());
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o777));
        open(folder.path()).unwrap();
        let canary = folder.path().join("canary.py");
        fs::write(&canary, CANARY).unwrap();
        open(&canary).unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        open(&folder.path().join("socket")).unwrap();
        let address = SocketAddr::from_abstract_name(&mark).unwrap();
        let mut scene = Self {
            tier,
            patience,
            mark,
            folder,
            bystanders: [bystander(geteuid().as_raw()), bystander(NOBODY)],
            tcp: TcpListener::bind(("127.0.0.1", 0)).unwrap(),
            udp: UdpSocket::bind(("127.0.0.1", 0)).unwrap(),
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

    /// Puts what there is to attack, and ways to do so, before a program.
    pub(super) fn told_to(&self, source: &str) -> String {
        let folder = self.folder().to_str().unwrap();
        let [own, nobody] = [0, 1].map(|index: usize| self.bystanders[index].id());
        let numbers: String = NUMBERS
            .iter()
            .map(|(name, number)| format!("'{name}': {number}, "))
            .collect();
        format!(
            "import ctypes, os, struct\n\
             FOLDER = {folder:?}\n\
             CANARY = FOLDER + '/canary.py'\n\
             MARK, TRAINER = {:?}, {}\n\
             BYSTANDER = {{{NOBODY}: {nobody}}}.get(os.getuid(), {own})\n\
             TCP, UDP = {}, {}\n\
             SECRET_NAME = {SECRET_NAME:?}\n\
             NUMBERS = {{{numbers}}}\n\
             {PRELUDE}{source}",
            self.mark,
            process::id(),
            self.tcp(),
            self.udp(),
        )
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// A process that this one may signal.
    pub(super) fn bystander(&self) -> u32 {
        self.bystanders[0].id()
    }

    /// The port that waits for connections.
    pub(super) fn tcp(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    /// The port that waits for datagrams.
    pub(super) fn udp(&self) -> u16 {
        self.udp.local_addr().unwrap().port()
    }

    /// What is not as it was, in words; nothing where all is well.
    pub(super) fn traces(&mut self) -> String {
        let Some(before) = self.before.take() else {
            return String::new();
        };
        let end = Instant::now() + self.patience;
        let after = loop {
            let after = self.look();
            // What is this battery's own must be gone at once, the rest may be someone else's.
            let only_shared = after.own == before.own && after.shared != before.shared;
            if !only_shared || Instant::now() > end {
                break after;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let mut traces = before.difference(&after);
        traces.extend(self.visitors());
        self.before = Some(after);
        traces.concat()
    }

    /// Processes below this one beside the bystanders.
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
        let own = Own {
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
            own,
            shared: Shared {
                files: suspicious_files(&self.mark),
                // The other tier's battery has one, too.
                abstract_sockets: abstract_sockets("self")
                    .into_iter()
                    .filter(|name| name.contains(&self.mark) || !name.starts_with(MARK))
                    .collect(),
                system_v: system_v(),
                queue: queue_exists(&self.mark),
            },
        }
    }

    /// Connections and messages that came in.
    fn visitors(&self) -> Option<String> {
        let nobody = |error: Option<io::Error>| {
            error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let came = [
            ("TCP", nobody(self.tcp.accept().err())),
            ("UDP", nobody(self.udp.recv(&mut [0; 64]).err())),
            ("Unix", nobody(self.unix.accept().err())),
            ("abstract", nobody(self.hidden.accept().err())),
        ];
        let came: Vec<&str> = came
            .into_iter()
            .filter(|(_, nobody)| !nobody)
            .map(|(name, _)| name)
            .collect();
        (!came.is_empty()).then(|| format!("somebody came by {came:?}; "))
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

/// Everything that programs must leave as it is.
struct Surroundings {
    own: Own,
    shared: Shared,
}

#[derive(Debug, PartialEq)]
struct Own {
    /// The zygotes, the bystanders, and nothing else.
    processes: HashSet<Process>,
    /// How many each zygote and this process have.
    descriptors: BTreeMap<u32, usize>,
    canary: BTreeMap<PathBuf, String>,
    bystanders: Vec<String>,
    /// What can be seen of the zygotes' own namespaces.
    hidden: Vec<(BTreeSet<PathBuf>, BTreeSet<String>)>,
}

#[derive(Debug, PartialEq)]
struct Shared {
    files: BTreeSet<PathBuf>,
    abstract_sockets: BTreeSet<String>,
    system_v: BTreeSet<String>,
    queue: bool,
}

impl Surroundings {
    fn difference(&self, after: &Self) -> Vec<String> {
        fn changed<T: Debug + PartialEq>(what: &str, before: &T, after: &T) -> Option<String> {
            (before != after).then(|| format!("{what}: {before:?} became {after:?}; "))
        }
        let (own, shared) = (&self.own, &self.shared);
        let (own_after, shared_after) = (&after.own, &after.shared);
        [
            changed("processes", &own.processes, &own_after.processes),
            changed("descriptors", &own.descriptors, &own_after.descriptors),
            changed("the canary", &own.canary, &own_after.canary),
            changed("bystanders", &own.bystanders, &own_after.bystanders),
            changed("namespaces", &own.hidden, &own_after.hidden),
            changed("files", &shared.files, &shared_after.files),
            changed(
                "abstract sockets",
                &shared.abstract_sockets,
                &shared_after.abstract_sockets,
            ),
            changed("System V", &shared.system_v, &shared_after.system_v),
            changed("message queue", &shared.queue, &shared_after.queue),
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

/// Name, state, priority and limits of a process.
fn state_of_process(pid: u32) -> String {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = file("stat");
    let fields: Vec<&str> = stat.split(' ').collect();
    let [_, name, state, ..] = fields[..] else {
        return "gone".to_owned();
    };
    format!("{name} {state} {:?} {}", &fields[17..19], file("limits"))
}

/// Names, owners, modes, times and contents.
fn state_of_folder(folder: &Path) -> BTreeMap<PathBuf, String> {
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

/// Files with a program's mark, those of the user that programs run as, and what a crash leaves.
fn suspicious_files(mark: &str) -> BTreeSet<PathBuf> {
    let folders = [
        std::env::temp_dir(),
        "/".into(),
        "/tmp".into(),
        "/var/tmp".into(),
        "/dev/shm".into(),
        "/run".into(),
    ];
    let lists = folders.into_iter().flat_map(fs::read_dir);
    let entries = lists.flatten().flatten();
    let suspicious = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.contains(mark)
            || name.starts_with("core")
            || entry.metadata().is_ok_and(|file| file.uid() == NOBODY)
    });
    suspicious.map(|entry| entry.path()).collect()
}

fn abstract_sockets(pid: &str) -> BTreeSet<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_once('@'));
    names.map(|(_, name)| name.to_owned()).collect()
}

/// Keys and numbers of System V objects.
fn system_v() -> BTreeSet<String> {
    let lines = ["shm", "sem", "msg"].into_iter().flat_map(|kind| {
        let list = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let lines = list.lines().skip(1).map(|line| {
            let fields: Vec<&str> = line.split_whitespace().take(2).collect();
            format!("{kind} {fields:?}")
        });
        lines.collect::<Vec<_>>()
    });
    lines.collect()
}

/// Whether there is a POSIX message queue with a program's mark.
fn queue_exists(mark: &str) -> bool {
    let name = std::ffi::CString::new(format!("/{mark}")).unwrap();
    // SAFETY: the name is a C string that lives until the call returns; opening takes no more.
    let queue = unsafe { libc::mq_open(name.as_ptr(), libc::O_RDONLY) };
    if queue >= 0 {
        // SAFETY: the descriptor was just opened and is used nowhere else.
        unsafe { libc::mq_close(queue) };
    }
    queue >= 0
}

/// The root and the abstract sockets that a zygote sees.
fn inside(pid: u32) -> (BTreeSet<PathBuf>, BTreeSet<String>) {
    let root = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
    let names = root.map(|entry| entry.unwrap().path());
    (names.collect(), abstract_sockets(&pid.to_string()))
}

/// Ways to make any system call, to run machine code, and to speak as a solver does.
const PRELUDE: &str = r"
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]

def call(name, *args):
    def word(arg):
        return arg if isinstance(arg, (bytes, ctypes.Array)) else ctypes.c_long(arg)
    number = NUMBERS.get(name, name)
    result = libc.syscall(ctypes.c_long(number), *[word(arg) for arg in args])
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(name))
    return result

def memory(size, at=0, flags=0):
    # Private, without a file; readable, writable, executable.
    got = libc.mmap(at, size, 7, 0x22 | flags, -1, 0)
    if got == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), 'mmap')
    return got

def run_machine_code(code, flags=0):
    at = memory(4096, flags=flags)
    ctypes.memmove(at, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_long)(at)()

def texts(*fields):
    return b''.join(struct.pack('<I', len(field)) + field for field in fields)

def frame(kind, payload, length=None):
    return struct.pack('<cI', kind, len(payload) if length is None else length) + payload

def send(data):
    # One of these is its socket.
    for descriptor in range(3, 64):
        try: os.write(descriptor, data)
        except OSError: pass

";

/// The system calls that programs make by number.
const NUMBERS: &[(&str, i64)] = &[
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
    ("capset", libc::SYS_capset),
    ("chroot", libc::SYS_chroot),
    ("clock_settime", libc::SYS_clock_settime),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("execveat", libc::SYS_execveat),
    ("exit", libc::SYS_exit),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("finit_module", libc::SYS_finit_module),
    ("fsopen", libc::SYS_fsopen),
    ("get_robust_list", libc::SYS_get_robust_list),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("kcmp", libc::SYS_kcmp),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("kill", libc::SYS_kill),
    ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ("memfd_secret", libc::SYS_memfd_secret),
    ("mlockall", libc::SYS_mlockall),
    ("mount", libc::SYS_mount),
    ("mq_open", libc::SYS_mq_open),
    ("msgget", libc::SYS_msgget),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("openat", libc::SYS_openat),
    ("openat2", libc::SYS_openat2),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("personality", libc::SYS_personality),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pivot_root", libc::SYS_pivot_root),
    ("prctl", libc::SYS_prctl),
    ("prlimit64", libc::SYS_prlimit64),
    ("process_madvise", libc::SYS_process_madvise),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("ptrace", libc::SYS_ptrace),
    ("reboot", libc::SYS_reboot),
    ("request_key", libc::SYS_request_key),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo),
    ("seccomp", libc::SYS_seccomp),
    ("semget", libc::SYS_semget),
    ("sendmsg", libc::SYS_sendmsg),
    ("setns", libc::SYS_setns),
    ("sethostname", libc::SYS_sethostname),
    ("shmget", libc::SYS_shmget),
    ("syslog", libc::SYS_syslog),
    ("tgkill", libc::SYS_tgkill),
    ("timer_create", libc::SYS_timer_create),
    ("tkill", libc::SYS_tkill),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    #[cfg(target_arch = "x86_64")]
    ("vfork", libc::SYS_vfork),
];
