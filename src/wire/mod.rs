//! The wire protocol as bytes: <https://www.postgresql.org/docs/15/protocol-message-formats.html>.
//! Readers look at one isolated frame and never past its end; a frame that is not rewritten is
//! not decoded.

pub mod backend;
pub mod build;
pub mod frame;
pub mod frontend;
pub mod reader;
pub mod scram;
pub mod startup;
