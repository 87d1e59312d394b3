//! SQL as text: identifiers, understanding a statement, rewriting it. Pure and synchronous; it
//! knows no connection and no configuration.
//!
//! [`prefilter`] decides in one pass over the bytes whether a text can matter at all; only then
//! [`statement::understand`] reads its tokens, and only queries on a migrated table are parsed.

pub mod body;
pub mod copy;
pub mod ident;
pub mod indirect;
pub mod layout;
pub mod lex;
pub mod mention;
pub mod normal;
pub mod plain;
pub mod prefilter;
pub mod prepare;
pub mod qualify;
pub mod read;
pub mod reason;
pub mod splice;
pub mod statement;
pub mod target;
pub mod truncate;
pub mod ways;
pub mod write;

mod cursor;
mod ddl;
mod read_hidden;
mod read_visit;
mod twin;
