//! The order of the house, read from its source: who may import whom, where threads, programs and unsafe code begin, how
//! long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms below it that it may name. Files directly in src (lib, main, up) see everything.
const FLOORS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("sys", &["domain"]),
    ("api", &["domain"]),
    ("config", &["domain"]),
    ("archive", &["domain", "sys", "api"]),
    ("net", &["api", "sys"]),
    ("store", &["domain", "sys"]),
    ("terminal", &["domain", "sys", "api", "net"]),
    ("host", &["domain", "sys", "api", "archive", "config", "net", "store", "terminal"]),
    ("runner", &["domain", "sys", "api", "archive", "config", "net", "terminal"]),
    ("cli", &["domain", "sys", "api", "config", "net"]),
    // The model test, which runs Host and Runners in one process.
    ("model", &["domain", "sys", "api", "archive", "config", "store", "host", "runner"]),
];

/// Macros of the log stand at the crate's root, and belong to sys.
const LOG_MACROS: &[&str] = &["info", "warning", "error"];

/// Lines that one file may have.
const LONGEST: usize = 450;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, usize, &str)] = &[];

/// What only sys may name; `sys::thread` and `sys::command` are what the others use.
const PLACED_IN_SYS: &[&str] = &[
    "Command::new(",
    "std::process::Command",
    "std::thread::spawn",
    "std::thread::Builder",
    "SystemTime::now",
    "unsafe {",
    "unsafe fn",
    "unsafe impl",
    "libc::",
    // What is durable goes through sys::file, where tests can stop it before and after.
    "fs::rename(",
    "fs::remove_file(",
    "fs::write(",
    "fs::copy(",
];

/// What makes something durable by itself has a fault point of its own beside it.
const SYNCS: &[&str] = &[".sync_all()", ".sync_data()"];

/// Rooms of the user's own commands, which nobody goes on for when they are killed.
const USERS_OWN: &[&str] = &["cli"];

/// Rooms that only tests have.
const TESTS_OWN: &[&str] = &["model"];

struct Source {
    /// Relative to src.
    path: PathBuf,
    /// The room: the first folder; empty for files in src itself.
    room: String,
    /// Without comments, with the line's number.
    lines: Vec<(usize, String)>,
}

impl Source {
    /// A file of tests: a module that its neighbour declares under `#[cfg(test)]`.
    fn is_tests(&self) -> bool {
        TESTS_OWN.contains(&self.room.as_str())
            || self.path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
    }

    /// What comes before the file's own tests.
    fn product_lines(&self) -> impl Iterator<Item = &(usize, String)> {
        let all = if self.is_tests() { &[] } else { self.lines.as_slice() };
        // What stands between product code for tests alone counts as such; the module at the end does not.
        let begins = |pair: &[(usize, String)]| {
            pair[0].1.trim() == "#[cfg(test)]" && pair[1].1.starts_with("mod ") && pair[1].1.ends_with('{')
        };
        let end = all.windows(2).position(begins).unwrap_or(all.len());
        all[..end].iter()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_owned();
                let room = if relative.components().count() > 1 {
                    relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned()
                } else {
                    String::new()
                };
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().enumerate().map(|(n, line)| (n + 1, code(line).to_owned())).collect();
                found.push(Source { path: relative, room, lines });
            }
        }
    }
    assert!(found.len() > 20, "the source was not found: {} files in {}", found.len(), root.display());
    found
}

/// The line before a `//` that is not in a string (an even number of quotes stands before it).
fn code(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| at + from) {
        if line[..at].matches('"').count().is_multiple_of(2) {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

/// Every name that follows `crate::` in the text, also those of a group `crate::{a::b, c}`.
fn crate_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, found) in text.match_indices("crate::") {
        // `$crate::` in a macro of sys, and words that end in crate.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.push(ident(rest)),
        }
    }
    names
}

/// The first names of each item of a group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                heads.push(ident(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_point_down_only() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.room.is_empty() {
            continue;
        }
        let Some((_, below)) = FLOORS.iter().find(|(room, _)| *room == source.room) else {
            faults.push(format!("src/{}: the room '{}' has no floor", source.path.display(), source.room));
            continue;
        };
        // Joined, since rustfmt breaks a long group over several lines.
        let text: String = source.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        for name in crate_names(&text) {
            let name = if LOG_MACROS.contains(&name.as_str()) { "sys" } else { &name };
            if name != source.room && !below.contains(&name) {
                faults.push(format!("src/{}: names crate::{name}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "imports that do not point down:\n{}", faults.join("\n"));
}

#[test]
fn programs_threads_and_unsafe_begin_in_sys() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|source| source.room != "sys") {
        for (number, line) in source.product_lines() {
            for wanted in PLACED_IN_SYS {
                let is_allowed = wanted.starts_with("fs::") && USERS_OWN.contains(&source.room.as_str());
                if line.contains(wanted) && !is_allowed {
                    faults.push(format!("src/{}:{number}: {wanted}", source.path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "belongs in src/sys:\n{}", faults.join("\n"));
}

#[test]
fn nothing_is_made_durable_without_a_fault_point() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.product_lines().collect();
        for (at, (number, line)) in lines.iter().enumerate() {
            let is_sync = SYNCS.iter().any(|sync| line.contains(sync));
            // Begun in the same function: a few lines before at most.
            let near = &lines[at.saturating_sub(40)..at];
            if is_sync && !near.iter().any(|(_, line)| line.contains("step(\"")) {
                faults.push(format!("src/{}:{number}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "a sync with no fault point before it:\n{}", faults.join("\n"));
}

#[test]
fn files_have_one_subject_each() {
    let mut faults = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_tests()) {
        let name = source.path.to_string_lossy().into_owned();
        let most = LONGER.iter().find(|(path, _, _)| *path == name).map_or(LONGEST, |(_, most, _)| *most);
        if source.lines.len() > most {
            faults.push(format!("src/{name}: {} lines, {most} at most", source.lines.len()));
        }
    }
    for (path, _, reason) in LONGER {
        assert!(!reason.is_empty(), "{path} may be longer without a reason");
    }
    assert!(faults.is_empty(), "split these by noun:\n{}", faults.join("\n"));
}

#[test]
fn the_reader_of_imports_reads_them() {
    let cases = [
        ("use crate::sys::file;", vec!["sys"]),
        ("use crate::{api, domain::{ids, size}, net::http};", vec!["api", "domain", "net"]),
        ("pub(crate) fn f() -> crate::config::Config {}", vec!["config"]),
        ("crate::info!(\"x\")", vec!["info"]),
        ("use mycrate::x;", vec![]),
    ];
    for (text, wanted) in cases {
        assert_eq!(crate_names(text), wanted, "{text}");
    }
    assert_eq!(code("let a = \"http://x\"; // crate::host"), "let a = \"http://x\"; ");
}
