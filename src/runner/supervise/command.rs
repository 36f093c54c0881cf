//! A command in its container: its output goes to files of its own, and how it ended is written beside them.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::box_file::{BoxFile, EXIT, ExitFile, LARGEST_EXIT, NOT_RUN, OUT, TICKET, UNSEEN, WORD, last_word};
use super::protocol::{STDERR, STDOUT};
use crate::api::json;
use crate::domain::raw_text;
use crate::sys::init::{Attended, Init, RECALLED};
use crate::sys::launch::{Launch, launch};
use crate::sys::{clock, file};

/// What Docker sets HOME to for root: from the image's accounts, or where it has none.
const ROOTS_HOMES: [&str; 2] = ["/root", "/"];
/// Between TERM and KILL. Docker's own is the same, and is over when ours is.
const GRACE: Duration = Duration::from_secs(9);

/// Runs the command to its end; the answer is the container's exit status.
pub(super) fn run(init: &Init, task: &BoxFile) -> i32 {
    let begun = if task.has_ticket { begun_before(Path::new(OUT)) } else { Ok(None) };
    let started = clock::unix_ms();
    let child = match begun {
        Ok(Some(code)) => return code,
        Ok(None) => start(task),
        Err(fault) => Err(fault),
    };
    let ended = child.map(|child| {
        let limit = task.time_limit_seconds.map(Duration::from_secs);
        init.attend(child, limit, GRACE)
    });
    let told = match ended {
        // It did not end by itself, and whoever has ended it has the word.
        Ok(Attended { gone: None, .. }) => return RECALLED,
        Ok(Attended { gone: Some(gone), timed_out, stopped }) => ExitFile {
            code: Some(gone.code),
            signal: gone.signal,
            timed_out,
            stopped,
            started_ms: Some(started),
            ended_ms: Some(clock::unix_ms()),
            fault: None,
        },
        Err(fault) => {
            eprintln!("hakuriver: {fault}");
            ExitFile { ended_ms: Some(clock::unix_ms()), fault: Some(fault), ..ExitFile::default() }
        }
    };
    let path = Path::new(OUT).join(EXIT);
    // Synced: the machine may lose its power before the Runner has read it. The Runner need not be root; strangers are kept
    // out by the folder.
    // Where that fails (the node has lost its state directory, or its disk is full), Docker still keeps the exit code.
    if let Err(fault) = file::write_atomic(&path, json::encode(&told).as_bytes(), 0o644) {
        eprintln!("hakuriver: {fault}");
    }
    if let Some(code) = told.code {
        // Docker may be gone, and nobody read it.
        let _unread = writeln!(io::stderr(), "{}", last_word(code));
    }
    told.code.unwrap_or(NOT_RUN)
}

/// A command is begun once, also where Docker was killed while it started the container, took that for one that never ran, and was
/// asked to start it again: who begins it takes its ticket first, and that is on disk before anything of it runs. It was made when
/// there was room for it; nothing has to be written here, so a full disk lets no second one through.
///
/// The answer: what to end with, if it was begun before: as it ended then, if that was written, so that the Runner finds in this end
/// and in what was written what it would have found in the first one's.
fn begun_before(out: &Path) -> Result<Option<i32>, String> {
    match file::take(&out.join(TICKET)) {
        Ok(true) => return Ok(None),
        // The node has lost its records. There is no place for its output either, so the start says what is wrong.
        Ok(false) if fs::metadata(out).map_or(0, |out| out.nlink()) == 0 => return Ok(None),
        Ok(false) => {}
        Err(fault) => return Err(fault.to_string()),
    }
    let text = file::read_foreign(&out.join(EXIT), LARGEST_EXIT).ok();
    let told = text.and_then(|text| json::decode::<ExitFile>(&text).ok());
    Ok(Some(match told {
        Some(ExitFile { code: Some(code), .. }) => code,
        Some(ExitFile { fault: Some(_), .. }) => NOT_RUN,
        _ => {
            eprintln!("{WORD}result unknown: it was begun before, and Docker lost sight of that");
            UNSEEN
        }
    }))
}

