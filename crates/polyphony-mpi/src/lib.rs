//! Connects the processes of a run over MPI: `Mpi` makes a `Communicator` (of `polyphony-marl`) of all processes that
//! `mpirun` or `srun` has started together. Without the feature `mpi`, this crate is empty.
//!
//! The crate knows how bytes and numbers travel. It must not know what they mean, nor how a team learns.
//!
//! If MPI itself fails, it ends the whole job. A process that fails in another way must call `Mpi::abort`, since the
//! others would wait for it forever.

#![cfg(feature = "mpi")]

mod communicator;
mod waiting;

use std::{mem::ManuallyDrop, sync::Arc};

use mpi::{Threading, environment::Universe, traits::Communicator as _};
use polyphony_marl::{CommunicationError, Communicator};

use self::communicator::MpiCommunicator;

/// The connection of this process to the others.
pub struct Mpi {
    /// Dropping it waits for all other processes, which is wrong after a failure.
    universe: ManuallyDrop<Universe>,
    world: Arc<dyn Communicator>,
}

impl Mpi {
    /// Connects to the processes that were started together with this one. Call it once, before anything else.
    ///
    /// # Errors
    /// If MPI was initialized before, or cannot be used from a thread other than the first one.
    pub fn connect() -> Result<Self, CommunicationError> {
        let failed = |message: &str| CommunicationError::Failed {
            operation: "initializing MPI",
            message: message.to_owned(),
        };
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| failed("it is initialized already"))?;
        if threading < Threading::Serialized {
            return Err(failed(
                "this library cannot be called from several threads (MPI_THREAD_SERIALIZED)",
            ));
        }
        let world = MpiCommunicator::world(universe.world());
        Ok(Self {
            universe: ManuallyDrop::new(universe),
            world: Arc::new(world),
        })
    }

    /// The communicator of all processes.
    pub fn world(&self) -> Arc<dyn Communicator> {
        Arc::clone(&self.world)
    }

    /// Waits until all processes have ended their communication. Call it at the end of a successful run.
    pub fn finalize(self) {
        drop(self.world);
        drop(ManuallyDrop::into_inner(self.universe));
    }

    /// Ends all processes at once. This one ends with `status`.
    pub fn abort(&self, status: i32) -> ! {
        self.universe.world().abort(status)
    }
}
