//! Which part of the program is wanted: by the name it was started under, or by its first word.

use std::path::PathBuf;

use super::fault::Fault;
use crate::domain::raw_text;

/// A part of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Host,
    Runner,
    Up,
    Vps,
    Client,
    Ssh,
    Task,
    Docker,
    DockerShell,
    Run,
    Init,
    /// Not for users: process 1 of our containers.
    Supervise,
}

impl Role {
    /// All that users see, in the order of the help.
    pub const SHOWN: [(Self, &'static str, &'static str); 11] = [
        (Self::Up, "up", "Host and Runner in one process on this machine: the way to begin"),
        (Self::Vps, "vps", "submit and manage VPS tasks"),
        (Self::Task, "task", "submit and manage command tasks, read their output"),
        (Self::Ssh, "ssh", "a shell in a VPS, through the Host"),
        (Self::Docker, "docker", "environments: containers on the Host, and the tarballs packed of them"),
        (Self::DockerShell, "docker-shell", "a shell in an environment's container on the Host"),
        (Self::Client, "client", "nodes, their health, and any task by its id"),
        (Self::Run, "run", "run a program here, once for every combination of its arguments"),
        (Self::Host, "host", "the coordinator: API, database, scheduler, SSH proxy"),
        (Self::Runner, "runner", "the agent on a node"),
        (Self::Init, "init", "write a configuration, make the links"),
    ];

    /// Known, and not shown: for our own use, or not part of this version.
    const HIDDEN: [(Self, &'static str); 1] = [(Self::Supervise, "supervise")];

    fn words() -> impl Iterator<Item = (Self, &'static str)> {
        Self::SHOWN.into_iter().map(|(role, word, _)| (role, word)).chain(Self::HIDDEN)
    }

    /// The role's word on the command line.
    pub fn word(self) -> &'static str {
        Self::words().find(|(role, _)| *role == self).map(|(_, word)| word).expect("every role has a word")
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::words().find(|(_, known)| *known == word).map(|(role, _)| role)
    }

    /// The role of a program with that name: `hakuriver.vps`, `hakurun`, with or without a path in front.
    pub fn of_program(program: &str) -> Option<Self> {
        let name = program.rsplit('/').next().unwrap_or(program);
        match name.strip_prefix("hakuriver.") {
            Some(word) => Self::from_word(word),
            None => (name == "hakurun").then_some(Self::Run),
        }
    }
}

/// A role and what it is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub role: Role,
    /// For help and messages: `hakuriver vps`, or the link's name.
    pub command: Vec<String>,
    /// `--config` before the role.
    pub config: Option<PathBuf>,
    /// What follows the role.
    pub args: Vec<String>,
}

/// What argv asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Role(Invocation),
    Help,
    Version,
    /// Not understood.
    Usage(String),
}

/// Reads argv: `program` is its first element.
pub fn wanted(program: &str, args: &[String]) -> Wanted {
    let is_version = |word: Option<&String>| word.is_some_and(|word| word == "--version" || word == "-V");
    if let Some(role) = Role::of_program(program) {
        if is_version(args.first()) {
            return Wanted::Version;
        }
        let name = program.rsplit('/').next().unwrap_or(program).to_owned();
        return Wanted::Role(Invocation { role, command: vec![name], config: None, args: args.to_vec() });
    }
    let mut config = None;
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let path = match word.as_str() {
            "-h" | "--help" | "help" => return Wanted::Help,
            "--config" => rest.next().map(String::as_str).unwrap_or_default(),
            word => match word.strip_prefix("--config=") {
                Some(path) => path,
                None if is_version(Some(&word.to_owned())) => return Wanted::Version,
                None if word.starts_with('-') => {
                    return Wanted::Usage(format!(
                        "unknown option '{word}' (known: --config, --help, --version); see 'hakuriver --help'"
                    ));
                }
                None => return role(word, config, rest.cloned().collect()),
            },
        };
        if path.is_empty() {
            return Wanted::Usage("option '--config' needs a path".into());
        }
        if config.replace(PathBuf::from(path)).is_some() {
            return Wanted::Usage("option '--config' is given twice".into());
        }
    }
    Wanted::Usage(format!("a command is missing ({}); see 'hakuriver --help'", words()))
}

/// Refuses bytes that are not UTF-8 wherever they are not a program's own arguments. (What of a task's or a run's line may hold
/// them, [`super::args`] knows.)
///
/// # Errors
/// The first such argument of `args`, the whole line after the program's name.
pub fn check_text(invocation: &Invocation, args: &[String]) -> Result<(), Fault> {
    let is_ours = match invocation.role {
        Role::Task | Role::Run => args.len() - invocation.args.len(),
        _ => args.len(),
    };
    match args[..is_ours].iter().find(|word| raw_text::is_raw(word)) {
        Some(word) => Err(Fault::Usage(not_text(word))),
        None => Ok(()),
    }
}

/// The fault of such an argument.
pub(super) fn not_text(word: &str) -> String {
    format!("an argument is not valid UTF-8: {word}")
}

fn role(word: &str, config: Option<PathBuf>, args: Vec<String>) -> Wanted {
    let Some(role) = Role::from_word(word) else {
        return Wanted::Usage(format!("unknown command '{word}' (known: {}); see 'hakuriver --help'", words()));
    };
    if args.first().is_some_and(|arg| arg == "--version") {
        return Wanted::Version;
    }
    Wanted::Role(Invocation { role, command: vec!["hakuriver".into(), word.into()], config, args })
}

