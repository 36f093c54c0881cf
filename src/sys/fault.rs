//! Points at which a test kills the process: before and after everything that is made durable, and everything that is asked of
//! others. They stand in the lowest layers, so that none is forgotten.
//!
//! Without the feature `fault-points`, which only tests are built with, [`around`] is what it goes around.

/// Does `work`, between two points. `kind` says what it is (`file`, `commit`, `command`, `call` …), `subject` to what it is done, without
/// anything that is another one in each run.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn around<T>(_kind: &str, _subject: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(feature = "fault-points")]
pub use points::around;

#[cfg(feature = "fault-points")]
mod points {
    use std::collections::HashMap;
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// Names the folder in which a test leaves `kill` (`<role> <number> <point>`: the process of that role ends at that hit of that
    /// point) and finds `hits` (a line for each) and `killed` (it was done: no process does it again).
    const VARIABLE: &str = "HAKURIVER_FAULT_DIR";

    struct Plan {
        folder: PathBuf,
        role: String,
        kill: Option<(u32, String)>,
        counts: Mutex<HashMap<String, u32>>,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(plan);

    fn plan() -> Option<Plan> {
        let folder = PathBuf::from(std::env::var_os(VARIABLE)?);
        let role = std::env::args().nth(1)?;
        let text = fs::read_to_string(folder.join("kill")).unwrap_or_default();
        let mut words = text.trim().splitn(3, ' ');
        let kill = match (words.next(), words.next().and_then(|number| number.parse().ok()), words.next()) {
            (Some(whose), Some(number), Some(point)) if whose == role => Some((number, point.to_owned())),
            _ => None,
        };
        Some(Plan { folder, role, kill, counts: Mutex::default() })
    }

    /// See the other one.
    pub fn around<T>(kind: &str, subject: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
        let Some(plan) = &*PLAN else { return work() };
        let name = format!("{kind} {}", plain(&subject()));
        plan.hit(&format!("before {name}"));
        let done = work();
        plan.hit(&format!("after {name}"));
        done
    }

    impl Plan {
        fn hit(&self, point: &str) {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(point.to_owned()).or_default();
            *count += 1;
            let line = format!("{} {point}\n", self.role);
            let hits = OpenOptions::new().append(true).create(true).open(self.folder.join("hits"));
            let _noted = hits.and_then(|mut file| file.write_all(line.as_bytes()));
            let is_here = self.kill.as_ref().is_some_and(|(number, name)| number == count && name == point);
            // Whoever makes it is the one: those that are started again go on.
            if is_here && OpenOptions::new().write(true).create_new(true).open(self.folder.join("killed")).is_ok() {
                let us = nix::unistd::Pid::this();
                let _never = nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGKILL);
                loop {
                    std::thread::park();
                }
            }
        }
    }

    /// Without numbers and random digits: `tasks/7530.1/record.json` is the same point for every task.
    fn plain(subject: &str) -> String {
        let mut plain = String::new();
        for word in subject.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let letters = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_number = letters.bytes().any(|byte| byte.is_ascii_digit())
                && letters.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.push_str(if is_number { "#" } else { letters });
            plain.push_str(&word[letters.len()..]);
        }
        plain
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_the_same_in_each_run() {
            assert_eq!(plain("record.json"), "record.json");
            assert_eq!(plain("PUT /runner/hrt-17-3-a/observed"), "PUT /runner/hrt-#-#-a/observed");
            assert_eq!(plain("ship/7530/1/stdout"), "ship/#/#/stdout");
            assert_eq!(plain(".x.0a1b2c3d4e5f.tmp"), ".x.#.tmp");
        }
    }
}
