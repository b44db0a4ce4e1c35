//! What a caller learns of a download, to show it.

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// The size of the file, in bytes.
    pub total: u64,
    /// The bytes that are there, those of an earlier attempt included.
    pub done: u64,
    /// What happened.
    pub phase: TransferPhase,
}

/// What happened in a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferPhase {
    /// It begins, or resumes if there are bytes already.
    Started,
    /// More bytes came.
    Advanced,
    /// It has ended, with all bytes or without.
    Ended,
}
