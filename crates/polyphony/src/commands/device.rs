//! `polyphony device`: the devices of this machine.

use std::io::Write;

use anyhow::Result;
use clap::Subcommand;
use polyphony_runner::list_devices;

use crate::json_lines;

/// The arguments of `polyphony device`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the devices that models can run on, and what other kinds of devices lack, one JSON object per line.
    List,
}

/// Lists the devices.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let Command::List = arguments.command;
    list_devices()
        .iter()
        .try_for_each(|device| json_lines::write(output, device))
}
