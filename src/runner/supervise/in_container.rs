//! `hakuriver supervise --in-container`: process 1 of every container of ours.

/// Does what `/.hakuriver/task/task.json` says; returns the exit status for the container.
pub fn main() -> i32 {
    unimplemented!("supervise")
}
