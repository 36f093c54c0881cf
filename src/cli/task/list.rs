//! `task list`

use std::path::Path;
use std::str::FromStr;

use argh::{ArgsInfo, FromArgs};

use crate::api::public::TaskRow;
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table, words};
use crate::domain::ids::NodeName;
use crate::domain::size::Bytes;
use crate::domain::state::State;

/// List command tasks, newest first.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "list",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --status running --node node1\n{command_name} --status failed --limit 20 --json"
)]
pub(super) struct ListArgs {
    /// only those in this state: pending, assigning, running, paused, completed, failed, killed, killed_oom, lost
    #[argh(option, arg_name = "STATUS")]
    status: Option<Status>,
    /// only those on this node
    #[argh(option, arg_name = "HOSTNAME")]
    node: Option<NodeName>,
    /// the newest N (default: 1000)
    #[argh(option, arg_name = "N")]
    limit: Option<Limit>,
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(State);

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        State::from_word(text)
            .map(Self)
            .ok_or_else(|| format!("expected one of {}", State::ALL.map(State::word).join(", ")))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(u32);

/// What the Host gives in one list, and without a limit.
const MOST: u32 = 100_000;
const DEFAULT: usize = 1_000;

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
        number
            .filter(|number| (1..=MOST).contains(number))
            .map(Self)
            .ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
    }
}

pub(super) fn run(args: &ListArgs, config: Option<&Path>) -> Result<(), Fault> {
    let path = path(args);
    let body = Host::of(config)?.get(&path)?;
    if args.json {
        output::body(&body);
        return Ok(());
    }
    let rows: Vec<TaskRow> = decode(&path, &body)?;
    output::print(&render(&rows));
    if args.limit.is_none() && rows.len() >= DEFAULT {
        output::error_line(&format!("note: these are the newest {DEFAULT}; --limit shows more"));
    }
    Ok(())
}

/// None of the values has a character that would need an escape.
fn path(args: &ListArgs) -> String {
    let status = args.status.map(|Status(state)| format!("status={}", state.word()));
    let node = args.node.as_ref().map(|node| format!("node={node}"));
    let limit = args.limit.map(|Limit(limit)| format!("limit={limit}"));
    let query: Vec<String> = [status, node, limit].into_iter().flatten().collect();
    if query.is_empty() { "/tasks".to_owned() } else { format!("/tasks?{}", query.join("&")) }
}

const HEAD: [&str; 11] =
    ["task_id", "name", "status", "node", "cores", "memory", "gpus", "exit", "submitted", "command", "reason"];

/// The last column, which says what a task waits for or why it failed, is there only if one has something to say.
fn render(rows: &[TaskRow]) -> String {
    let mut lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let mut head = HEAD.as_slice();
    if lines.iter().all(|line| line.last().is_none_or(String::is_empty)) {
        head = &HEAD[..HEAD.len() - 1];
        lines.iter_mut().for_each(|line| drop(line.pop()));
    }
    table::table(head, &lines)
}

fn cells(row: &TaskRow) -> Vec<String> {
    /// Characters of a command and of a reason: both can be very long, and `client status` shows all.
    const COMMAND: usize = 48;
    const REASON: usize = 100;
    let why = row.reason.as_deref().or(row.error_message.as_deref()).unwrap_or_default();
    vec![
        row.task_id.clone(),
        table::or_dash(row.name.as_ref()),
        // A kill of what runs is a wish until the node has carried it out.
        match (row.want.as_str(), State::from_word(&row.status)) {
            ("stop", Some(state)) if !state.is_settled() => format!("{} (ending)", row.status),
            _ => row.status.clone(),
        },
        table::or_dash(row.assigned_node.as_ref()),
        row.required_cores.to_string(),
        table::or_dash(row.required_memory_bytes.map(Bytes)),
        table::list(&row.required_gpus),
        table::or_dash(row.exit_code),
        row.submitted_at.clone(),
        cut(&words::shown(std::iter::once(&row.command).chain(&row.arguments)), COMMAND),
        cut(why.lines().next().unwrap_or_default(), REASON),
    ]
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_says_why_and_a_command_stays_on_its_line() {
        let ended = TaskRow {
            task_id: "7398471823749120000".into(),
            command: "sh".into(),
            arguments: vec!["-c".into(), "echo \"a\"\n\x1b[2J".into(), "\u{10ffff}".into()],
            status: "failed".into(),
            assigned_node: Some("node1".into()),
            required_cores: 4,
            required_gpus: vec![0, 1],
            required_memory_bytes: Some(8_000_000_000),
            exit_code: Some(3),
            submitted_at: "then".into(),
            name: Some("night".into()),
            want: "run".into(),
            ..TaskRow::default()
        };
        let pending = TaskRow {
            task_id: "2".into(),
            command: "x".repeat(60),
            status: "pending".into(),
            submitted_at: "now".into(),
            reason: Some("node1: 2 of 4 cores free".into()),
            ..TaskRow::default()
        };
        let running = TaskRow {
            task_id: "1".into(),
            status: "running".into(),
            want: "stop".into(),
            command: "y".into(),
            ..TaskRow::default()
        };
        let only = render(std::slice::from_ref(&ended));
        assert_eq!(
            only,
            "task_id              name   status  node   cores  memory  gpus  exit  submitted  command\n\
             7398471823749120000  night  failed  node1  4      8G      0,1   3     then       \
             sh -c $'echo \"a\"\\n\\033[2J' $'\\377'\n"
        );
        let all = render(&[ended, pending, running]);
        let lines: Vec<&str> = all.lines().collect();
        assert!(lines[0].ends_with("reason") && lines[1].ends_with("  -"), "{all}");
        assert!(lines[2].ends_with(&format!("{}…  node1: 2 of 4 cores free", "x".repeat(47))), "{all}");
        assert!(lines[3].contains("running (ending)"), "{all}");
    }

    #[test]
    fn filters_become_the_query() {
        let args = |status, node: Option<&str>, limit| ListArgs {
            status,
            node: node.map(|node| node.parse().expect("a name")),
            limit,
            json: false,
        };
        for (args, expected) in [
            (args(None, None, None), "/tasks"),
            (args(Some(Status(State::KilledOom)), None, None), "/tasks?status=killed_oom"),
            (args(Some(Status(State::Lost)), Some("n1.lab"), Some(Limit(3))), "/tasks?status=lost&node=n1.lab&limit=3"),
        ] {
            assert_eq!(path(&args), expected);
        }
    }
}
