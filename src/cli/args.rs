//! From argv to a parsed command: argh with the rules that it lacks.
//!
//! `--opt=value` is taken; help is wanted wherever it stands, and goes to stdout with status 0; an unknown command or
//! option is answered with the known ones; `--config` may stand at every level. What follows `--`, or the first argument
//! of a command that passes the rest on, is left untouched.

use std::path::PathBuf;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs, Optionality};

use super::fault::{DONE, Fault};
use super::role::{Invocation, not_text};
use crate::domain::raw_text;

/// The end of the program instead of a parsed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Asked for: stdout, status 0.
    Help(String),
    /// Wrong: stderr, status 2.
    Usage(String),
}

/// The arguments of a role, and the path of `--config`, before or after its word. Help is printed here.
///
/// # Errors
/// What is wrong with them; or that nothing is left to do after the help.
pub fn of<T: FromArgs + ArgsInfo>(invocation: &Invocation) -> Result<(T, Option<PathBuf>), Fault> {
    of_role(invocation, Bare::Incomplete)
}

/// The same for a role that has commands, and something to do without one.
///
/// # Errors
/// As [`of`].
pub fn of_host<T: FromArgs + ArgsInfo>(invocation: &Invocation) -> Result<(T, Option<PathBuf>), Fault> {
    of_role(invocation, Bare::Complete)
}

/// What a role without one of its commands is.
#[derive(Clone, Copy, PartialEq)]
enum Bare {
    Complete,
    Incomplete,
}

fn of_role<T: FromArgs + ArgsInfo>(invocation: &Invocation, bare: Bare) -> Result<(T, Option<PathBuf>), Fault> {
    let command: Vec<&str> = invocation.command.iter().map(String::as_str).collect();
    match parse_role(&command, &invocation.args, bare) {
        Ok((_, Some(_))) if invocation.config.is_some() => {
            Err(Fault::Usage("option '--config' is given twice".to_owned()))
        }
        Ok((parsed, config)) => Ok((parsed, config.or_else(|| invocation.config.clone()))),
        Err(Exit::Usage(text)) => Err(Fault::Usage(text)),
        Err(Exit::Help(text)) => {
            super::output::print(&text);
            Err(Fault::Status(DONE))
        }
    }
}

/// Parses `args`, the words after `command` (`["hakuriver", "vps"]`). The path is that of `--config`, if it is there.
///
/// # Errors
/// See [`Exit`].
pub fn parse<T: FromArgs + ArgsInfo>(command: &[&str], args: &[String]) -> Result<(T, Option<PathBuf>), Exit> {
    parse_role(command, args, Bare::Incomplete)
}

fn parse_role<T: FromArgs + ArgsInfo>(
    command: &[&str],
    args: &[String],
    bare: Bare,
) -> Result<(T, Option<PathBuf>), Exit> {
    let walked = walk(&T::get_args_info(), command, args, bare)?;
    let words: Vec<&str> = walked.args.iter().map(String::as_str).collect();
    let parsed = T::from_args(command, &words).map_err(|exit| match exit.status {
        Ok(()) => Exit::Help(shown_help(&exit.output)),
        Err(()) => Exit::Usage(format!("{}; see '{} --help'", plain(&exit.output), walked.command.join(" "))),
    })?;
    Ok((parsed, walked.config))
}

/// The command line as argh wants it.
#[derive(Debug, PartialEq, Eq)]
struct Walked {
    args: Vec<String>,
    config: Option<PathBuf>,
    /// The command with the subcommands that were named.
    command: Vec<String>,
}

