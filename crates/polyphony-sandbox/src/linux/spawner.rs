//! The thread that starts zygotes.
//!
//! A zygote's life is tied to the thread that cloned it, so this one lives as long as the pool. It
//! handles no signals, so that none is handled in a process that was just cloned from it.

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
    trial::Pair,
    zygote::Zygote,
};

type Answer = Result<Zygote, LaunchError>;

/// Starts zygotes for as long as it is there; they end with it.
pub(super) struct Spawner {
    launcher: Arc<Launcher>,
    requests: Sender<(Role, Sender<Answer>)>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system starts no more threads.
    pub(super) fn new(launcher: Launcher) -> io::Result<Self> {
        let launcher = Arc::new(launcher);
        let (requests, inbox) = channel();
        let own = Arc::clone(&launcher);
        thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || serve(&own, &inbox))?;
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

    fn start(&self, role: Role) -> Answer {
        let (answer, answered) = channel();
        let gone = || LaunchError {
            step: "starting a process".to_owned(),
            reason: "the thread that starts processes has ended".to_owned(),
        };
        self.requests.send((role, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

fn serve(launcher: &Launcher, inbox: &Receiver<(Role, Sender<Answer>)>) {
    block_signals();
    while let Ok((role, answer)) = inbox.recv() {
        // If nobody waits for it any longer, it is dropped and thereby ended.
        let _ = answer.send(launcher.start(role));
    }
}

fn block_signals() {
    // SAFETY: the set is initialized by `sigfillset` before it is read, and lives throughout.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