/// The child's process id.
fn start(task: &BoxFile) -> Result<u32, String> {
    let out = Path::new(OUT);
    let open = |name: &str| output(&out.join(name)).map_err(|fault| fault.to_string());
    let user = user(&task.user)?;
    let own: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let workdir = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let (stdout, stderr) = (open(STDOUT)?, open(STDERR)?);
    let launched = launch(Launch {
        argv: task.argv.iter().map(|word| bytes(word)).collect(),
        env: environment(own, task, home(user).as_deref()),
        workdir,
        stdout,
        stderr,
        user,
        cpus: None,
        mems: None,
        groups: Vec::new(),
        keep: Vec::new(),
    });
    launched.map(|launched| launched.pid).map_err(|fault| fault.to_string())
}

/// Open for all who reach it: the task, whoever it runs as, may open /dev/stdout once more, and a Runner that is not root
/// may read it. The folder that it is in keeps everybody else out.
fn output(path: &Path) -> io::Result<File> {
    let file = file::append_to(path)?;
    file.set_permissions(Permissions::from_mode(0o666))?;
    Ok(file)
}

/// The home of a user who is not root, by the image's own accounts: what Docker would have set HOME to.
fn home(user: Option<(u32, u32)>) -> Option<String> {
    let (uid, _) = user.filter(|(uid, _)| *uid != 0)?;
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = entry(&passwd, 2, &uid.to_string()).and_then(|fields| fields.get(5).map(|home| (*home).to_owned()));
    Some(home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned()))
}

/// The image's own environment, and the task's over it. `home`: where the task does not run as root, as whom Docker has
/// started us, and for whom it has set HOME unless the image did.
fn environment(own: Vec<(OsString, OsString)>, task: &BoxFile, home: Option<&str>) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = own;
    let of_docker = env.iter_mut().find(|(name, value)| name == "HOME" && ROOTS_HOMES.iter().any(|home| value == home));
    if let (Some((_, value)), Some(home)) = (of_docker, home) {
        *value = home.into();
    }
    for (name, value) in &task.env {
        let (name, value) = (bytes(name), bytes(value));
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env
}

/// `USER[:GROUP]`, each a number or a name of the image's own; None: root, as we are.
fn user(text: &str) -> Result<Option<(u32, u32)>, String> {
    let passwd = || fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = || fs::read_to_string("/etc/group").unwrap_or_default();
    resolve(text, &passwd, &group)
}

fn resolve(text: &str, passwd: &dyn Fn() -> String, groups: &dyn Fn() -> String) -> Result<Option<(u32, u32)>, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    if user.is_empty() && group.is_none() {
        return Ok(None);
    }
    let (uid, own_gid) = match user.parse::<u32>() {
        Ok(uid) => (uid, entry(&passwd(), 2, user).and_then(|fields| fields.get(3)?.parse().ok()).unwrap_or(0)),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let text = passwd();
            let fields = entry(&text, 0, user).ok_or_else(|| format!("there is no user '{user}' in this image"))?;
            let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok());
            number(2).zip(number(3)).ok_or_else(|| format!("the user '{user}' of this image has no number"))?
        }
    };
    let gid = match group {
        None => own_gid,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => {
                let text = groups();
                let gid = entry(&text, 0, group).and_then(|fields| fields.get(2)?.parse().ok());
                gid.ok_or_else(|| format!("there is no group '{group}' in this image"))?
            }
        },
    };
    Ok(if (uid, gid) == (0, 0) { None } else { Some((uid, gid)) })
}

/// The fields of the line whose field `index` is `value`.
fn entry<'a>(text: &'a str, index: usize, value: &str) -> Option<Vec<&'a str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(index) == Some(&value))
}

