//! What is fuzzed: one function per target, any bytes in, a panic on a finding. Used twice, by
//! `fuzz/` (libFuzzer, nightly) and by this test binary (the stored corpus and a few mutations,
//! stable).
//!
//! The oracles are decoders of other projects on one isolated frame. `pgwire` reads past the end
//! of a body, panics on short ones and replaces what is not UTF-8: its word counts where what it
//! has read encodes to the very bytes that it was given.

mod backend;
mod copy;
mod frames;
mod frontend;
mod sql;
mod startup;

pub use sql::targets as sql_targets;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const ALL: [(&str, Target); 7] = [
    ("frames", frames::run),
    ("startup", startup::run),
    ("frontend", frontend::run),
    ("backend", backend::run),
    ("sql", sql::run),
    ("sql_words", sql::run_words),
    ("copy", copy::run),
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = ALL.iter().find(|(n, _)| *n == name).expect("a target of this name");
    target(data);
}

/// What an oracle says, `None` when it panics: no finding of ours, so nothing is printed.
fn asked<T>(oracle: impl FnOnce() -> T) -> Option<T> {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
    use std::sync::Once;
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // libFuzzer's hook ends the process.
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let answer = catch_unwind(AssertUnwindSafe(oracle)).ok();
    QUIET.set(false);
    answer
}

/// A frame around a body.
fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("a small body").to_be_bytes();
    [&[tag], &length[..], body].concat()
}
