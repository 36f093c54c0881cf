//! Control groups of both versions, for what runs without a container: freeze all of it, end all of it, limit its memory, and
//! read the kernel's record of what it killed for want of memory.
//!
//! Only what was tried counts: a hierarchy in which no group can be made, or a controller that cannot be passed on, is as good
//! as missing. Sources: the kernel's `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

mod group;
mod mounts;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use group::Group;
use mounts::{Mounted, mounted, place_of};

/// The hierarchies of this machine in which we may make groups: our folder in each.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    root: PathBuf,
    folder: String,
    freezer: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    unified: Option<Unified>,
}

/// Version 2. Freezing and ending need no controller.
#[derive(Clone, Debug)]
struct Unified {
    folder: PathBuf,
    memory: bool,
    cpu: bool,
}

/// What a new group is to enforce.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes; no swap beyond it.
    pub memory: Option<u64>,
    /// A tenth of the usual weight when others want the CPU too.
    pub low_weight: bool,
}

/// Beside 1,024, version 1's default.
const LOW_SHARES: &str = "102";
/// Beside 100, version 2's default.
const LOW_WEIGHT: &str = "10";

impl Cgroups {
    /// Looks at the machine (`root` is `/`) and tries what works. `folder` is the name of the group under which ours are
    /// made, `hakuriver-<something>`.
    pub fn find(root: &Path, folder: &str) -> Self {
        let mut found = Self { root: root.to_owned(), folder: folder.to_owned(), ..Self::default() };
        let Ok(all) = mounted(root) else { return found };
        let ours = |controller: &str| {
            let place = place_of(root, &all, controller, "self")?;
            let folder = place.join(folder);
            let made = match fs::create_dir(&folder) {
                Ok(()) => true,
                Err(fault) => fault.kind() == io::ErrorKind::AlreadyExists,
            };
            // Mounted read-only, or not ours to change.
            (made && can_make(&folder)).then_some(folder)
        };
        found.freezer = ours("freezer");
        found.memory = ours("memory");
        found.cpu = ours("cpu");
        found.unified = ours("").map(|folder| {
            let place = folder.parent().map(Path::to_owned).unwrap_or_default();
            Unified { memory: pass_on(&place, &folder, "memory"), cpu: pass_on(&place, &folder, "cpu"), folder }
        });
        found
    }

    /// A memory limit can be enforced.
    pub fn limits_memory(&self) -> bool {
        self.memory.is_some() || self.unified.as_ref().is_some_and(|unified| unified.memory)
    }

    /// All of a group can be frozen at once.
    pub fn freezes(&self) -> bool {
        self.freezer.is_some() || self.unified.as_ref().is_some_and(|unified| can_freeze(&unified.folder))
    }

    /// Makes a group (an empty one of that name is used again).
    ///
    /// In version 1 a memory group costs more than all else together (some 120 µs), so only a task with a limit gets one.
    ///
    /// # Errors
    /// The io error, with the path; also where a limit cannot be enforced.
    pub fn make(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let mut group = Group { ours: true, ..Group::default() };
        if let Some(bytes) = limits.memory {
            match (&self.memory, &self.unified) {
                (Some(folder), _) => {
                    let folder = group.memory.insert(make(folder, name)?);
                    write(&folder.join("memory.limit_in_bytes"), &bytes.to_string())?;
                    // There is no such file where the kernel does not account swap: then there is none to use, or it
                    // cannot be kept from being used, as in every other program on that machine.
                    optional(write(&folder.join("memory.memsw.limit_in_bytes"), &bytes.to_string()))?;
                }
                (None, Some(unified)) if unified.memory => {
                    let folder = group.unified.insert(make(&unified.folder, name)?);
                    write(&folder.join("memory.max"), &bytes.to_string())?;
                    optional(write(&folder.join("memory.swap.max"), "0"))?;
                }
                _ => return Err(io::Error::other("this node cannot limit the memory of tasks without a container")),
            }
        }
        match (&self.freezer, &self.unified) {
            (Some(folder), _) => group.freezer = Some(make(folder, name)?),
            (None, Some(unified)) => group.unified = Some(make(&unified.folder, name)?),
            (None, None) => {}
        }
        if limits.low_weight {
            match (&self.cpu, &self.unified) {
                (Some(folder), _) => {
                    let folder = group.cpu.insert(make(folder, name)?);
                    write(&folder.join("cpu.shares"), LOW_SHARES)?;
                }
                (None, Some(unified)) if unified.cpu => {
                    let folder = group.unified.insert(make(&unified.folder, name)?);
                    write(&folder.join("cpu.weight"), LOW_WEIGHT)?;
                }
                _ => {}
            }
        }
        Ok(group)
    }

