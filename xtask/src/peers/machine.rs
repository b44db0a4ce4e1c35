//! The machine, the date and the commit that figures belong to.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::process::{self, say};

/// Where and when figures were measured.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) threads: usize,
    /// UTC.
    pub(super) date: String,
    /// The share of the processor's time that other programs took before the first measurement.
    pub(super) busy_fraction: Option<f64>,
}

/// Above this share, figures depend on other programs.
const BUSY: f64 = 0.05;

impl Machine {
    /// Describes this machine, and warns if other programs use it.
    ///
    /// # Errors
    /// If the date or the number of threads is unknown.
    pub(super) fn observe() -> Result<Self> {
        let mut date = Command::new("date");
        let date = process::output(date.args(["-u", "+%Y-%m-%d %H:%M"]))?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let busy_fraction = busy_fraction();
        if let Some(busy) = busy_fraction.filter(|busy| *busy > BUSY) {
            say(format_args!(
                "warning: other programs use {:.0} % of the processor, so the figures are not \
                 comparable; end them and start again",
                busy * 100.0
            ));
        }
        Ok(Self {
            processor: processor(&cpuinfo),
            threads: thread::available_parallelism()
                .context("counting threads")?
                .get(),
            date: String::from_utf8(date)?.trim().to_owned(),
            busy_fraction,
        })
    }
}

/// The commit of the checkout, if git knows it.
pub(super) fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--exclude=*"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The processor's name. Virtual machines often hide the model, which family and model number still show.
fn processor(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let field = fields.find(|(name, _)| name.trim() == key);
        field.map_or("unknown", |(_, value)| value.trim())
    };
    format!(
        "{}, family {}, model {}",
        value("model name"),
        value("cpu family"),
        value("model")
    )
}

/// The share of the processor's time in the next second that is not idle.
fn busy_fraction() -> Option<f64> {
    let before = times(&fs::read_to_string("/proc/stat").ok()?)?;
    thread::sleep(Duration::from_secs(1));
    let after = times(&fs::read_to_string("/proc/stat").ok()?)?;
    let (idle, total) = (after.0 - before.0, after.1 - before.1);
    (total > 0.0).then(|| 1.0 - idle / total)
}

/// The idle time of all cores since the machine started, and all time, in the same unit.
fn times(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Option<Vec<f64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
    let fields = fields?;
    // user, nice, system, idle, waiting for disks, …; see proc(5).
    Some((fields.get(3)? + fields.get(4)?, fields.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_with_its_model() {
        let cpuinfo = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n";
        assert_eq!(processor(cpuinfo), "AMD EPYC, family 26, model 2");
        assert_eq!(processor(""), "unknown, family unknown, model unknown");
    }

    #[test]
    fn waiting_for_disks_is_idle() {
        assert_eq!(times("cpu  1 2 3 40 5 0 0 0 0 0\n"), Some((45.0, 51.0)));
        assert_eq!(times("cpu  1 2 3\n"), None);
        assert_eq!(times(""), None);
    }
}
