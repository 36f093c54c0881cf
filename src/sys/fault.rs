//! Fault points: before and after every durable write and every call of something outside, a place at which this process can be made
//! to die as `kill -9` would. They stand in the lowest layers, where nobody can go past them.
//!
//! Only with the feature `fault-points`, which tests are built with; without it nothing of this is in the program.
//!
//! With HAKURIVER_FAULTS=DIR (a container: `/shared/.faults`), each hit adds the line `ROLE NAME` to `DIR/log`, and `DIR/plan`
//! (`SERIAL ROLE N NAME`) says where to die: at the N-th hit of that name in that role since the plan was written. Who dies renames
//! the plan to `DIR/done`, so it kills once.

/// What is being done. The second point is hit when it is dropped, however it went.
#[must_use = "it has to live for as long as what it stands for takes"]
#[derive(Debug)]
pub struct Step {
    #[cfg(feature = "fault-points")]
    what: String,
}

/// Begins a step: `kind` and `subject` name it, the latter without ids and paths ([`stable`] takes them out).
#[inline(always)]
#[cfg_attr(not(feature = "fault-points"), allow(unused_variables, reason = "nothing is named where nothing dies"))]
pub fn step(kind: &str, subject: impl FnOnce() -> String) -> Step {
    #[cfg(feature = "fault-points")]
    let step = Step { what: if points::are_wanted() { format!("{kind}:{}", subject()) } else { String::new() } };
    #[cfg(not(feature = "fault-points"))]
    let step = Step {};
    step.at("before");
    step
}

impl Step {
    /// A point between.
    #[inline(always)]
    #[cfg_attr(not(feature = "fault-points"), allow(unused_variables, reason = "as above"))]
    pub fn at(&self, moment: &str) {
        #[cfg(feature = "fault-points")]
        if !self.what.is_empty() {
            points::hit(&format!("{}:{moment}", self.what));
        }
    }
}

impl Drop for Step {
    #[inline(always)]
    fn drop(&mut self) {
        self.at("after");
    }
}

/// Says who this process is; without a role it never dies here.
#[inline(always)]
#[cfg_attr(not(feature = "fault-points"), allow(unused_variables, reason = "as above"))]
pub fn be(role: &'static str) {
    #[cfg(feature = "fault-points")]
    points::be(role);
}

/// A name without what differs from one run to the next: each word of it (letters and digits) that has a digit becomes `N`.
pub fn stable(name: &str) -> String {
    let mut stable = String::new();
    for part in name.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let end = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
        let word = &part[..end];
        stable.push_str(if word.bytes().any(|byte| byte.is_ascii_digit()) { "N" } else { word });
        stable.push_str(&part[end..]);
    }
    stable
}

/// The last part of a path, without what differs.
pub fn file_name(path: &std::path::Path) -> String {
    stable(&path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(feature = "fault-points")]
mod points {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Where a container finds the folder.
    const IN_CONTAINER: &str = "/shared/.faults";

    static ROLE: OnceLock<&str> = OnceLock::new();
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    /// The plan that was seen last, and the hits since.
    static SEEN: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    pub(super) fn be(role: &'static str) {
        let _twice = ROLE.set(role);
    }

    pub(super) fn are_wanted() -> bool {
        ROLE.get().is_some() && folder().is_some()
    }

    fn folder() -> Option<&'static PathBuf> {
        let find = || match std::env::var_os("HAKURIVER_FAULTS") {
            Some(folder) => Some(PathBuf::from(folder)),
            None => Some(PathBuf::from(IN_CONTAINER)).filter(|folder| folder.is_dir()),
        };
        FOLDER.get_or_init(find).as_ref()
    }

    pub(super) fn hit(name: &str) {
        let (Some(role), Some(folder)) = (ROLE.get(), folder()) else { return };
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(mut log) = OpenOptions::new().append(true).open(folder.join("log")) {
            let _lost = log.write_all(format!("{role} {name}\n").as_bytes());
        }
        let file = folder.join("plan");
        let Ok(plan) = fs::read_to_string(&file) else { return };
        let mut words = plan.trim_end().splitn(4, ' ');
        let (_serial, whose, count, what) = (words.next(), words.next(), words.next(), words.next());
        if whose != Some(role) || what != Some(name) {
            return;
        }
        if seen.0 != plan {
            *seen = (plan.clone(), 0);
        }
        seen.1 += 1;
        if count.and_then(|count| count.parse().ok()) == Some(seen.1) && fs::rename(&file, folder.join("done")).is_ok()
        {
            crate::sys::process::signal(std::process::id(), crate::sys::process::SIGKILL);
            // The first process of a container cannot be killed from within.
            // SAFETY: it ends this process at once, as SIGKILL would: nothing is written or run any more.
            unsafe { libc::_exit(128 + libc::SIGKILL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_differs_from_run_to_run() {
        for (name, expected) in [
            ("record.json", "record.json"),
            ("7365422138.1.stdout", "N.N.stdout"),
            ("hakuriver-1.0.0-alpha.1-9f3a", "hakuriver-N.N.N-alpha.N-N"),
            ("/runner/hrt-12-3-a/observed", "/runner/hrt-N-N-a/observed"),
            ("", ""),
        ] {
            assert_eq!(stable(name), expected);
        }
    }
}
