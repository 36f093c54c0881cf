//! `init links`

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::cli::fault::Fault;
use crate::cli::output;
use crate::cli::role::Role;
use crate::config;
use crate::sys::random;

/// Make the links that give every role a command of its own: hakuriver.vps, hakuriver.ssh … and hakurun. Can be called again;
/// nothing is replaced but links to a HakuRiver.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "links", help_triggers("-h", "--help"), example = "{command_name} --dir /usr/local/bin")]
pub(super) struct LinksArgs {
    /// where they are made
    #[argh(option, arg_name = "DIR")]
    dir: String,
}

/// The names, each of which is a role.
const NAMES: [&str; 9] = [
    "hakuriver.vps",
    "hakuriver.task",
    "hakuriver.client",
    "hakuriver.ssh",
    "hakuriver.docker",
    "hakuriver.docker-shell",
    "hakuriver.host",
    "hakuriver.runner",
    "hakurun",
];

pub(super) fn run(args: &LinksArgs) -> Result<(), Fault> {
    let program = std::env::current_exe()
        .map_err(|fault| Fault::Refused(format!("cannot tell the path of this program: {fault}")))?;
    let dir = config::expand(&args.dir)?;
    let dir = dir.canonicalize().map_err(|fault| Fault::Usage(format!("--dir: {}: {fault}", dir.display())))?;
    for (link, target) in make(&dir, &program)? {
        output::line(&format!("{} -> {}", link.display(), target.display()));
    }
    Ok(())
}

/// Makes them all, or none if one name is taken.
fn make(dir: &Path, program: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Fault> {
    // Beside the program a bare name goes on working when the folder is moved.
    let target = match (program.parent(), program.file_name()) {
        (Some(parent), Some(name)) if parent == dir => PathBuf::from(name),
        _ => program.to_owned(),
    };
    let links: Vec<PathBuf> = NAMES.iter().map(|name| dir.join(name)).collect();
    if let Some(taken) = links.iter().find(|link| !is_ours_or_free(link, &target)) {
        return Err(Fault::Refused(format!(
            "{} is there already and is no link to a HakuRiver: remove it, or choose another --dir",
            taken.display()
        )));
    }
    for link in &links {
        place(link, &target)
            .map_err(|fault| Fault::Refused(format!("cannot make the link {}: {fault}", link.display())))?;
    }
    Ok(links.into_iter().map(|link| (link, target.clone())).collect())
}

/// Nothing is there, or a link of an earlier call: to this program, or to another one of its name.
fn is_ours_or_free(link: &Path, target: &Path) -> bool {
    if link.symlink_metadata().is_err() {
        return true;
    }
    let Ok(before) = link.read_link() else { return false };
    let is_binary = |name: &str| name.starts_with("hakuriver") && Role::of_program(name).is_none();
    before == target || before.file_name().and_then(|name| name.to_str()).is_some_and(is_binary)
}

/// Made under another name and moved, so that a command is never missing in between.
fn place(link: &Path, target: &Path) -> io::Result<()> {
    if link.read_link().is_ok_and(|before| before == target) {
        return Ok(());
    }
    let temporary = link.with_file_name(format!(".hakuriver-{}", random::hex(8)));
    symlink(target, &temporary)?;
    std::fs::rename(&temporary, link).inspect_err(|_| {
        let _gone = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("hakuriver-links-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
        dir.canonicalize().expect("it was made")
    }

    #[test]
    fn every_link_is_a_role_and_a_second_call_changes_nothing() {
        let dir = folder("twice");
        for _ in 0..2 {
            let made = make(&dir, Path::new("/opt/hakuriver")).expect("they can be made");
            assert_eq!(made.len(), NAMES.len());
            assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), NAMES.len());
        }
        for name in NAMES {
            assert!(Role::of_program(name).is_some(), "{name}");
            assert_eq!(dir.join(name).read_link().expect("it is a link"), Path::new("/opt/hakuriver"), "{name}");
        }
        // Another version of the program takes them over; beside them the target is a bare name.
        make(&dir, &dir.join("hakuriver-2.0")).expect("they are ours");
        assert_eq!(dir.join("hakurun").read_link().expect("it is a link"), Path::new("hakuriver-2.0"));
        std::fs::remove_dir_all(dir).expect("it was made");
    }

    #[test]
    fn what_is_not_ours_is_left_alone_and_then_nothing_is_made() {
        let dir = folder("foreign");
        let foreign = dir.join("hakuriver.ssh");
        std::fs::write(&foreign, "a script").expect("it can be written");
        let fault = make(&dir, Path::new("/opt/hakuriver")).expect_err("a file is in the way");
        assert!(fault.message().is_some_and(|text| text.contains("hakuriver.ssh is there already")), "{fault:?}");
        assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), 1);
        std::fs::remove_file(&foreign).expect("it was made");
        symlink("/usr/bin/python3", &foreign).expect("it can be made");
        assert!(make(&dir, Path::new("/opt/hakuriver")).is_err());
        std::fs::remove_dir_all(dir).expect("it was made");
    }
}
