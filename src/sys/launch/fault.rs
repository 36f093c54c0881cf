//! A step that failed and its errno, as a sentence for the user: what was to be done, on what, why not, what to do.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::child::{Failed, Step};
use super::{LaunchFault, Prepared};
use crate::domain::cpuset::CpuSet;

impl Prepared {
    pub(super) fn fault(&self, failed: Failed) -> LaunchFault {
        let reason = io::Error::from_raw_os_error(failed.errno);
        let list = |set: &Option<CpuSet>| set.as_ref().map(CpuSet::to_string).unwrap_or_default();
        let (uid, gid) = self.launch.user.unwrap_or_default();
        let workdir = self.launch.workdir.display();
        LaunchFault(match failed.step {
            Step::Clone => format!("cannot make a process: {reason}"),
            Step::Session => format!("cannot make a session for the task: {reason}"),
            Step::JoinGroup => format!("cannot enter the task's control group: {reason}"),
            Step::Affinity => format!("cannot bind to CPUs {}: {reason}", list(&self.launch.cpus)),
            Step::AffinityDiffers => format!(
                "cannot bind to CPUs {}: the kernel gives fewer than these; some are offline, or not in the cpuset that \
                 HakuRiver itself runs in",
                list(&self.launch.cpus)
            ),
            Step::Memory => format!("cannot bind memory to NUMA nodes {}: {reason}", list(&self.launch.mems)),
            Step::MemoryDiffers => format!(
                "cannot bind memory to NUMA nodes {}: the kernel gives other nodes; some have no memory, or are not in the \
                 cpuset that HakuRiver itself runs in",
                list(&self.launch.mems)
            ),
            Step::Groups => format!("cannot drop supplementary groups to become user {uid}: {reason}"),
            Step::Gid => format!("cannot become group {gid}: {reason}"),
            Step::Uid => format!("cannot become user {uid}: {reason}"),
            Step::Workdir if self.launch.user.is_some() => {
                format!("cannot enter the working directory {workdir} as user {uid}, group {gid}: {reason}")
            }
            Step::Workdir => format!("cannot enter the working directory {workdir}: {reason}"),
            Step::Null => format!("cannot open /dev/null: {reason}"),
            Step::Streams => format!("cannot redirect the output: {reason}"),
            Step::Descriptors => format!("cannot hand on a descriptor: {reason}"),
            Step::Exec => self.exec_fault(failed.errno, &reason),
        })
    }

    fn exec_fault(&self, errno: i32, reason: &io::Error) -> String {
        let program = self.launch.argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let what = format!("cannot run '{program}'");
        match (errno, &self.path) {
            (libc::ENOENT | libc::ENOTDIR, Some(path)) => match self.programs.iter().find(|file| exists(self, file)) {
                Some(file) => format!("{what}: {} is there, but its interpreter is not", file.to_string_lossy()),
                None => {
                    let path = path.to_string_lossy();
                    format!("{what}: there is no such program on the PATH of the task ({path})")
                }
            },
            (libc::ENOENT | libc::ENOTDIR, None) if self.programs.iter().any(|file| exists(self, file)) => {
                format!("{what}: the file is there, but its interpreter (its #! line, or its dynamic loader) is not")
            }
            (libc::ENOENT | libc::ENOTDIR, None) => format!("{what}: there is no such file"),
            (libc::EACCES, _) => {
                let user =
                    self.launch.user.map(|(uid, gid)| format!(" by user {uid}, group {gid}")).unwrap_or_default();
                format!("{what}: it is a folder, or may not be executed{user}")
            }
            (libc::ENOEXEC, _) => {
                format!("{what}: it is neither a program for this machine nor a script that begins with #!")
            }
            (libc::E2BIG, _) => {
                format!("{what}: its arguments and environment are longer than the kernel takes; put them in a file")
            }
            (libc::ETXTBSY, _) => format!("{what}: the file is still being written"),
            _ => format!("{what}: {reason}"),
        }
    }
}

/// Seen from the task's working directory.
fn exists(prepared: &Prepared, file: &std::ffi::CStr) -> bool {
    let file = Path::new(std::ffi::OsStr::from_bytes(file.to_bytes()));
    prepared.launch.workdir.join(file).exists()
}
