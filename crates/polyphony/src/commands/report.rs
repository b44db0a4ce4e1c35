//! `polyphony report`: what runs did, as a page for a browser.

use std::path::{Path, PathBuf};

use anyhow::Result;

use polyphony_report::{page, replace_text};

/// The arguments of `polyphony report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directories of training runs, of baselines and of kept evaluations. Those that differ in their
    /// seeds alone are drawn together.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write, in place of one that is there.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

/// Writes the page of the runs that the arguments name.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runs: Vec<&Path> = arguments.runs.iter().map(PathBuf::as_path).collect();
    let page = page(&runs)?;
    replace_text(&arguments.output, &page)?;
    log::info!("wrote {}: open it in a browser", arguments.output.display());
    Ok(())
}
