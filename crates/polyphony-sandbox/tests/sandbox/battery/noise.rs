//! Plays another user of the machine, whose objects a battery must not take for traces.

use std::{
    ffi::CString,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::Read,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::chown,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::process::geteuid;

use super::scene::NOBODY;
use crate::processes::helper;

/// A process that plays the other user.
pub(super) struct Noise(Child);

impl Noise {
    pub(super) fn start() -> Self {
        let mut command = helper("noise", Vec::new());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(piped.spawn().unwrap())
    }

    /// Lets it clean up and end. It must have run all the time.
    pub(super) fn stop(mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "the noise ended early");
        drop(self.0.stdin.take());
        let mut printed = String::new();
        let mut pipe = self.0.stdout.take().unwrap();
        pipe.read_to_string(&mut printed).unwrap();
        assert!(self.0.wait().unwrap().success(), "{printed}");
        assert!(printed.contains("rounds of noise"), "{printed}");
    }
}

/// Plays another user of the machine until its standard input is closed.
pub(crate) fn make_noise() {
    static OVER: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        OVER.store(true, Ordering::Relaxed);
    });
    let mut rounds = 0;
    while !OVER.load(Ordering::Relaxed) {
        make_and_remove(RandomState::new().hash_one(rounds));
        rounds += 1;
    }
    println!("{rounds} rounds of noise");
}

/// Creates one object of every kind, and removes it after a moment.
fn make_and_remove(nonce: u64) {
    // A name like that of a battery, but a different one.
    let name = format!("polyphony-battery-{nonce:016x}-");
    let path = CString::new(format!("/{name}")).unwrap();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let servers = (
        TcpListener::bind(("127.0.0.1", 0)).unwrap(),
        UdpSocket::bind(("127.0.0.1", 0)).unwrap(),
    );
    let files = [
        format!("/tmp/{name}"),
        format!("/tmp/core.{nonce}"),
        format!("/dev/shm/{name}"),
    ];
    for file in &files {
        leave_file(file.as_ref());
    }
    let [memory, semaphores, queue] = system_v();
    let read_write = libc::O_CREAT | libc::O_RDWR;
    // SAFETY: the name outlives the call, and there are no attributes to read.
    let posix = unsafe {
        libc::mq_open(
            path.as_ptr(),
            read_write,
            0o600,
            ptr::null::<libc::mq_attr>(),
        )
    };
    let mut process = Command::new("sleep").arg("0.01").spawn().unwrap();
    thread::sleep(Duration::from_millis(5));
    process.wait().unwrap();
    // SAFETY: these were created above and nobody else knows them; removing takes no buffers.
    unsafe {
        libc::shmctl(memory, libc::IPC_RMID, ptr::null_mut());
        libc::semctl(semaphores, 0, libc::IPC_RMID);
        libc::msgctl(queue, libc::IPC_RMID, ptr::null_mut());
        if posix >= 0 {
            libc::mq_close(posix);
            libc::mq_unlink(path.as_ptr());
        }
    }
    for file in files {
        fs::remove_file(file).unwrap();
    }
    drop((socket, servers));
    thread::sleep(Duration::from_millis(5));
}

/// Creates a file that belongs to the user that programs run as, if possible.
fn leave_file(path: &Path) {
    File::create(path).unwrap();
    if geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Shared memory, semaphores and a queue without a key.
fn system_v() -> [libc::c_int; 3] {
    // SAFETY: calls without pointers.
    let objects = unsafe {
        [
            libc::shmget(libc::IPC_PRIVATE, 4096, 0o600),
            libc::semget(libc::IPC_PRIVATE, 1, 0o600),
            libc::msgget(libc::IPC_PRIVATE, 0o600),
        ]
    };
    assert!(objects.iter().all(|number| *number >= 0), "{objects:?}");
    objects
}
