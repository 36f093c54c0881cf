//! What HakuRiver knows about tasks and nodes, and decides. PURE: no files, sockets, clock, threads, randomness.
//!
//! Everything here is a value or a function from values to values, so every rule is tested as a table. It must not
//! know how a task is stored, sent or started.

pub mod cpuset;
pub mod docker_words;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod ids;
pub mod node;
pub mod output;
pub mod pinning;
pub mod placement;
pub mod queue;
pub mod raw_text;
pub mod reconcile;
pub mod size;
pub mod span;
pub mod spec;
pub mod ssh_key;
pub mod state;
pub mod steering;
pub mod target;
pub mod text_stream;

#[cfg(test)]
mod sample;
