//! `kill TASK_ID…`

use std::path::Path;

use super::fault::Fault;
use super::host_api::Host;
use super::task_ref::{TaskRef, id_of};
use super::{output, ssh};

/// Ends any task.
pub(super) fn any(task: &TaskRef, config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let id = task.id(&host)?;
    output::line(&host.post(&format!("/kill/{id}"))?);
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
    output::line(&host.post(&format!("/kill/{id}"))?);
    ssh::known_hosts::forget(id);
    Ok(())
}

/// Ends command tasks; what is refused is told, and the others are ended all the same.
pub(super) fn tasks(tasks: &[TaskRef], config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let mut faults = Vec::new();
    for task in tasks {
        match one_task(&host, task) {
            Ok(message) => output::line(&message),
            // Neither would the next one be heard.
            Err(fault @ Fault::Unreachable(_)) => return Err(fault),
            Err(fault) => faults.push(fault),
        }
    }
    // The last one is reported at the edge.
    let last = faults.pop();
    for fault in &faults {
        fault.report();
    }
    last.map_or(Ok(()), Err)
}

fn one_task(host: &Host, task: &TaskRef) -> Result<String, Fault> {
    let record = task.record(host)?;
    let id = id_of(&record)?;
    if record.task_type == "vps" {
        // All that is in it would be lost.
        return Err(Fault::Refused(format!("task {id} is a VPS; end it with 'hakuriver vps kill {id}'")));
    }
    host.post(&format!("/kill/{id}"))
}
