//! Converts a GGUF file to a Hugging Face directory that PyTorch transformers loads:
//! `cargo run -p polyphony-model --example convert_gguf -- MODEL.gguf DIRECTORY`.
//!
//! Without arguments it prints its usage.

#![expect(
    clippy::print_stderr,
    reason = "a command-line program reports to its user"
)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [source, target] => convert(Path::new(source), Path::new(target)),
        arguments => {
            eprintln!("usage: convert_gguf MODEL.gguf DIRECTORY");
            if arguments.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn convert(source: &Path, target: &Path) -> ExitCode {
    match polyphony_model::convert(source, target) {
        Ok(()) => {
            eprintln!("{} is ready", target.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
