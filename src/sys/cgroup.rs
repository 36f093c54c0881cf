//! Control groups of both versions, for what runs without a container: freeze all of it, end all of it, limit its memory, and
//! read the kernel's record of what it killed for want of memory.

use std::fs::File;
use std::io;
use std::path::Path;

/// The hierarchies of this machine in which we may make groups.
#[derive(Clone, Debug)]
pub struct Cgroups {}

/// The group of one task, in every hierarchy that is of use.
#[derive(Debug)]
pub struct Group {}

/// What a new group is to enforce.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes; no swap beyond it.
    pub memory: Option<u64>,
    /// A tenth of the usual weight when others want the CPU too.
    pub low_weight: bool,
}

impl Cgroups {
    /// Looks at the machine (`root` is `/`) and tries what works. `folder` is the name of the group under which ours are
    /// made, `hakuriver-<something>`.
    pub fn find(_root: &Path, _folder: &str) -> Self {
        unimplemented!()
    }

    /// A memory limit can be enforced.
    pub fn limits_memory(&self) -> bool {
        unimplemented!()
    }

    /// All of a group can be frozen at once.
    pub fn freezes(&self) -> bool {
        unimplemented!()
    }

    /// Makes a group (an empty one of that name is used again).
    ///
    /// # Errors
    /// The io error, with the path; also where a limit cannot be enforced.
    pub fn make(&self, _name: &str, _limits: &Limits) -> io::Result<Group> {
        unimplemented!()
    }

    /// The group that a process is in (a systemd scope's), for freezing, ending and the memory record.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn of_process(&self, _pid: u32) -> io::Result<Group> {
        unimplemented!()
    }

    /// Groups of ours that are there, by name: what a supervisor that was killed has left.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn left_over(&self) -> io::Result<Vec<(String, Group)>> {
        unimplemented!()
    }
}

impl Group {
    /// Files to which a child writes `0` before exec, to be in it from its first instruction.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn entries(&self) -> io::Result<Vec<File>> {
        unimplemented!()
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        unimplemented!()
    }

    /// Freezes or thaws all of it, and returns when that is done (for 5 s at most).
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn freeze(&self, _frozen: bool) -> io::Result<()> {
        unimplemented!()
    }

    /// A signal to every process in it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn signal(&self, _signal: i32) -> io::Result<()> {
        unimplemented!()
    }

    /// How many of its processes the kernel has killed for want of memory.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn oom_kills(&self) -> io::Result<u64> {
        unimplemented!()
    }

    /// Removes it: true when nothing lives in it and it is gone.
    ///
    /// # Errors
    /// The io error, with the path. That something lives in it is no error.
    pub fn remove(&self) -> io::Result<bool> {
        unimplemented!()
    }
}
