//! Leaves a trace of every kind, to check that the battery notices it.

use std::{
    ffi::CString,
    fs::{self, File},
    net::{TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use polyphony_sandbox::Tier;
use rustix::process::{Pid, Signal, kill_process};

use super::scene::Scene;

/// Undoes what was done.
type Undo = Box<dyn FnOnce()>;

/// A kind of trace, the text that reports it, and a function that leaves it.
type Kind = (&'static str, &'static str, fn(&Scene) -> Undo);

/// The flags to create a System V object that must not exist yet.
const NEW_OBJECT: libc::c_int = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;

const KINDS: &[Kind] = &[
    ("a process", "processes: ", |_| {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        Box::new(move || {
            child.kill().unwrap();
            child.wait().unwrap();
        })
    }),
    ("a process without a parent", "processes: ", |_| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo $!"]);
        let output = shell.stderr(Stdio::null()).stdout(Stdio::piped());
        let mut shell = output.spawn().unwrap();
        let mut line = String::new();
        // Only one line is read, since the pipe stays open until the other process ends.
        let mut pipe = shell.stdout.take().unwrap();
        while !line.ends_with('\n') {
            let mut byte = [0];
            std::io::Read::read_exact(&mut pipe, &mut byte).unwrap();
            line.push(byte[0].into());
        }
        shell.wait().unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        Box::new(move || {
            kill_process(pid, Signal::KILL).unwrap();
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        })
    }),
    ("a descriptor", "descriptors: ", |_| {
        let file = File::open("/dev/null").unwrap();
        Box::new(move || drop(file))
    }),
    ("a word in the canary", "the canary: ", |scene| {
        fs::write(scene.folder().join("canary.py"), "x").unwrap();
        Box::new(|| {})
    }),
    ("a file beside the canary", "the canary: ", |scene| {
        fs::write(scene.folder().join("x"), "x").unwrap();
        Box::new(|| {})
    }),
    ("a bystander that was stopped", "bystanders: ", |scene| {
        let pid = Pid::from_raw(scene.bystander() as i32).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        await_state(pid, "T (stopped)");
        Box::new(move || {
            kill_process(pid, Signal::CONT).unwrap();
            await_state(pid, "S (sleeping)");
        })
    }),
    ("a file", "files: ", |scene| {
        let path = std::env::temp_dir().join(scene.mark());
        File::create(&path).unwrap();
        Box::new(move || fs::remove_file(path).unwrap())
    }),
    ("what a crash leaves", "files: ", |scene| {
        let path = std::env::temp_dir().join(format!("core.{}", std::process::id()));
        fs::write(&path, format!("\0\0{}\0", scene.mark())).unwrap();
        Box::new(move || fs::remove_file(path).unwrap())
    }),
    ("shared memory with a name", "files: ", |scene| {
        let name = CString::new(format!("/{}", scene.mark())).unwrap();
        // SAFETY: the name outlives the call.
        let memory = unsafe { libc::shm_open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600) };
        assert!(memory >= 0);
        // SAFETY: the descriptor was just opened and is used nowhere else.
        unsafe { libc::close(memory) };
        Box::new(move || {
            // SAFETY: the name outlives the call.
            unsafe { libc::shm_unlink(name.as_ptr()) };
        })
    }),
    ("an abstract socket", "abstract sockets: ", |scene| {
        let name = format!("{}x", scene.mark());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixListener::bind_addr(&address).unwrap();
        Box::new(move || drop(socket))
    }),
    ("shared memory", "System V: ", |scene| {
        // SAFETY: a call without pointers.
        let number = unsafe { libc::shmget(scene.key(), 4096, NEW_OBJECT) };
        assert!(number >= 0);
        Box::new(move || {
            // SAFETY: removing takes no buffer.
            unsafe { libc::shmctl(number, libc::IPC_RMID, std::ptr::null_mut()) };
        })
    }),
    ("semaphores", "System V: ", |scene| {
        // SAFETY: a call without pointers.
        let number = unsafe { libc::semget(scene.key(), 1, NEW_OBJECT) };
        assert!(number >= 0);
        Box::new(move || {
            // SAFETY: removing takes no fourth argument.
            unsafe { libc::semctl(number, 0, libc::IPC_RMID) };
        })
    }),
    ("a queue with a key", "System V: ", |scene| {
        // SAFETY: a call without pointers.
        let number = unsafe { libc::msgget(scene.key(), NEW_OBJECT) };
        assert!(number >= 0);
        Box::new(move || {
            // SAFETY: removing takes no buffer.
            unsafe { libc::msgctl(number, libc::IPC_RMID, std::ptr::null_mut()) };
        })
    }),
    ("a message queue", "message queue: ", |scene| {
        let name = CString::new(format!("/{}", scene.mark())).unwrap();
        let (flags, no_attributes) = (libc::O_CREAT, std::ptr::null::<libc::mq_attr>());
        // SAFETY: the name outlives the call, and there are no attributes to read.
        let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, no_attributes) };
        assert!(queue >= 0);
        // SAFETY: the descriptor was just opened and is used nowhere else.
        unsafe { libc::mq_close(queue) };
        Box::new(move || {
            // SAFETY: the name outlives the call.
            unsafe { libc::mq_unlink(name.as_ptr()) };
        })
    }),
    ("a connection", "TCP", |scene| {
        drop(TcpStream::connect((scene.host(), scene.tcp())).unwrap());
        Box::new(|| {})
    }),
    ("a datagram", "UDP", |scene| {
        let socket = UdpSocket::bind((scene.host(), 0)).unwrap();
        socket.send_to(b"x", (scene.host(), scene.udp())).unwrap();
        Box::new(|| {})
    }),
    ("a local connection", "Unix", |scene| {
        drop(UnixStream::connect(scene.folder().join("socket")).unwrap());
        Box::new(|| {})
    }),
    ("a connection to a hidden socket", "abstract", |scene| {
        let address = SocketAddr::from_abstract_name(scene.mark()).unwrap();
        drop(UnixStream::connect_addr(&address).unwrap());
        Box::new(|| {})
    }),
];

/// Waits until a signal has taken effect.
fn await_state(pid: Pid, state: &str) {
    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
    while !fs::read_to_string(&status).unwrap().contains(state) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Plays a sandbox that stops nothing.
pub(crate) fn leave_all_kinds() {
    let mut scene = Scene::new(Tier::Landlock);
    assert_eq!(scene.traces(), "");
    for (what, expected, leave) in KINDS {
        let undo = leave(&scene);
        let traces = scene.traces();
        assert!(traces.contains(expected), "{what}: {traces}");
        undo();
        // Undoing is a change as well, so this look is ignored.
        scene.traces();
        assert_eq!(scene.traces(), "", "{what}");
    }
    println!("all were seen");
}
