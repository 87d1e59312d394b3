//! SQL as text: identifiers, understanding a statement, rewriting it. Pure and synchronous; it
//! knows no connection and no configuration.

pub mod ident;
pub mod target;
