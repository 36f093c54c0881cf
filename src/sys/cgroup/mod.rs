//! Control groups of both versions, for what runs without a container: freeze all of it, end all of it, limit its memory, and
//! read the kernel's record of what it killed for want of memory.
//!
//! [`Cgroups`] is what this machine lets us do, [`Group`] one task's share of it. What the two versions do differently stands in
//! [`v1`] and [`v2`]; [`table`] reads where they are mounted.

mod group;
mod table;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use crate::sys::fault;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use group::Group;
use table::{Mount, Table};

/// The hierarchies of this machine in which we may make groups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// Our parent group in the hierarchy that freezes, limits memory, weighs CPU time. In version 2 all three are one folder.
    freezer: Option<Place>,
    memory: Option<Place>,
    cpu: Option<Place>,
}

/// What a new group is to enforce.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes; no swap beyond it.
    pub memory: Option<u64>,
    /// A tenth of the usual weight when others want the CPU too.
    pub low_weight: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A group's folder in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    path: PathBuf,
}

/// What a hierarchy is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Freezer,
    Memory,
    Cpu,
}

impl Use {
    const fn controller(self) -> &'static str {
        match self {
            Self::Freezer => "freezer",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

impl Cgroups {
    /// Looks at the machine (`root` is `/`) and tries what works. `folder` is the name of the group under which ours are
    /// made, `hakuriver-<something>`; it is made with the first of them. A machine where nothing works is no error: then
    /// nothing can be frozen or limited.
    pub fn find(root: &Path, folder: &str) -> Self {
        // Two that try at the same time would remove each other's groups.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let table = Table::read(root);
        let find = |wanted| place_for(&table, wanted, folder);
        Self { root: root.to_owned(), freezer: find(Use::Freezer), memory: find(Use::Memory), cpu: find(Use::Cpu) }
    }

    /// Groups that cannot be made, so that everything is done without them.
    pub fn none() -> Self {
        Self { root: PathBuf::from("/"), freezer: None, memory: None, cpu: None }
    }

    /// A memory limit can be enforced.
    pub fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// All of a group can be frozen at once.
    pub fn freezes(&self) -> bool {
        self.freezer.is_some()
    }

    /// Makes a group (an empty one of that name is used again).
    ///
    /// # Errors
    /// The io error, with the path; also where a limit cannot be enforced.
    pub fn make(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        if limits.memory.is_some() && self.memory.is_none() {
            let text = "this node has no control group hierarchy in which a memory limit can be enforced";
            return Err(io::Error::new(ErrorKind::Unsupported, text));
        }
        let _step = fault::step("group", || "make".to_owned());
        let mut group = Group::default();
        let made = self.fill(&mut group, name, limits);
        match made {
            Ok(()) => Ok(group),
            Err(fault) => {
                let _empty = group.remove();
                Err(fault)
            }
        }
    }

    fn fill(&self, group: &mut Group, name: &str, limits: &Limits) -> io::Result<()> {
        if let Some(parent) = &self.freezer {
            group.freezer = Some(parent.child(name, limits)?);
        }
        // Version 2 has one folder for all, so the record of what was killed costs nothing there. On version 1 a memory group
        // costs 0.3 ms to make and remove, and joining it more than a start of a program costs (measured): only where there
        // is a limit. Without one, a kill for want of memory of the whole machine shows as a kill by signal 9.
        let is_same = self.memory.is_some() && self.memory == self.freezer;
        if let Some(parent) = self.memory.as_ref().filter(|_| limits.memory.is_some() || is_same) {
            group.memory = Some(parent.child(name, limits)?);
        }
        if let Some(parent) = self.cpu.as_ref().filter(|_| limits.low_weight) {
            group.cpu = Some(parent.child(name, limits)?);
        }
        group.ours = group.places().map(|place| place.path.clone()).collect();
        if let (Some(bytes), Some(place)) = (limits.memory, &group.memory) {
            place.limit_memory(bytes)?;
        }
        match (limits.low_weight, &group.cpu) {
            (true, Some(place)) => place.lower_weight(),
            _ => Ok(()),
        }
    }

    /// A group that freezes alone, for a process whose other limits are another's business (a systemd scope's on
    /// version 1, where systemd leaves that hierarchy alone). None on version 2: there the scope's own group freezes.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn make_freezer(&self, name: &str) -> io::Result<Option<Group>> {
        match &self.freezer {
            Some(parent) if parent.version == Version::V1 => {
                let place = parent.child(name, &Limits::default())?;
                let ours = BTreeSet::from([place.path.clone()]);
                Ok(Some(Group { freezer: Some(place), ours, ..Group::default() }))
            }
            _ => Ok(None),
        }
    }

    /// The group that a process is in (a systemd scope's), for freezing, ending and the memory record. Groups that we are in
    /// ourselves, and those at the top, are left out: ending all of them would end the machine.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn of_process(&self, pid: u32) -> io::Result<Group> {
        let table = Table::read(&self.root);
        let text = table::read_text(&self.root.join(format!("proc/{pid}/cgroup")))?;
        let its = table::parse_own(&text);
        let place = |wanted: Use| {
            let mount = table.mount(wanted)?;
            let path = mount.folder(&its)?;
            let is_shared = path == mount.point || mount.folder(&table.own).is_some_and(|own| own.starts_with(&path));
            let version = if mount.unified { Version::V2 } else { Version::V1 };
            (!is_shared).then_some(Place { version, path })
        };
        let parents = [&self.freezer, &self.memory, &self.cpu];
        let is_ours =
            |path: &Path| parents.iter().any(|parent| parent.as_ref().is_some_and(|p| path.starts_with(&p.path)));
        let freezer = place(Use::Freezer);
        let memory = place(Use::Memory).map(Place::of_scope);
        let cpu = place(Use::Cpu).filter(|place| is_ours(&place.path));
        let mut group = Group { freezer, memory, cpu, ..Group::default() };
        group.ours = group.places().map(|place| place.path.clone()).filter(|path| is_ours(path)).collect();
        Ok(group)
    }

