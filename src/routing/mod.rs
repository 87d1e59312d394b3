//! Which table a statement goes to. The engine publishes [`Routes`]; every session loads them
//! once per statement. Nothing here knows what a phase or a file is.

mod gate;
mod handle;
mod routes;

pub use gate::{Gate, GateTicket, KeptClosed, Unlooked};
pub use handle::{Handle, InFlight};
pub use routes::{Mirror, Route, Routes};