fn bytes(text: &str) -> OsString {
    OsString::from_vec(raw_text::decode(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::executor::docker_parse::ContainerExit;
    use crate::runner::outcome::end_of;
    use crate::runner::supervise::protocol::End;

    #[test]
    fn a_command_is_begun_by_who_takes_its_ticket() {
        let scratch = file::Scratch::new();
        let out = scratch.path();
        assert_eq!(begun_before(&out.join("gone")), Ok(None), "without a folder nothing can be said of it");
        assert_eq!(begun_before(out), Ok(Some(UNSEEN)), "no ticket is left");
        let ticket = out.join(TICKET);
        fs::write(&ticket, "").expect("written");
        assert_eq!(begun_before(out), Ok(None), "the first one");
        assert!(!ticket.exists());
        assert_eq!(begun_before(out), Ok(Some(UNSEEN)), "how that ended is not known");
        // What cannot be taken begins nothing.
        fs::create_dir(&ticket).expect("made");
        assert!(begun_before(out).is_err_and(|fault| fault.contains("ticket")));
    }

    #[test]
    fn a_box_of_an_older_version_has_no_ticket() {
        let old = r#"{"kind":"command","task_id":"1","keys":[],"host_key_seed":"","argv":["true"],"env":[]}"#;
        let task: BoxFile = json::decode(old.as_bytes()).expect("a box");
        assert!(!task.has_ticket);
    }

    /// What the Runner makes of a container that ends because an earlier one has begun the command.
    #[test]
    fn what_a_command_came_to_is_told_by_the_container_that_comes_too_late() {
        let end =
            |code, signal, fault: Option<&str>| End { code, signal, fault: fault.map(str::to_owned), ..End::default() };
        let unseen = "result unknown: Docker did not see how its container ended";
        for (text, expected) in [
            (None, end(None, None, Some(unseen))),
            (Some("odd"), end(None, None, Some(unseen))),
            (Some(r#"{"code":null,"timed_out":false}"#), end(None, None, Some(unseen))),
            (Some(r#"{"code":7,"timed_out":false}"#), end(Some(7), None, None)),
            (Some(r#"{"code":78,"timed_out":false}"#), end(Some(78), None, None)),
            (Some(r#"{"code":255,"timed_out":false}"#), end(Some(255), None, None)),
            (Some(r#"{"code":137,"signal":9,"timed_out":false}"#), end(Some(137), Some(9), None)),
            (
                Some(r#"{"code":null,"timed_out":false,"fault":"cannot run 'x': no"}"#),
                end(Some(NOT_RUN), None, Some("cannot run 'x': no")),
            ),
        ] {
            let scratch = file::Scratch::new();
            let out = scratch.path();
            if let Some(text) = text {
                fs::write(out.join(EXIT), text).expect("written");
            }
            let code = begun_before(out).expect("it is known").expect("it was begun");
            let exit = ContainerExit { code, oom: false, finished_at: None };
            let told = text.and_then(|text| json::decode::<ExitFile>(text.as_bytes()).ok());
            assert_eq!(end_of(&exit, told.as_ref(), false), expected, "{text:?}");
        }
    }

    #[test]
    fn users_are_found_by_the_images_own_files() {
        let passwd = || "root:x:0:0::/root:/bin/sh\nme:x:1000:100::/home/me:/bin/sh\n".to_owned();
        let groups = || "users:x:100:\nstaff:x:50:me\n".to_owned();
        let of = |text: &str| resolve(text, &passwd, &groups);
        for (text, expected) in [
            ("", None),
            ("root", None),
            ("0:0", None),
            ("me", Some((1000, 100))),
            ("me:staff", Some((1000, 50))),
            ("1000", Some((1000, 100))),
            ("4711", Some((4711, 0))),
            ("4711:12", Some((4711, 12))),
            (":staff", Some((0, 50))),
        ] {
            assert_eq!(of(text), Ok(expected), "{text:?}");
        }
        assert!(of("you").is_err_and(|fault| fault.contains("'you'")));
        assert!(of("me:wheel").is_err_and(|fault| fault.contains("'wheel'")));
    }

    #[test]
    fn the_tasks_variables_replace_the_images() {
        let task = BoxFile { env: vec![("A".to_owned(), "2".to_owned())], ..BoxFile::default() };
        let env = environment(vec![("A".into(), "1".into()), ("B".into(), "3".into())], &task, None);
        assert_eq!(env, [("A".into(), "2".into()), ("B".into(), "3".into())]);
    }

    #[test]
    fn home_is_that_of_the_user_unless_somebody_chose_another() {
        let task = |value: Option<&str>| BoxFile {
            env: value.map(|value| ("HOME".to_owned(), value.to_owned())).into_iter().collect(),
            ..BoxFile::default()
        };
        for (image, tasks, users, expected) in [
            ("/root", None, Some("/home/me"), "/home/me"),
            ("/", None, Some("/home/me"), "/home/me"),
            ("/app", None, Some("/home/me"), "/app"),
            ("/root", Some("/x"), Some("/home/me"), "/x"),
            ("/root", None, None, "/root"),
        ] {
            let env = environment(vec![("HOME".into(), image.into())], &task(tasks), users);
            assert_eq!(env, [("HOME".into(), expected.into())], "{image} {tasks:?} {users:?}");
        }
    }
}
