//! Where the hierarchies are mounted, and which group of each we are in: `/proc/self/mountinfo` and `/proc/<pid>/cgroup`
//! (proc(5), cgroups(7)).

use std::io;
use std::path::{Path, PathBuf};

use super::{Use, cannot};

/// What this process sees of the hierarchies.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) mounts: Vec<Mount>,
    pub(super) own: Vec<Line>,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Version 2.
    pub(super) unified: bool,
    /// The group that is seen at the mount point: `/`, or in a container its own.
    top: String,
    pub(super) point: PathBuf,
    /// Version 1: what it is for. Version 2: what `cgroup.controllers` says.
    controllers: Vec<String>,
}

/// A line of `/proc/<pid>/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Empty: version 2.
    controllers: Vec<String>,
    path: String,
}

impl Table {
    /// What cannot be read is not there.
    pub(super) fn read(root: &Path) -> Self {
        let text = |path: &str| read_text(&root.join(path)).unwrap_or_default();
        let mut mounts = parse_mounts(&text("proc/self/mountinfo"));
        for mount in &mut mounts {
            mount.point = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
            if mount.unified {
                let available = read_text(&mount.point.join("cgroup.controllers")).unwrap_or_default();
                mount.controllers = available.split_whitespace().map(str::to_owned).collect();
            }
        }
        Self { mounts, own: parse_own(&text("proc/self/cgroup")) }
    }

    /// A controller is in one hierarchy of version 1 or in that of version 2, never in both; to freeze, version 2 needs none.
    pub(super) fn mount(&self, wanted: Use) -> Option<&Mount> {
        let controller = wanted.controller();
        let has = |mount: &&Mount| mount.controllers.iter().any(|has| has == controller);
        let old = self.mounts.iter().filter(|mount| !mount.unified).find(has);
        let mut new = self.mounts.iter().filter(|mount| mount.unified);
        old.or_else(|| new.find(|mount| wanted == Use::Freezer || has(mount)))
    }
}

impl Mount {
    /// The folder of the group that these lines tell for this hierarchy; None where it is not below the mount point.
    pub(super) fn folder(&self, lines: &[Line]) -> Option<PathBuf> {
        let is_mine = |line: &&Line| {
            if self.unified {
                line.controllers.is_empty()
            } else {
                line.controllers.iter().any(|controller| self.controllers.contains(controller))
            }
        };
        let path = Path::new(&lines.iter().find(is_mine)?.path).strip_prefix(&self.top).ok()?;
        // A path that leads up is one that our namespace does not reach.
        let is_below = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let is_top = path.as_os_str().is_empty();
        is_below.then(|| if is_top { self.point.clone() } else { self.point.join(path) })
    }
}

/// `31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`; fields before the dash vary in number.
pub(super) fn parse_mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (top, point) = (unescape(place.next()?), unescape(place.next()?));
        let mut kind = kind.split(' ');
        let unified = match kind.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let controllers = if unified {
            Vec::new()
        } else {
            kind.nth(1)?.split(',').filter(|option| !matches!(*option, "rw" | "ro")).map(str::to_owned).collect()
        };
        Some(Mount { unified, top, point: point.into(), controllers })
    };
    text.lines().filter_map(mount).collect()
}

/// `9:name=systemd:/init.scope`
pub(super) fn parse_own(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Line { controllers, path: fields.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn read_text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path).map_err(|fault| cannot("read", path, &fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str, own: &str) -> [Option<(bool, PathBuf)>; 3] {
        let table = Table { mounts: parse_mounts(mountinfo), own: parse_own(own) };
        [Use::Freezer, Use::Memory, Use::Cpu].map(|wanted| {
            let mount = table.mount(wanted)?;
            Some((mount.unified, mount.folder(&table.own)?))
        })
    }

    #[test]
    fn hierarchies_of_version_1_may_be_shared_missing_or_oddly_mounted() {
        let mounts = "30 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      32 30 0:30 / /odd\\040place rw - cgroup cgroup rw,freezer\n\
                      33 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "3:freezer:/\n2:cpu,cpuacct:/a:b/c\n0::/x\n";
        let [freezer, memory, cpu] = found(mounts, own);
        assert_eq!(freezer, Some((false, "/odd place".into())));
        assert_eq!(memory, None);
        assert_eq!(cpu, Some((false, "/sys/fs/cgroup/cpu,cpuacct/a:b/c".into())));
    }

    #[test]
    fn version_2_freezes_without_a_controller_and_a_container_sees_its_own_group_as_the_top() {
        let mounts = "33 30 0:31 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";
        let [freezer, memory, _] = found(mounts, "0::/docker/abc/inner\n");
        assert_eq!(freezer, Some((true, "/sys/fs/cgroup/inner".into())));
        assert_eq!(memory, None);
        assert_eq!(found(mounts, "0::/elsewhere\n")[0], None);
        assert_eq!(found(mounts, "0::/docker/abc/../../x\n")[0], None);
    }
}
