//! Limits the size of a data set: a file of a few megabytes must not fill the memory or delay a run.

use std::num::NonZeroUsize;

use polyphony_episode::Task;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const MB: usize = 1 << 20;

/// How large a file and its tasks may be. Loading fails as soon as one of the bounds is exceeded. The
/// defaults are far above the size of usual data sets.
///
/// ```
/// # use polyphony_env::{DataBounds, File};
/// let posts: File = ron::from_str(r#"(path: "posts.jsonl.gz", bounds: (file_mb: 4096))"#)?;
/// assert_eq!(posts.bounds.file_mb.get(), 4096);
/// assert_eq!(posts.bounds.records, DataBounds::default().records);
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataBounds {
    /// The largest record, in MB: a line, or those values of a row that are used. 16 by default.
    pub record_mb: NonZeroUsize,
    /// The number of lines or rows that are read, including blank and skipped ones. 1,000,000 by default.
    pub records: NonZeroUsize,
    /// How much may be read from a file, in MB after unpacking. 512 by default.
    pub file_mb: NonZeroUsize,
    /// The memory that the tasks take, in MB. 768 by default.
    pub set_mb: NonZeroUsize,
}

impl Default for DataBounds {
    fn default() -> Self {
        // The compiler checks that none of these is zero.
        const {
            Self {
                record_mb: NonZeroUsize::new(16).unwrap(),
                records: NonZeroUsize::new(1_000_000).unwrap(),
                file_mb: NonZeroUsize::new(512).unwrap(),
                set_mb: NonZeroUsize::new(768).unwrap(),
            }
        }
    }
}

/// One of the [`DataBounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Record,
    Records,
    File,
    Set,
}

/// Which of the [`DataBounds`] was exceeded, and how to raise it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found}; if the file is correct, {remedy}")]
pub struct BoundExceeded {
    found: String,
    remedy: String,
}

impl DataBounds {
    /// The maximum of a bound, in records or bytes.
    pub(super) fn max(self, bound: Bound) -> usize {
        match bound {
            Bound::Record => self.record_mb.get().saturating_mul(MB),
            Bound::Records => self.records.get(),
            Bound::File => self.file_mb.get().saturating_mul(MB),
            Bound::Set => self.set_mb.get().saturating_mul(MB),
        }
    }

    /// Fails if an amount, in records or bytes, is above a bound.
    pub(super) fn check(self, bound: Bound, amount: usize) -> Result<(), BoundExceeded> {
        if amount <= self.max(bound) {
            return Ok(());
        }
        let (key, value, unit) = match bound {
            Bound::Record => ("record_mb", self.record_mb, "MB in one record"),
            Bound::Records => ("records", self.records, "lines or rows"),
            Bound::File => ("file_mb", self.file_mb, "MB to read after unpacking"),
            Bound::Set => ("set_mb", self.set_mb, "MB of tasks"),
        };
        let advice = match bound {
            Bound::Record => "",
            Bound::Records | Bound::File | Bound::Set => "use fewer records (`limit`) or ",
        };
        let double = value.get().saturating_mul(2);
        Err(BoundExceeded {
            found: format!("more than {value} {unit}"),
            remedy: format!("{advice}raise the bound, as in `bounds: ({key}: {double})`"),
        })
    }
}

/// Counts the records and bytes that are read from one file.
#[derive(Debug)]
pub(super) struct Meter {
    bounds: DataBounds,
    records: usize,
    bytes: usize,
}

impl Meter {
    pub(super) fn new(bounds: DataBounds) -> Self {
        Self {
            bounds,
            records: 0,
            bytes: 0,
        }
    }

    /// Counts one more record of this many bytes, and checks the bounds.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), BoundExceeded> {
        self.records += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.bounds.check(Bound::Records, self.records)?;
        self.bounds.check(Bound::Record, bytes)?;
        self.bounds.check(Bound::File, self.bytes)
    }
}

/// Estimates the memory of a task in bytes: its texts, and the overhead of maps and allocations. An
/// identifier counts twice, because a second copy exists while the set loads.
pub(super) fn estimate_memory(task: &Task) -> usize {
    const TASK: usize = 512;
    const FIELD: usize = 128;
    let fields = task.fields.iter();
    let texts = fields.map(|(name, text)| FIELD + name.len() + text.len());
    TASK + 2 * task.id.len() + texts.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_bound_says_how_to_raise_it() {
        let small = |value| NonZeroUsize::new(value).unwrap();
        let bounds = DataBounds {
            record_mb: small(2),
            records: small(3),
            file_mb: small(4),
            set_mb: small(5),
        };
        let fewer = "if the file is correct, use fewer records (`limit`) or raise the bound";
        let rows = [
            (
                Bound::Record,
                2 * MB,
                "more than 2 MB in one record; if the file is correct, \
                 raise the bound, as in `bounds: (record_mb: 4)`"
                    .to_owned(),
            ),
            (
                Bound::Records,
                3,
                format!("more than 3 lines or rows; {fewer}, as in `bounds: (records: 6)`"),
            ),
            (
                Bound::File,
                4 * MB,
                format!(
                    "more than 4 MB to read after unpacking; {fewer}, as in `bounds: (file_mb: 8)`"
                ),
            ),
            (
                Bound::Set,
                5 * MB,
                format!("more than 5 MB of tasks; {fewer}, as in `bounds: (set_mb: 10)`"),
            ),
        ];
        for (bound, max, expected) in rows {
            assert_eq!(bounds.check(bound, max), Ok(()));
            let error = bounds.check(bound, max + 1).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
