//! Checks that the files of a run are still as they were when a checkpoint was made, before they are cut to
//! the lengths that they had then.
//!
//! The checks cover the lengths of the files, the ends and steps of their lines, and the checksums of the
//! file for TensorBoard. Without them, cutting a file that somebody has edited could leave half a line. An
//! edit that keeps a line's length is not noticed.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Take},
    path::PathBuf,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    error::{ReportError, Result},
    evaluation::EvaluationRecord,
    events,
};

/// A file of a run, as it was when a checkpoint was made.
pub(crate) struct CheckpointedFile<'a> {
    pub(crate) path: PathBuf,
    pub(crate) file: &'a File,
    /// The length that it had then, in bytes. Later records follow.
    pub(crate) length: u64,
}

#[derive(Deserialize)]
struct StepLine {
    step: usize,
}

impl CheckpointedFile<'_> {
    /// Checks that there is one line of metrics for every step.
    pub(crate) fn check_metrics(&self, steps: usize) -> Result<()> {
        let mut last = 0;
        self.check_lines(|StepLine { step }| {
            last += 1;
            (step != last).then(|| format!("is of step {step}, but must be of step {last}"))
        })?;
        match last == steps {
            true => Ok(()),
            false => Err(self.changed(format!("it has {last} steps, but must have {steps}"))),
        }
    }

    /// Checks that the rollouts are in the order of the steps.
    pub(crate) fn check_rollouts(&self, steps: usize) -> Result<()> {
        let mut last = 1;
        self.check_lines(|StepLine { step }| {
            let allowed = last..=steps;
            last = step;
            (!allowed.contains(&step)).then(|| out_of_order(step, &allowed))
        })
    }

    /// Checks that every evaluation can be read, and that none is of a later step.
    pub(crate) fn check_evaluations(&self, steps: usize) -> Result<()> {
        self.check_lines(|evaluation: EvaluationRecord| {
            let step = evaluation.step.filter(|step| *step > steps)?;
            Some(out_of_order(step, &(0..=steps)))
        })
    }

    /// Checks that the file for TensorBoard consists of complete records.
    pub(crate) fn check_events(&self) -> Result<()> {
        self.check_length()?;
        let is_whole = self
            .read()
            .and_then(events::is_whole)
            .map_err(ReportError::io("reading", &self.path))?;
        match is_whole {
            true => Ok(()),
            false => Err(self.changed("a record in it is damaged or cut off".to_owned())),
        }
    }

    /// Checks that the file consists of complete lines that can be read. `problem_of` returns what is wrong
    /// with a line.
    fn check_lines<T: DeserializeOwned>(
        &self,
        mut problem_of: impl FnMut(T) -> Option<String>,
    ) -> Result<()> {
        self.check_length()?;
        let failed = || ReportError::io("reading", &self.path);
        let mut lines = self.read().map_err(failed())?;
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            lines.read_until(b'\n', &mut bytes).map_err(failed())?;
            match bytes.last() {
                None => break,
                Some(b'\n') => {}
                Some(_) => {
                    let length = self.length;
                    let reason = format!("no line ends after its first {length} bytes");
                    return Err(self.changed(reason));
                }
            }
            let object = serde_json::from_slice(&bytes).map_err(|source| ReportError::Line {
                path: self.path.clone(),
                line,
                source,
            })?;
            if let Some(reason) = problem_of(object) {
                return Err(self.changed(format!("line {line} {reason}")));
            }
        }
        Ok(())
    }

    fn check_length(&self) -> Result<()> {
        let found = self
            .file
            .metadata()
            .map_err(ReportError::io("reading", &self.path))?
            .len();
        match found < self.length {
            true => {
                let expected = self.length;
                Err(self.changed(format!("it has {found} bytes, but had {expected}")))
            }
            false => Ok(()),
        }
    }

    fn read(&self) -> io::Result<BufReader<Take<&File>>> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(0))?;
        Ok(BufReader::new(file.take(self.length)))
    }

    fn changed(&self, reason: String) -> ReportError {
        ReportError::Changed {
            path: self.path.clone(),
            reason,
        }
    }
}

fn out_of_order(step: usize, allowed: &std::ops::RangeInclusive<usize>) -> String {
    format!(
        "is of step {step}, but must be of a step from {} to {}",
        allowed.start(),
        allowed.end()
    )
}
