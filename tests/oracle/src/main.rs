//! The regression corpus as oracle: what `understand` makes of each statement of Postgres's own
//! regression suite, if every table that it names were migrated, judged by Postgres's own parser.
//!
//! A statement is *wrong* if its class, its tables or its rewritten form is not what the tree says;
//! *not understood* if it is unclassified, or a read that could not be read; else *understood*.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod ast;
mod corpus;
mod hidden;
mod judge;
mod read;
mod report;
mod tables;

use std::path::Path;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("usage: oracle FOLDER_OF_SQL [--list WORDS]");
    let list = arguments.next().filter(|a| a == "--list").and_then(|_| arguments.next());
    let files = corpus::read(Path::new(&folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let report = judge::all(&files);
    report.print(list.as_deref());
    std::process::exit(i32::from(!report.passes()));
}
