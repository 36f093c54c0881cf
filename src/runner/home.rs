//! The Runner's own folder on the node: `<state>/runner/<hostname>/`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::RunnerFault;
use crate::domain::ids::{NodeName, TaskId};
use crate::sys::file;

/// See [`Home::first_list`].
const FIRST_LIST: &str = "first-list";

/// The folder, held by this process alone.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    _lock: file::Lock,
}

impl Home {
    /// Makes the folder if need be, and takes its lock.
    ///
    /// # Errors
    /// One or two lines: another Runner has it, or it cannot be made.
    pub fn open(state_dir: &Path, node: &NodeName) -> Result<Self, RunnerFault> {
        let folder = state_dir.join("runner").join(node.as_str());
        // Docker mounts what is in it, and wants whole paths.
        let folder = std::path::absolute(&folder)
            .and_then(|folder| file::make_dir(&folder, 0o711).map(|()| folder))
            .map_err(|fault| RunnerFault(fault.to_string()))?;
        let lock = file::Lock::try_take(&folder.join("lock")).map_err(|fault| RunnerFault(fault.to_string()))?;
        let lock = lock.ok_or_else(|| {
            RunnerFault(format!(
                "another Runner for the node '{node}' runs on this machine with the same state directory ({} is locked): \
                 stop it first, or give this one a name of its own (network.runner_hostname)",
                folder.join("lock").display()
            ))
        })?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the records of tasks are.
    pub fn tasks(&self) -> PathBuf {
        self.folder.join("tasks")
    }

    /// Where it is kept which environments are here, and what of them is on its way.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn environments(&self) -> io::Result<PathBuf> {
        let folder = self.folder.join("environments");
        file::make_dir(&folder, 0o700).map(|()| folder)
    }

    /// Whether this folder has served a Runner of `cluster` before: then its records are whole.
    pub fn is_of(&self, cluster: &str) -> bool {
        fs::read_to_string(self.folder.join("cluster")).is_ok_and(|id| id.trim() == cluster)
    }

    /// From now on it has.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn belongs_to(&self, cluster: &str) -> io::Result<()> {
        if self.is_of(cluster) {
            return Ok(());
        }
        file::write_atomic(&self.folder.join("cluster"), format!("{cluster}\n").as_bytes(), 0o600)
    }

    /// The highest id in the first list that a Host of `cluster` has ever told a Runner of this folder: what has a later one was given
    /// to this node since, and whatever was begun of it stands in the records here, or in the supervisor's journal. None: no list was
    /// heard yet, or none since some of the records were lost.
    pub fn first_list(&self, cluster: &str) -> Option<TaskId> {
        let text = fs::read_to_string(self.folder.join(FIRST_LIST)).ok()?;
        let (of, highest) = text.trim().split_once(' ')?;
        (of == cluster).then(|| highest.parse().ok().map(TaskId::from_u64)).flatten()
    }

    /// The first list was heard.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn note_first_list(&self, cluster: &str, highest: TaskId) -> io::Result<()> {
        file::write_atomic(&self.folder.join(FIRST_LIST), format!("{cluster} {highest}\n").as_bytes(), 0o600)
    }

    /// A copy of our own binary, for containers to run. It is named after its content and never changed: an upgrade makes
    /// another one, and running containers keep theirs.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn binary(&self) -> io::Result<PathBuf> {
        // Also when the file was replaced or removed since we were started, this is what we are.
        let own = Path::new("/proc/self/exe");
        let mut source = File::open(own).map_err(|fault| at("read", own, &fault))?;
        let hash = hash(&mut source).map_err(|fault| at("read", own, &fault))?;
        let bin = self.folder.join("bin");
        file::make_dir(&bin, 0o711)?;
        let copy = bin.join(format!("hakuriver-{}-{hash}", env!("CARGO_PKG_VERSION")));
        if copy.is_file() {
            return Ok(copy);
        }
        file::copy_program(own, &copy).map_err(|fault| at("write", &copy, &fault))?;
        Ok(copy)
    }

    /// Removes copies of other versions that no task uses. That one cannot be removed is no matter.
    pub fn tidy(&self, used: &[PathBuf]) {
        let Ok(entries) = fs::read_dir(self.folder.join("bin")) else { return };
        for entry in entries.filter_map(Result::ok) {
            if !used.contains(&entry.path()) {
                let _kept = file::remove(&entry.path());
            }
        }
    }
}

/// What the records in a Runner's folder have lost may be of any task so far: also for the Runners after this one.
///
/// # Errors
/// The io error, with the path.
pub fn forget_first_list(folder: &Path) -> io::Result<()> {
    file::take(&folder.join(FIRST_LIST)).map(drop)
}

/// 16 hexadecimal digits of the SHA-256.
fn hash(source: &mut File) -> io::Result<String> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            count => sha.update(&buffer[..count]),
        }
    }
    Ok(sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn at(what: &str, path: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("cannot {what} {}: {fault}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sys::file::Scratch;

    fn node() -> NodeName {
        "node1".parse().expect("a name")
    }

    #[test]
    fn a_second_runner_of_the_name_is_refused_with_the_next_step() {
        let scratch = Scratch::new();
        let home = Home::open(scratch.path(), &node()).expect("it is free");
        let fault = Home::open(scratch.path(), &node()).expect_err("it is taken").0;
        assert!(fault.contains("'node1'") && fault.contains("network.runner_hostname"), "{fault}");
        let other = "node2".parse().expect("a name");
        assert!(Home::open(scratch.path(), &other).is_ok(), "another name has its own");
        drop(home);
        assert!(Home::open(scratch.path(), &node()).is_ok());
    }

    #[test]
    fn the_copy_is_this_very_binary_and_made_once() {
        let scratch = Scratch::new();
        let home = Home::open(scratch.path(), &node()).expect("it is free");
        let copy = home.binary().expect("it can be copied");
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("it is there"));
        let first = inode(&copy);
        assert_eq!(home.binary().expect("it is there"), copy);
        assert_eq!(inode(&copy), first);
        let size = |path: &Path| fs::metadata(path).expect("it is there").len();
        assert_eq!(size(&copy), size(Path::new("/proc/self/exe")));
        assert_eq!(fs::metadata(&copy).expect("it is there").permissions().mode() & 0o777, 0o555);
        let old = copy.with_file_name("hakuriver-0-00");
        fs::write(&old, "").expect("it can be written");
        home.tidy(std::slice::from_ref(&copy));
        assert!(copy.exists() && !old.exists());
    }

    #[test]
    fn a_folder_remembers_its_cluster() {
        let scratch = Scratch::new();
        let home = Home::open(scratch.path(), &node()).expect("it is free");
        assert!(!home.is_of("c1"));
        home.belongs_to("c1").expect("it can be written");
        assert!(home.is_of("c1") && !home.is_of("c2"));
    }
}
