//! Where the hierarchies are mounted, and where in them a process is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{at, is_of};

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) unified: bool,
    /// Version 1 alone.
    pub(super) controllers: Vec<String>,
    /// What of the hierarchy is seen at `point`.
    top: String,
    point: PathBuf,
}

/// From `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
pub(super) fn mounted(root: &Path) -> io::Result<Vec<Mounted>> {
    let path = root.join("proc/self/mountinfo");
    let text = fs::read_to_string(&path).map_err(|fault| at("read", &path, &fault))?;
    Ok(text.lines().filter_map(|line| mount(root, line)).collect())
}

fn mount(root: &Path, line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (top, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let mut fields = after.split(' ');
    let unified = match fields.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let controllers = fields.nth(1)?.split(',').map(ToOwned::to_owned).collect();
    Some(Mounted { unified, controllers, top, point: root.join(point.trim_start_matches('/')) })
}

/// Space, tab, newline and backslash stand as `\040`, `\011`, `\012` and `\134`.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The folder of the group in which a process (`self` or a number) is; None: there is no such hierarchy here.
pub(super) fn place_of(root: &Path, all: &[Mounted], controller: &str, process: &str) -> Option<PathBuf> {
    let mount = all.iter().find(|mount| is_of(mount, controller))?;
    let text = fs::read_to_string(root.join("proc").join(process).join("cgroup")).ok()?;
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match controller {
            "" => number == "0" && controllers.is_empty(),
            controller => controllers.split(',').any(|word| word == controller),
        };
        is_it.then_some(path)
    })?;
    // Of a hierarchy that is seen only in part (a container's), what is above cannot be reached.
    let inside = match mount.top.as_str() {
        "/" => path,
        top => path.strip_prefix(top).unwrap_or(if path.starts_with("/..") { return None } else { path }),
    };
    Some(mount.point.join(inside.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn tree(mountinfo: &str, cgroup: &str) -> Scratch {
        let scratch = Scratch::new();
        let own = scratch.path().join("proc/self");
        fs::create_dir_all(&own).expect("a temporary folder can be made");
        fs::write(own.join("mountinfo"), mountinfo).expect("it can be written");
        fs::write(own.join("cgroup"), cgroup).expect("it can be written");
        scratch
    }

    #[test]
    fn a_process_is_found_in_every_kind_of_hierarchy() {
        let hybrid = tree(
            "30 20 0:26 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
             31 20 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
             32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n33 1 8:1 / / rw - ext4 /dev/vda rw\n",
            "9:freezer:/a b\n4:cpu,cpuacct:/docker/abc/x\n0::/user.slice\n",
        );
        let all = mounted(hybrid.path()).expect("it is readable");
        let place = |controller| place_of(hybrid.path(), &all, controller, "self");
        let under = |path: &str| Some(hybrid.path().join(path));
        assert_eq!(place("freezer"), under("sys/fs/cgroup/freezer/a b"));
        assert_eq!(place("cpu"), under("sys/fs/cgroup/cpu,cpuacct/x"));
        assert_eq!(place(""), under("sys/fs/cgroup/unified/user.slice"));
        assert_eq!(place("memory"), None);
        let unified = tree("25 20 0:22 / /sys/fs/cgroup\\040x rw - cgroup2 cgroup2 rw,nsdelegate\n", "0::/\n");
        let all = mounted(unified.path()).expect("it is readable");
        assert_eq!(place_of(unified.path(), &all, "", "self"), Some(unified.path().join("sys/fs/cgroup x/")));
    }
}