fn words() -> String {
    Role::SHOWN.iter().map(|(_, word, _)| *word).collect::<Vec<_>>().join(", ")
}

/// The help of the whole program.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: hakuriver [--config PATH] <role> [<command>] [<args>]\n\n\
         One computer made of a handful of Linux machines: VPS and command tasks on the node that fits.\n\n\
         Roles:\n",
    );
    for (_, word, what) in Role::SHOWN {
        text.push_str(&format!("  {word:<16}  {what}\n"));
    }
    text.push_str(
        "\nOptions:\n  \
         --config PATH     path of the configuration file; else HAKURIVER_CONFIG, else ~/.hakuriver/config.toml\n  \
         -h, --help        display usage information; every role and command has its own\n  \
         --version         display the version\n\n\
         A link to this program named hakuriver.vps, hakuriver.ssh … is that role.\n\n\
         Examples:\n  \
         hakuriver up\n  \
         hakuriver vps submit --cores 4 --memory 8G\n  \
         hakuriver ssh TASK_ID\n  \
         hakuriver task submit --cores 4 --wait -- make -j4\n\n\
         Exit status: 0 done; 1 the Host or the task said no; 2 the command line or the configuration is wrong;\n\
         3 the Host cannot be reached.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_role_is_the_name_or_the_first_word() {
        for (program, line, role, command, config, args) in [
            ("hakuriver", "vps submit", Role::Vps, "hakuriver vps", None, "submit"),
            ("/usr/bin/hakuriver", "--config c vps status", Role::Vps, "hakuriver vps", Some("c"), "status"),
            ("hakuriver", "--config=c ssh 1 --version", Role::Ssh, "hakuriver ssh", Some("c"), "1 --version"),
            ("hakuriver.vps", "submit", Role::Vps, "hakuriver.vps", None, "submit"),
            ("/a/b/hakuriver.vps", "--config c submit", Role::Vps, "hakuriver.vps", None, "--config c submit"),
            ("./hakuriver.ssh", "vps", Role::Ssh, "hakuriver.ssh", None, "vps"),
            ("hakuriver.docker-shell", "x", Role::DockerShell, "hakuriver.docker-shell", None, "x"),
            ("/opt/hakurun", "--parallel a", Role::Run, "hakurun", None, "--parallel a"),
            ("hakuriver-1.0", "client nodes", Role::Client, "hakuriver client", None, "nodes"),
            ("hakuriver.new", "client nodes", Role::Client, "hakuriver client", None, "nodes"),
            ("hakuriver", "supervise --in-container", Role::Supervise, "hakuriver supervise", None, "--in-container"),
        ] {
            let (command, config) = (strings(command), config.map(PathBuf::from));
            let expected = Wanted::Role(Invocation { role, command, config, args: strings(args) });
            assert_eq!(wanted(program, &strings(line)), expected, "{program} {line}");
        }
    }

    #[test]
    fn help_and_version() {
        for line in ["--help", "-h", "help", "--config c --help vps"] {
            assert_eq!(wanted("hakuriver", &strings(line)), Wanted::Help, "{line}");
        }
        for line in ["--version", "-V", "vps --version"] {
            assert_eq!(wanted("hakuriver", &strings(line)), Wanted::Version, "{line}");
        }
        assert_eq!(wanted("hakuriver.vps", &strings("--version")), Wanted::Version);
        for role in [Role::Task, Role::Docker, Role::DockerShell, Role::Run, Role::Supervise] {
            assert_eq!(Role::from_word(role.word()), Some(role));
        }
        for (_, word, _) in Role::SHOWN {
            assert!(help().contains(&format!("\n  {word} ")), "{word}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_for_commands_alone() {
        let raw = raw_text::encode(b"\xff").into_owned();
        for (program, line, expected) in [
            ("hakuriver", &["task", "submit", "--", &raw][..], true),
            ("hakuriver", &["run", &raw], true),
            ("hakurun", &[&raw], true),
            ("hakuriver.task", &["submit", &raw], true),
            ("hakuriver", &["--config", &raw, "task", "submit"], false),
            ("hakuriver", &["ssh", "7", "--", &raw], false),
            ("hakuriver.vps", &["submit", "--env", &raw], false),
        ] {
            let args: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            let Wanted::Role(invocation) = wanted(program, &args) else { panic!("{line:?} is a role") };
            assert_eq!(check_text(&invocation, &args).is_ok(), expected, "{line:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_answered_with_what_is() {
        for (line, expected) in [
            ("", "a command is missing (up, vps, task, ssh, "),
            ("vsp submit", "unknown command 'vsp' (known: up, vps, task, ssh, "),
            ("--verbose", "unknown option '--verbose' (known: --config, --help, --version)"),
            ("--config", "option '--config' needs a path"),
            ("--config= vps", "option '--config' needs a path"),
            ("--config a --config b vps", "option '--config' is given twice"),
        ] {
            let Wanted::Usage(text) = wanted("hakuriver", &strings(line)) else { panic!("{line} was taken") };
            assert!(text.starts_with(expected), "{line}: {text}");
        }
    }
}