    /// The group that a process is in (a systemd scope's), for freezing, ending and the memory record. It is not ours to
    /// remove.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn of_process(&self, pid: u32) -> io::Result<Group> {
        let all = mounted(&self.root)?;
        let place = |controller: &str| place_of(&self.root, &all, controller, &pid.to_string());
        Ok(Group {
            memory: place("memory"),
            unified: place(""),
            ..Group::default()
        })
    }

    /// Groups of ours that are there, by name: what a supervisor that was killed has left.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn left_over(&self) -> io::Result<Vec<(String, Group)>> {
        let unified = self.unified.as_ref().map(|unified| &unified.folder);
        let mut names = std::collections::BTreeSet::new();
        for folder in [self.freezer.as_ref(), self.memory.as_ref(), self.cpu.as_ref(), unified].into_iter().flatten() {
            for entry in fs::read_dir(folder).map_err(|fault| at("list", folder, &fault))? {
                let entry = entry.map_err(|fault| at("list", folder, &fault))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.extend(entry.file_name().into_string());
                }
            }
        }
        let there = |folder: Option<&PathBuf>, name: &str| folder.map(|folder| folder.join(name)).filter(|it| it.is_dir());
        Ok(names
            .into_iter()
            .map(|name| {
                let group = Group {
                    ours: true,
                    freezer: there(self.freezer.as_ref(), &name),
                    memory: there(self.memory.as_ref(), &name),
                    cpu: there(self.cpu.as_ref(), &name),
                    unified: there(unified, &name),
                };
                (name, group)
            })
            .collect())
    }

    /// Removes our folders where nothing is in them.
    pub fn tidy(&self) {
        let unified = self.unified.as_ref().map(|unified| &unified.folder);
        for folder in [self.freezer.as_ref(), self.memory.as_ref(), self.cpu.as_ref(), unified].into_iter().flatten() {
            let _in_use = fs::remove_dir(folder);
        }
    }

    /// The name of our folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

/// Tries it.
fn can_make(folder: &Path) -> bool {
    let probe = folder.join(format!("probe-{}", std::process::id()));
    let made = fs::create_dir(&probe).is_ok();
    let _not_made = fs::remove_dir(&probe);
    made
}

/// Version 2: lets the groups in `folder` use a controller, which `place` has to pass on first. A group with processes in it
/// cannot (unless it is the root of all).
fn pass_on(place: &Path, folder: &Path, controller: &str) -> bool {
    let has = |folder: &Path| {
        let list = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        list.split_whitespace().any(|word| word == controller)
    };
    if !has(place) {
        return false;
    }
    let pass = |folder: &Path| {
        let list = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        list.split_whitespace().any(|word| word == controller)
            || write(&folder.join("cgroup.subtree_control"), &format!("+{controller}")).is_ok()
    };
    pass(place) && pass(folder)
}

/// Kernels before 5.2 have no freezer in version 2. A root group has none either, so one of ours is looked at.
fn can_freeze(folder: &Path) -> bool {
    folder.join("cgroup.freeze").exists()
}

fn make(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    match fs::create_dir(&path) {
        Err(fault) if fault.kind() != io::ErrorKind::AlreadyExists => Err(at("make the control group", &path, &fault)),
        _ => Ok(path),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // Without O_CREAT: a file that the kernel does not offer is an error, also on a tree of plain files.
    let file = fs::OpenOptions::new().write(true).truncate(true).open(path);
    file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())).map_err(|fault| at("write", path, &fault))
}

fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        _ => Ok(()),
    }
}

fn at(what: &str, path: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("cannot {what} {}: {fault}", path.display()))
}

/// A hierarchy by its controller; the empty word is version 2.
fn is_of(mount: &Mounted, controller: &str) -> bool {
    match controller {
        "" => mount.unified,
        controller => !mount.unified && mount.controllers.iter().any(|word| word == controller),
    }
}

#[cfg(test)]
mod tests;
