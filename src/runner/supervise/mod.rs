//! Our own binary as the parent of tasks. It must not know the Host, and talks to the Runner through files alone.

pub mod box_file;
pub mod in_container;
