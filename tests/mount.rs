//! File systems of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::SOON;
use crate::program;

/// A small file system, for as long as this lives.
pub struct Mount(PathBuf);

impl Mount {
    pub fn tmpfs(path: &Path, size: &str) -> Self {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(path);
        program::run(&mut command, SOON).ok();
        Self(path.to_owned())
    }

    pub fn grow(&self, size: &str) {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,size={size}")]).arg(&self.0);
        program::run(&mut command, SOON).ok();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
