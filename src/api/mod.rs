//! What travels between client, Host and Runner: wire types, routes, the error body.
//!
//! Wire types are not domain types, even where they look alike: they change only with the protocol. [`json`] is the
//! only door to nanoserde.

pub mod environment;
pub mod json;
pub mod node;
pub mod public;
pub mod submit;
pub mod terminal;
