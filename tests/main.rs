//! Integration tests across the crates, one binary.
