//! What the targets share: input as operations, a host whose ports check every byte.

mod host;
mod input;

pub use host::{Host, ID, SHAPE};
pub use input::Input;
