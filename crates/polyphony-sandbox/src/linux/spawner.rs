//! The thread that starts zygotes.
//!
//! A zygote dies with the thread that cloned it, so this thread lives as long as the pool. It blocks
//! all signals, so that no signal handler runs in a process that was just cloned from it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{
    launch::{LaunchError, Launcher},
    plan::Role,
    program_run::Pair,
    zygote::Zygote,
};

type StartResult = Result<Zygote, LaunchError>;

/// Starts zygotes, which end when the spawner is dropped.
pub(super) struct Spawner {
    launcher: Arc<Launcher>,
    requests: Sender<(Role, Sender<StartResult>)>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system cannot start another thread.
    pub(super) fn new(launcher: Launcher) -> io::Result<Self> {
        let launcher = Arc::new(launcher);
        let (requests, inbox) = channel();
        let thread_launcher = Arc::clone(&launcher);
        thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || serve(&thread_launcher, &inbox))?;
        Ok(Self { launcher, requests })
    }

    /// Starts a solver and a judge, and waits until both are warm.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) fn pair(&self) -> Result<Pair, LaunchError> {
        let solver = self.start(Role::Solver)?;
        let judge = self.start(Role::Judge)?;
        Ok(Pair {
            solver: self.launcher.warm(solver)?,
            judge: self.launcher.warm(judge)?,
        })
    }

    fn start(&self, role: Role) -> StartResult {
        let (reply, inbox) = channel();
        let thread_ended = || LaunchError {
            step: "starting a process".to_owned(),
            reason: "the thread that starts processes has ended".to_owned(),
        };
        let sent = self.requests.send((role, reply));
        sent.map_err(|_| thread_ended())?;
        inbox.recv().map_err(|_| thread_ended())?
    }
}

fn serve(launcher: &Launcher, inbox: &Receiver<(Role, Sender<StartResult>)>) {
    block_signals();
    while let Ok((role, reply)) = inbox.recv() {
        // If the receiver is gone, the zygote is dropped, which ends it.
        let _ = reply.send(launcher.start(role));
    }
}

fn block_signals() {
    // SAFETY: `sigfillset` initializes the set before it is read, and the set lives throughout.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