    /// The group at `path` below the top of version 2's hierarchy, if it is there: one that systemd has made, and will remove.
    pub fn of_systemd(&self, path: &Path) -> Option<Group> {
        let table = Table::read(&self.root);
        let mount = table.mounts.iter().find(|mount| mount.unified)?;
        let place = Place { version: Version::V2, path: mount.point.join(path) };
        place.path.is_dir().then(|| Group { freezer: Some(place), ..Group::default() })
    }

    /// Groups of ours that are there, by name: what a supervisor that was killed has left.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn left_over(&self) -> io::Result<Vec<(String, Group)>> {
        let mut names = BTreeSet::new();
        for parent in [&self.freezer, &self.memory, &self.cpu].into_iter().flatten() {
            names.extend(folders_in(&parent.path)?);
        }
        let of_name = |name: String| {
            let place = |parent: &Option<Place>| {
                let parent = parent.as_ref()?;
                let path = parent.path.join(&name);
                path.is_dir().then_some(Place { version: parent.version, path })
            };
            let mut group = Group {
                freezer: place(&self.freezer),
                memory: place(&self.memory),
                cpu: place(&self.cpu),
                ..Group::default()
            };
            group.ours = group.places().map(|place| place.path.clone()).collect();
            (name, group)
        };
        Ok(names.into_iter().filter(|name| !name.starts_with(PROBE)).map(of_name).collect())
    }

    /// Removes our parent groups, as far as they are empty. For whoever ends, and has no task any more; the next task makes
    /// them again.
    pub fn close(&self) {
        for parent in [&self.freezer, &self.memory, &self.cpu].into_iter().flatten() {
            // In use: it stays.
            let _in_use = fs::remove_dir(&parent.path);
        }
    }
}

