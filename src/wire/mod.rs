//! The wire protocol as bytes: https://www.postgresql.org/docs/15/protocol.html
