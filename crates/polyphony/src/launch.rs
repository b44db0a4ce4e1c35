//! The processes that `mpirun` or `srun` has started together with this one, if any.

use std::{num::NonZeroUsize, process::ExitCode, sync::Arc, thread, time::Duration};

use anyhow::{Result, bail};
use polyphony_marl::{Communicator, MarlError, Message, RankGroup, SingleRank};
use polyphony_runner::Observer;

use crate::display::Display;

/// The variables in which launchers tell a process how many were started together.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The variables in which they tell its rank.
const RANKS: [&str; 4] = [
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "SLURM_PROCID",
];

/// The number in the first of these variables that has one.
fn number(variables: &[&str]) -> Option<usize> {
    variables
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Whether this process has to explain why it cannot connect to the others: it is the first of them, as far as the
/// launcher tells.
pub(crate) fn explains_failure() -> bool {
    number(&RANKS).is_none_or(|rank| rank == 0)
}

/// The connection of this process to those that were started together with it.
pub(crate) struct Launch {
    world: Arc<dyn Communicator>,
    #[cfg(feature = "mpi")]
    mpi: Option<polyphony_mpi::Mpi>,
}

impl Default for Launch {
    /// A process that was started alone.
    fn default() -> Self {
        Self {
            world: Arc::new(SingleRank),
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }
}

impl Launch {
    /// Connects to the processes that were started together with this one.
    ///
    /// # Errors
    /// If MPI cannot be used, or there are several processes but the program was built without MPI.
    #[cfg(feature = "mpi")]
    pub(crate) fn connect() -> Result<Self> {
        let size = number(&SIZES);
        // PMIx tells a process its rank, but not how many there are.
        if size == Some(1) || size.or(number(&RANKS)).is_none() {
            return Ok(Self::default());
        }
        let mpi = polyphony_mpi::Mpi::connect()?;
        // Otherwise each process would train the whole team alone.
        if let Some(expected) = size.filter(|size| *size != mpi.world().size()) {
            bail!(
                "{expected} processes were started together, but the MPI library ({}) connects only {} of them: use the \
                 launcher of the library with which the program was built",
                mpi.world().library().unwrap_or_default(),
                mpi.world().size()
            );
        }
        Ok(Self {
            world: mpi.world(),
            mpi: Some(mpi),
        })
    }

    /// Checks that this process was started alone.
    ///
    /// # Errors
    /// If there are several processes, since the program was built without MPI.
    #[cfg(not(feature = "mpi"))]
    pub(crate) fn connect() -> Result<Self> {
        if let Some(size @ 2..) = number(&SIZES) {
            bail!(
                "this is one of {size} processes that were started together, but the program was built without MPI: \
                 build it with `cargo build --release -p polyphony --features mpi`, or start one process"
            );
        }
        Ok(Self::default())
    }

    /// The ranks.
    pub(crate) fn world(&self) -> &Arc<dyn Communicator> {
        &self.world
    }

    /// Whether this process reports to the user.
    pub(crate) fn is_first(&self) -> bool {
        self.world.rank() == 0
    }

    /// What shows the progress of a run: nothing on other ranks than the first.
    pub(crate) fn display(&self) -> Box<dyn Observer> {
        match self.is_first() {
            true => Box::new(Display::default()),
            false => Box::new(()),
        }
    }

    /// Refuses a command that several ranks cannot share.
    ///
    /// # Errors
    /// If there are several ranks.
    pub(crate) fn refuse_ranks(&self) -> Result<()> {
        match self.world.size() {
            1 => Ok(()),
            ranks => bail!(
                "this command runs in one process, but {ranks} were started together; `train`, `resume`, `eval` and \
                 `baseline` can share their work"
            ),
        }
    }

    /// The number of threads of this process: the ranks that may use the same processors divide them. `None` for the
    /// usual number.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub(crate) fn threads(&self) -> Result<Option<usize>> {
        if self.world.size() == 1 {
            return Ok(None);
        }
        let processors = (self.world.node().first, usable_processors());
        let world = RankGroup::of(Arc::clone(&self.world));
        let all = world.exchange(Message::Records, Ok(processors.clone()))?;
        if std::env::var_os("RAYON_NUM_THREADS").is_some() {
            return Ok(None);
        }
        let sharing = all.iter().filter(|other| **other == processors).count();
        // It takes the limits of containers into account.
        let usable = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Some((usable / sharing).max(1)))
    }

    /// Ends this process after a failure, and with it all others. Of several ranks that have failed, only one explains
    /// why.
    pub(crate) fn fail(&self, error: &anyhow::Error, explain: impl FnOnce()) -> ExitCode {
        if self.world.size() > 1 {
            let is_of_other_rank = error
                .chain()
                .any(|cause| matches!(cause.downcast_ref(), Some(MarlError::OtherRank { .. })));
            // The rank that explains its error ends the others while they wait here.
            let patience = match (is_of_other_rank, self.world.rank()) {
                (true, _) => Duration::from_secs(8),
                (false, 0) => Duration::ZERO,
                (false, rank) => Duration::from_millis(4000 + 20 * rank.min(150) as u64),
            };
            thread::sleep(patience);
        }
        explain();
        self.abort_others(1);
        ExitCode::FAILURE
    }

    /// Ends all processes if there are several, this one with `status`.
    pub(crate) fn abort_others(&self, status: i32) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = self.mpi.as_ref().filter(|_| self.world.size() > 1) {
            mpi.abort(status);
        }
        let _ = status;
    }

    /// Ends the communication after success.
    pub(crate) fn end(self) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = self.mpi {
            drop(self.world);
            mpi.finalize();
        }
    }
}

/// The processors that this process may use, in a form that can be compared; empty if the system does not tell.
#[cfg(target_os = "linux")]
fn usable_processors() -> Vec<u8> {
    let mut processors = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the call writes at most `size` bytes to the set.
    let outcome = unsafe { libc::sched_getaffinity(0, size, processors.as_mut_ptr()) };
    if outcome != 0 {
        return Vec::new();
    }
    // SAFETY: the set is plain bytes, all of which were zeroed.
    let bytes = unsafe { std::slice::from_raw_parts(processors.as_ptr().cast::<u8>(), size) };
    bytes.to_vec()
}

#[cfg(not(target_os = "linux"))]
fn usable_processors() -> Vec<u8> {
    Vec::new()
}
