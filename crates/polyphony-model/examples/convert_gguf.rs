//! Converts a GGUF file to a Hugging Face directory that PyTorch transformers loads:
//! `cargo run --example convert_gguf -- MODEL.gguf DIRECTORY`.

#![expect(
    clippy::print_stderr,
    reason = "a command-line program reports to its user"
)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target] = &arguments[..] else {
        eprintln!("usage: convert_gguf MODEL.gguf DIRECTORY");
        return ExitCode::FAILURE;
    };
    match polyphony_model::convert(Path::new(source), Path::new(target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
