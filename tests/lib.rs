//! Integration tests across the crates live in `main.rs` and the modules beside it.
