//! The regression corpus as oracle: what `understand` makes of each statement of Postgres's own
//! regression suite, if every table that it names were migrated, judged by Postgres's own parser.
//!
//! A statement is *wrong* if its class, its tables, its rewritten form or the reason why it has none
//! is not what the tree says; *not understood* if it is unclassified, or a read that could not be read; else *understood*.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod ast;
mod corpus;
mod hidden;
mod judge;
mod kept;
mod read;
mod report;
mod selfcheck;
mod tables;
mod write;

use std::path::Path;

/// Major versions that the statements are said to, and the percentage of them that is understood:
/// what can be mirrored of MERGE and of changes of keys hangs on the version.
const UNDERSTOOD_PERCENT_MIN: [(u32, f64); 2] = [(15, 99.6), (18, 99.8)];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("usage: oracle FOLDER_OF_SQL [--list WORDS]");
    let list = arguments.next().filter(|a| a == "--list").and_then(|_| arguments.next());
    let files = corpus::read(Path::new(&folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    selfcheck::run();
    let versions = UNDERSTOOD_PERCENT_MIN.map(|(version, _)| version);
    let mut passes = true;
    for (report, (version, minimum)) in
        judge::all(&files, versions).iter().zip(UNDERSTOOD_PERCENT_MIN)
    {
        println!("\nPostgres {version}\n");
        report.print(list.as_deref());
        passes &= report.passes(minimum);
    }
    std::process::exit(i32::from(!passes));
}
