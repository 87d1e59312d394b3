//! The migration itself: install, barrier, backfill, repair, verify, and the journal that lets a
//! killed process go on where it was. Publishes routes; knows no client session.

pub mod backfill;
mod barrier;
pub mod check;
mod control;
pub mod counted;
mod drift;
mod entry;
mod error;
pub mod functions;
mod gates;
pub mod install;
mod journal;
mod leadership;
mod levers;
mod mapping;
mod observe;
mod pace;
mod partitions;
mod pass;
mod privileges;
mod range;
pub mod repair;
mod requests;
mod reverse;
mod runtime;
pub mod shape;
mod state;
pub mod sync;
pub mod triggers;
pub mod truncate;
pub mod verify;
mod ways;
pub mod whole;
mod worker;

pub use control::{Abort, BothLevers, Control, Lever, RouteChange};
pub use error::Error;
pub use observe::{Found, look};
pub use runtime::{Declared, Engine};
pub use state::{Event, Phase, Status};
pub use verify::Compared;
