//! The progress of downloads.

/// The progress of one file's download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// The size of the file, in bytes.
    pub total: u64,
    /// The bytes that have arrived, including those of an earlier attempt.
    pub done: u64,
    /// What happened.
    pub phase: TransferPhase,
}

/// What happened in a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferPhase {
    /// The download begins, or resumes if there are bytes already.
    Started,
    /// More bytes have arrived.
    Advanced,
    /// The download has ended, complete or not.
    Ended,
}
