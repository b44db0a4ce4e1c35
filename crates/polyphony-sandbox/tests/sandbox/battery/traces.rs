//! Leaves something of every kind, to see that the battery would.

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

/// What is left, what it is called where it is seen, and how to leave it.
type Kind = (&'static str, &'static str, fn(&Scene) -> Undo);

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
        let mut told = String::new();
        // Not to its end, which comes when the other process ends.
        let mut pipe = shell.stdout.take().unwrap();
        while !told.ends_with('\n') {
            let mut byte = [0];
            std::io::Read::read_exact(&mut pipe, &mut byte).unwrap();
            told.push(byte[0].into());
        }
        shell.wait().unwrap();
        let pid = Pid::from_raw(told.trim().parse().unwrap()).unwrap();
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
    ("an abstract socket", "abstract sockets: ", |scene| {
        let name = format!("{}x", scene.mark());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixListener::bind_addr(&address).unwrap();
        Box::new(move || drop(socket))
    }),
    ("shared memory", "System V: ", |_| {
        // SAFETY: a call without pointers.
        let number = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) };
        assert!(number >= 0);
        Box::new(move || {
            // SAFETY: removing takes no buffer.
            unsafe { libc::shmctl(number, libc::IPC_RMID, std::ptr::null_mut()) };
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
        drop(TcpStream::connect(("127.0.0.1", scene.tcp())).unwrap());
        Box::new(|| {})
    }),
    ("a datagram", "UDP", |scene| {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.send_to(b"x", ("127.0.0.1", scene.udp())).unwrap();
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

/// A signal takes a moment until it is seen.
fn await_state(pid: Pid, state: &str) {
    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
    while !fs::read_to_string(&status).unwrap().contains(state) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Plays a sandbox that holds nothing.
pub(crate) fn leave_all_kinds() {
    let mut scene = Scene::new(Tier::Landlock, Duration::from_millis(100));
    assert_eq!(scene.traces(), "");
    for (what, expected, leave) in KINDS {
        let undo = leave(&scene);
        let traces = scene.traces();
        assert!(traces.contains(expected), "{what}: {traces}");
        undo();
        // What was undone is a change once more.
        scene.traces();
        assert_eq!(scene.traces(), "", "{what}");
    }
    println!("all were seen");
}
