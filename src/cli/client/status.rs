//! `client status`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::public::TaskRecord;
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::task_ref::TaskRef;
use crate::cli::{output, table, words};

/// Show everything about a task of any kind.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000\n{command_name} my-vps --json"
)]
pub(super) struct StatusArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs, config: Option<&Path>) -> Result<(), Fault> {
    let path = args.task.status_path();
    let body = Host::of(config)?.get(&path)?;
    if args.json {
        output::body(&body);
    } else {
        output::print(&render(&decode(&path, &body)?));
    }
    Ok(())
}

/// One field a line. Of the environment only the names: its values are often secrets, and a terminal is seen by others.
fn render(task: &TaskRecord) -> String {
    let mut fields = vec![
        ("task_id", task.task_id.clone()),
        ("name", table::or_dash(task.name.as_ref())),
        ("task_type", task.task_type.clone()),
        ("status", task.status.clone()),
        ("want", task.want.clone()),
        ("reason", table::or_dash(task.reason.as_ref())),
        ("error_message", table::or_dash(task.error_message.as_ref())),
        ("exit_code", table::or_dash(task.exit_code)),
        ("exit_signal", table::or_dash(task.exit_signal)),
        ("assigned_node", table::or_dash(task.assigned_node.as_ref())),
        ("target_numa_node_id", table::or_dash(task.target_numa_node_id)),
        ("required_cores", task.required_cores.to_string()),
        ("required_memory_bytes", table::or_dash(task.required_memory_bytes)),
        ("required_gpus", table::list(&task.required_gpus)),
        ("container_name", table::or_dash(task.container_name.as_ref())),
        ("command", task.command.clone()),
        // As a shell would read them: where one ends and the next begins is to be seen.
        ("arguments", words::shown(&task.arguments)),
        ("env_vars", task.env_vars.keys().cloned().collect::<Vec<_>>().join(",")),
        ("ssh_port", table::or_dash(task.ssh_port)),
        ("host_keys", task.host_keys.join("\n")),
        ("submitted_at", task.submitted_at.clone()),
        ("started_at", table::or_dash(task.started_at.as_ref())),
        ("completed_at", table::or_dash(task.completed_at.as_ref())),
        ("stdout_path", table::or_dash(task.stdout_path.as_ref())),
        ("stderr_path", table::or_dash(task.stderr_path.as_ref())),
        ("stdout_bytes", table::or_dash(task.stdout_bytes)),
        ("stderr_bytes", table::or_dash(task.stderr_bytes)),
        ("output_note", table::or_dash(task.output_note.as_ref())),
        ("systemd_unit_name", table::or_dash(task.systemd_unit_name.as_ref())),
        ("batch_id", task.batch_id.clone()),
        ("attempt", task.attempt.to_string()),
    ];
    // What only the other kind of task has would be noise.
    let foreign: &[&str] = match task.task_type.as_str() {
        "vps" => &[
            "arguments",
            "stdout_path",
            "stderr_path",
            "stdout_bytes",
            "stderr_bytes",
            "output_note",
            "systemd_unit_name",
        ],
        _ => &["ssh_port", "host_keys"],
    };
    fields.retain(|(name, _)| !foreign.contains(name));
    table::record(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_tells_node_reason_and_error_and_hides_values() {
        let task = TaskRecord {
            task_id: "7".into(),
            task_type: "vps".into(),
            status: "failed".into(),
            want: "run".into(),
            assigned_node: Some("node1".into()),
            error_message: Some("no sshd in the image".into()),
            required_gpus: vec![0, 1],
            env_vars: [("TOKEN".to_owned(), "secret".to_owned())].into(),
            ..TaskRecord::default()
        };
        let text = render(&task);
        for line in [
            "task_id: 7",
            "name: -",
            "status: failed",
            "assigned_node: node1",
            "error_message: no sshd in the image",
            "reason: -",
            "exit_code: -",
            "required_gpus: 0,1",
            "env_vars: TOKEN",
            "required_memory_bytes: -",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("secret") && !text.contains("stdout_") && !text.contains("systemd"), "{text}");
    }

    #[test]
    fn a_commands_arguments_can_be_told_apart() {
        let task = TaskRecord {
            task_type: "command".into(),
            command: "echo".into(),
            arguments: vec!["a b".into(), String::new(), "$(id)\n".into(), "\u{10ffff}".into()],
            stdout_bytes: Some(5),
            output_note: Some("output after byte 5 of stdout is missing".into()),
            ..TaskRecord::default()
        };
        let text = render(&task);
        for line in [
            "command: echo",
            "arguments: 'a b' '' $'$(id)\\n' $'\\377'",
            "stdout_bytes: 5",
            "output_note: output after byte 5 of stdout is missing",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("ssh_port"), "{text}");
    }
}
