//! polyphony-sandbox