impl Place {
    /// A group below this one, which is made as well if it is not there.
    fn child(&self, name: &str, limits: &Limits) -> io::Result<Self> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => self.is_reusable(&path)?,
            Err(fault) if fault.kind() == ErrorKind::NotFound => {
                self.make_parent()?;
                fs::create_dir(&path).map_err(|fault| cannot("make the control group", &path, &fault))?;
            }
            Err(fault) => return Err(cannot("make the control group", &path, &fault)),
        }
        let place = Self { version: self.version, path };
        if self.version == Version::V2 && limits.memory.is_none() {
            // One that is used again must not keep the limit of the task before.
            v2::unlimit(&place.path);
        }
        Ok(place)
    }

    fn is_reusable(&self, path: &Path) -> io::Result<()> {
        if group::pids_below(path)?.is_empty() {
            return Ok(());
        }
        let text = format!("the control group {} is there already, and something lives in it", path.display());
        Err(io::Error::new(ErrorKind::ResourceBusy, text))
    }

    fn make_parent(&self) -> io::Result<()> {
        make_group(&self.path)?;
        if self.version == Version::V2 {
            v2::hand_down(&self.path)?;
        }
        Ok(())
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        match self.version {
            Version::V1 => v1::limit_memory(&self.path, bytes),
            Version::V2 => v2::limit_memory(&self.path, bytes),
        }
    }

    fn lower_weight(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => v1::lower_weight(&self.path),
            Version::V2 => v2::lower_weight(&self.path),
        }
    }

    /// In a systemd scope of version 2 the task has a group below the scope's (see `runner::executor::scope`), and the scope's
    /// own keeps the record of memory.
    fn of_scope(self) -> Self {
        let is_scope = |path: &Path| path.extension().is_some_and(|extension| extension == "scope");
        match self.path.ancestors().find(|path| is_scope(path)) {
            Some(scope) if self.version == Version::V2 => Self { version: self.version, path: scope.to_owned() },
            _ => self,
        }
    }
}

/// Moves this process into a group `name` below the one of version 2 that it is in, which is made.
///
/// # Errors
/// The io error, with the path.
pub fn move_below(root: &Path, name: &str) -> io::Result<()> {
    let table = Table::read(root);
    let own = table.mounts.iter().find(|mount| mount.unified).and_then(|mount| mount.folder(&table.own));
    let Some(own) = own else {
        return Err(io::Error::new(ErrorKind::NotFound, "this process is in no control group of version 2"));
    };
    make_group(&own.join(name))?;
    put(&own.join(name).join("cgroup.procs"), "0")
}

/// The start of the names of groups that are made to try what works.
const PROBE: &str = "probe-";

/// Where groups for this use can be made: at the top of the hierarchy, as Docker does it, else below the group we are in.
fn place_for(table: &Table, wanted: Use, folder: &str) -> Option<Place> {
    let mount = table.mount(wanted)?;
    let own = mount.folder(&table.own).filter(|own| *own != mount.point);
    [Some(mount.point.clone()), own].into_iter().flatten().find_map(|base| tried(mount, wanted, &base, folder))
}

/// Makes a group, tries in it what is wanted of it, and removes it.
fn tried(mount: &Mount, wanted: Use, base: &Path, folder: &str) -> Option<Place> {
    let version = if mount.unified { Version::V2 } else { Version::V1 };
    let parent = Place { version, path: base.join(folder) };
    let probe = parent.path.join(format!("{PROBE}{}", std::process::id()));
    let works = || -> io::Result<()> {
        if version == Version::V2 && wanted != Use::Freezer {
            v2::hand_down_from(base, wanted.controller())?;
        }
        parent.make_parent()?;
        make_group(&probe)?;
        match (version, wanted) {
            (Version::V1, Use::Freezer) => v1::try_freezer(&probe),
            (Version::V1, Use::Memory) => v1::limit_memory(&probe, 1 << 30),
            (Version::V1, Use::Cpu) => v1::lower_weight(&probe),
            (Version::V2, Use::Freezer) => v2::try_freezer(&probe),
            (Version::V2, Use::Memory) => v2::limit_memory(&probe, 1 << 30),
            (Version::V2, Use::Cpu) => v2::lower_weight(&probe),
        }
    };
    let worked = works();
    for made in [&probe, &parent.path] {
        // The parent may have tasks of before; and what was never made cannot be removed.
        let _in_use = fs::remove_dir(made);
    }
    worked.is_ok().then_some(parent)
}

fn make_group(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(fault) if fault.kind() != ErrorKind::AlreadyExists => Err(cannot("make the control group", path, &fault)),
        _ => Ok(()),
    }
}

/// The names of the groups below one; none if it is not there.
fn folders_in(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(fault) => return Err(cannot("list the control group", path, &fault)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|fault| cannot("list the control group", path, &fault))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// Writes to a file of the kernel: it is never made, and takes a value in one write.
fn put(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|fault| cannot(&format!("write {value:?} to"), path, &fault))
}

fn cannot(what: &str, path: &Path, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("cannot {what} {}: {fault}", path.display()))
}

/// The number after `key` in a file of lines `key number`.
fn counter(path: &Path, key: &str) -> io::Result<Option<u64>> {
    let text = table::read_text(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    Ok(line.and_then(|number| number.trim().parse().ok()))
}
