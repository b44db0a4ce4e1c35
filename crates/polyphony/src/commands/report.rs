//! `polyphony report`: writes an HTML page that shows runs in a browser.

use std::path::{Path, PathBuf};

use anyhow::Result;

use polyphony_report::{page, replace_text};

/// The arguments of `polyphony report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show these directories of training runs, baselines and saved evaluations. Runs that differ only in
    /// their seeds are drawn together.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write the page to this file, replacing an existing one.
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