fn walk(info: &CommandInfoWithArgs, command: &[&str], args: &[String], bare: Bare) -> Result<Walked, Exit> {
    let mut level = info;
    let mut walked =
        Walked { args: Vec::new(), config: None, command: command.iter().map(|word| (*word).to_owned()).collect() };
    let mut names = Vec::new();
    let (mut wants_help, mut positional) = (false, 0);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let usage = |text: String| Exit::Usage(format!("{text}; see '{} --help'", walked.command.join(" ")));
        let is_greedy = level.positionals.last().is_some_and(|last| last.optionality == Optionality::Greedy)
            && positional + 1 >= level.positionals.len();
        // Only a program's own words may be other bytes than text, and what stands in its environment.
        let as_text = |word: &str| if raw_text::is_raw(word) { Err(usage(not_text(word))) } else { Ok(()) };
        if !(arg == "--" || is_greedy && !arg.starts_with('-') || arg.starts_with("--env=")) {
            as_text(arg)?;
        }
        if arg == "--" {
            walked.args.push(arg.clone());
            walked.args.extend(rest.by_ref().cloned());
        } else if arg == "-h" || arg == "--help" {
            wants_help = true;
        } else if arg.starts_with('-') && arg.len() > 1 {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            if name == "--config" {
                let value = value.or_else(|| rest.next().cloned()).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| usage("option '--config' needs a path".into()))?;
                as_text(&value)?;
                if walked.config.replace(value.into()).is_some() {
                    return Err(usage("option '--config' is given twice".into()));
                }
                continue;
            }
            let flag = level.flags.iter().find(|flag| {
                flag.long == name
                    || flag.short.is_some_and(|short| name.strip_prefix('-') == Some(short.to_string().as_str()))
            });
            let Some(flag) = flag else {
                let known = level.flags.iter().filter(|flag| !flag.hidden).map(|flag| flag.long);
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(usage(format!("unknown option '{name}' (known: {known}, --config)")));
            };
            walked.args.push(name.to_owned());
            match (&flag.kind, value) {
                (FlagInfoKind::Switch, None) => {}
                (FlagInfoKind::Switch, Some(_)) => return Err(usage(format!("option '{name}' takes no value"))),
                (FlagInfoKind::Option { .. }, Some(value)) => walked.args.push(value),
                // Whatever it looks like, it is the option's value.
                (FlagInfoKind::Option { .. }, None) => {
                    let value = rest.next();
                    if name != "--env" {
                        value.map_or(Ok(()), |value| as_text(value))?;
                    }
                    walked.args.extend(value.cloned());
                }
            }
        } else if !level.commands.is_empty() {
            let Some(sub) = level.commands.iter().find(|sub| sub.name == arg) else {
                return Err(usage(format!("unknown command '{arg}' (known: {})", commands(level))));
            };
            walked.args.push(arg.clone());
            walked.command.push(arg.clone());
            names.push(arg.clone());
            level = &sub.command;
        } else {
            walked.args.push(arg.clone());
            if is_greedy {
                walked.args.extend(rest.by_ref().cloned());
            }
            positional += 1;
        }
    }
    if wants_help {
        // argh wants nothing before it but the commands.
        names.push("--help".to_owned());
        walked.args = names;
    } else if !level.commands.is_empty() && bare == Bare::Incomplete {
        let command = walked.command.join(" ");
        return Err(Exit::Usage(format!("'{command}' needs a command ({}); see '{command} --help'", commands(level))));
    }
    Ok(walked)
}

fn commands(level: &CommandInfoWithArgs) -> String {
    level.commands.iter().map(|sub| sub.name).collect::<Vec<_>>().join(", ")
}

/// argh's message as a part of one line of ours.
fn plain(message: &str) -> String {
    let text = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    // What argh calls the argument is the name of a field.
    if let Some((_, rest)) =
        text.split_once("positional argument '").and_then(|(_, rest)| rest.split_once("' with value "))
    {
        return format!("argument {rest}");
    }
    for (start, ours) in [
        ("Error parsing ", ""),
        ("Required positional arguments not provided: ", "missing: "),
        ("Required options not provided: ", "missing: "),
        ("No value provided for option ", "no value for option "),
    ] {
        if let Some(rest) = text.strip_prefix(start) {
            return format!("{ours}{rest}");
        }
    }
    match text.strip_prefix("Unrecognized argument: ") {
        Some(word) => format!("unexpected argument '{word}'"),
        None => text.to_owned(),
    }
}

/// Adds `--config`, which every command takes and no struct of argh's names, and breaks long lines.
fn shown_help(help: &str) -> String {
    const LINE: &str = "  --config          path of the configuration file";
    wrapped(&help.replacen("\n  -h, --help ", &format!("\n{LINE}\n  -h, --help "), 1))
}

/// Breaks the paragraphs, which argh leaves as one line each. What is indented stays as it is.
fn wrapped(help: &str) -> String {
    const WIDTH: usize = 100;
    let mut text = String::new();
    for line in help.trim_end().lines() {
        let mut width = 0;
        for word in line.split_inclusive(' ') {
            let length = word.trim_end().chars().count();
            if width > 0 && width + length > WIDTH && !line.starts_with(' ') {
                text.truncate(text.trim_end_matches(' ').len());
                text.push('\n');
                width = 0;
            }
            text.push_str(word);
            width += word.chars().count();
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
