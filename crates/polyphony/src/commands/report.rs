//! `polyphony report`: a page about runs for a browser.

use std::path::{Path, PathBuf};

use anyhow::Result;

use polyphony_report::{page, replace_text};

/// The arguments of `polyphony report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directories of training runs, baselines and saved evaluations. Those that differ only in their seeds
    /// are drawn together.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write; an existing file is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

/// Writes the page.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runs: Vec<&Path> = arguments.runs.iter().map(PathBuf::as_path).collect();
    let page = page(&runs)?;
    replace_text(&arguments.output, &page)?;
    log::info!("wrote {}: open it in a browser", arguments.output.display());
    Ok(())
}
