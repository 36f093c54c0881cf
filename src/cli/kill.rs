//! `kill TASK_ID…`

use std::path::Path;

use super::fault::Fault;
use super::host_api::Host;
use super::task_ref::{TaskRef, id_of, look};
use super::{output, ssh};
use crate::domain::ids::TaskId;

/// Ends any task.
pub(super) fn any(task: &TaskRef, config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let id = task.id(&host)?;
    output::line(&ask(&host, id)?);
    // Of a VPS; another kind of task has none.
    ssh::known_hosts::forget(id);
    Ok(())
}

/// Ends a VPS; another kind of task is left alone.
pub(super) fn vps(task: &TaskRef, config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let record = task.record(&host)?;
    let id = id_of(&record)?;
    if record.task_type != "vps" {
        let what = format!("task {id} is a {} task, not a VPS", record.task_type);
        return Err(Fault::Refused(format!("{what}; end it with 'hakuriver client kill {id}'")));
    }
    output::line(&ask(&host, id)?);
    ssh::known_hosts::forget(id);
    Ok(())
}

/// Ends command tasks; what is refused is told, and the others are ended all the same.
pub(super) fn tasks(tasks: &[TaskRef], config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let mut faults = each(tasks, &mut |task| one_task(&host, task));
    // The last one is reported at the edge.
    let last = faults.pop();
    for fault in &faults {
        fault.report();
    }
    last.map_or(Ok(()), Err)
}

/// Ends one after the other; what did not go well.
fn each(tasks: &[TaskRef], end: &mut dyn FnMut(&TaskRef) -> Result<String, Fault>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for task in tasks {
        match end(task) {
            Ok(message) => output::line(&message),
            Err(fault) => {
                let is_away = matches!(fault, Fault::Unreachable(_));
                faults.push(fault);
                // Neither would the next one be heard.
                if is_away {
                    break;
                }
            }
        }
    }
    faults
}

fn one_task(host: &Host, task: &TaskRef) -> Result<String, Fault> {
    let record = task.record(host)?;
    let id = id_of(&record)?;
    if record.task_type == "vps" {
        // All that is in it would be lost.
        return Err(Fault::Refused(format!("task {id} is a VPS; end it with 'hakuriver vps kill {id}'")));
    }
    ask(host, id)
}

fn ask(host: &Host, id: TaskId) -> Result<String, Fault> {
    host.post(&format!("/kill/{id}"), &look(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_also_where_the_host_goes_away_after_it() {
        let tasks = ["1", "2", "3", "4"].map(|id| id.parse::<TaskRef>().expect("an id"));
        let (refused, away) = (Fault::Refused("task 1 has ended".into()), Fault::Unreachable("no answer".into()));
        let mut asked = 0;
        let faults = each(&tasks, &mut |_| {
            asked += 1;
            match asked {
                1 => Err(refused.clone()),
                2 => Ok("Kill requested for task 2.".to_owned()),
                _ => Err(away.clone()),
            }
        });
        assert_eq!((faults, asked), (vec![refused.clone(), away.clone()], 3));
    }
}
