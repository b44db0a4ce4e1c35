//! A test binary of its own, because the panic hook belongs to the whole process.

use std::panic::{self, PanicHookInfo};

use polyphony_env::File;
use polyphony_episode::TaskSource;

type Hook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

fn address(hook: &Hook) -> *const () {
    std::ptr::from_ref(hook).cast()
}

#[test]
fn the_hook_of_the_program_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posts.parquet");
    std::fs::write(&path, "This is not Parquet.").unwrap();
    let usual = panic::take_hook();
    let hook: Box<Hook> = Box::new(move |panic| usual(panic));
    let expected = address(&*hook);
    panic::set_hook(hook);
    // The library catches panics of the decoder.
    assert!(File::new(path).load().is_err());
    assert_eq!(address(&*panic::take_hook()), expected);
}
