//! A decoding pass that is launched once, then recorded and replayed.

use std::sync::{Mutex, PoisonError};

use cubecl::{
    client::{Client, Graph},
    server::ServerError,
};

/// CUDA refuses what any thread does with any device while one of them records, so one records at a time.
static RECORDING: Mutex<()> = Mutex::new(());

/// The passes over some rows. The first one is launched kernel by kernel, which also compiles the kernels. The others
/// are one launch each: a graph of the same kernels, which is recorded once. What changes from pass to pass is in the
/// device's memory, so the graph stays right.
pub(super) struct Passes<'d> {
    client: &'d Client,
    launch: &'d (dyn Fn() + Sync),
    recording: Recording,
}

enum Recording {
    /// It is made at the first pass.
    Wanted,
    Done(Graph),
    /// Every pass is launched kernel by kernel.
    NotWanted,
}

/// Why a pass did not run.
#[derive(Debug)]
pub(super) enum PassError {
    /// It could not be recorded. The device then refuses to read what a recorded kernel would have written, so all
    /// passes must be run anew, on other buffers.
    NotRecorded(ServerError),
    Failed(ServerError),
}

impl<'d> Passes<'d> {
    /// Passes whose kernels `launch` launches. They use the same buffers each time.
    pub(super) fn new(client: &'d Client, launch: &'d (dyn Fn() + Sync), records: bool) -> Self {
        Self {
            client,
            launch,
            recording: match records {
                true => Recording::Wanted,
                false => Recording::NotWanted,
            },
        }
    }

    /// Runs a pass. `is_last` says that no other one follows, for which recording would not pay.
    pub(super) fn run(&mut self, is_last: bool) -> Result<(), PassError> {
        match &self.recording {
            Recording::Wanted if !is_last => {
                self.recording = Recording::Done(self.run_and_record()?);
                Ok(())
            }
            // SAFETY: the caller keeps every buffer that the recorded kernels use. This thread alone uses them, on the
            // stream that the graph was recorded on.
            Recording::Done(graph) => unsafe { graph.replay() }.map_err(PassError::Failed),
            Recording::Wanted | Recording::NotWanted => {
                (self.launch)();
                Ok(())
            }
        }
    }

    fn run_and_record(&self) -> Result<Graph, PassError> {
        let prepared = self.client.graph_prepare();
        (self.launch)();
        let recorded = prepared.and_then(|()| {
            let _alone = RECORDING.lock().unwrap_or_else(PoisonError::into_inner);
            // What other threads let this device do could end the recording, or be refused because of it.
            self.client.exclusive(|| {
                self.client.start_capture()?;
                (self.launch)();
                self.client.stop_capture()
            })?
        });
        recorded.map_err(|error| {
            // If the recording is still open, it must not take up what comes next. If it is not, this is refused.
            let _ = self.client.stop_capture();
            PassError::NotRecorded(error)
        })
    }
}
