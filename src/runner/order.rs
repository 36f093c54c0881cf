//! What the Host ordered, read from the wire into types.

use crate::api::node::{DesiredAnswer, DesiredTask, OrderSpec};
use crate::domain::ids::{Attempt, EnvName, GpuId, NumaId, TaskId};
use crate::domain::spec::Mount;
use crate::domain::ssh_key::PublicKey;
use crate::domain::state::Want;

/// One line of the Host's list.
#[derive(Clone)]
pub struct Wanted {
    pub attempt: Attempt,
    pub want: Want,
    /// `vps` or `command`.
    pub kind: String,
    /// Err: why this program cannot carry it out.
    pub order: Result<VpsOrder, String>,
}

/// A VPS to start.
#[derive(Clone)]
pub struct VpsOrder {
    pub environment: EnvName,
    /// `authorized_keys` lines.
    pub keys: Vec<String>,
    /// The task's environment; may be secret.
    pub env: Vec<(String, String)>,
    /// 0: none of its own.
    pub cores: u32,
    /// Bytes.
    pub memory: Option<u64>,
    pub numa: Option<NumaId>,
    pub gpus: Vec<GpuId>,
    pub privileged: bool,
    pub mounts: Vec<Mount>,
    pub workdir: Option<String>,
}

/// Reads the Host's list. Lines without a readable id are named in the second answer, and else passed over.
pub fn read(answer: DesiredAnswer) -> (Vec<(TaskId, Wanted)>, Vec<String>) {
    let mut wanted = Vec::new();
    let mut odd = Vec::new();
    for line in answer.tasks {
        let what = format!("task {:?} with want {:?}", line.task_id, line.want);
        match wanted_of(line) {
            Some(line) => wanted.push(line),
            None => odd.push(format!("the Host's list has {what}, which this program does not understand")),
        }
    }
    (wanted, odd)
}

fn wanted_of(line: DesiredTask) -> Option<(TaskId, Wanted)> {
    let task = line.task_id.parse().ok()?;
    let want = Want::from_word(&line.want)?;
    let kind = line.spec.kind.clone();
    Some((task, Wanted { attempt: Attempt(line.attempt), want, kind, order: vps(line.spec) }))
}

fn vps(spec: OrderSpec) -> Result<VpsOrder, String> {
    if spec.kind != "vps" {
        return Err(format!("this node's version of HakuRiver runs no tasks of kind '{}'", spec.kind));
    }
    let environment = spec.container.ok_or("a VPS needs a container environment")?;
    // The Host has checked all of this; a Host of another version may check it otherwise.
    let environment = environment.parse().map_err(|fault: crate::domain::ids::NameFault| fault.to_string())?;
    let keys = spec.keys.iter().map(|key| PublicKey::parse(key).map(|key| key.to_string()));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|fault| fault.to_string())?;
    if keys.is_empty() {
        return Err("a VPS needs a public key".to_owned());
    }
    let mounts = spec.mounts.iter().map(|mount| mount.parse()).collect::<Result<Vec<Mount>, _>>();
    Ok(VpsOrder {
        environment,
        keys,
        env: spec.env.into_iter().map(|pair| (pair.name, pair.value)).collect(),
        cores: spec.cores,
        memory: spec.memory_bytes,
        numa: spec.numa.map(NumaId),
        gpus: spec.gpus.into_iter().map(GpuId).collect(),
        privileged: spec.privileged,
        mounts: mounts.map_err(|fault| fault.to_string())?,
        workdir: spec.workdir,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";

    fn spec() -> OrderSpec {
        OrderSpec {
            kind: "vps".to_owned(),
            keys: vec![KEY.to_owned()],
            container: Some("base".to_owned()),
            mounts: vec!["/data:/d:ro".to_owned()],
            ..OrderSpec::default()
        }
    }

    #[test]
    fn a_vps_is_read() {
        let order = vps(spec()).map_err(|fault| fault.clone()).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((order.keys, order.mounts.len(), order.environment.as_str()), (vec![KEY.to_owned()], 1, "base"));
    }

    #[test]
    fn what_cannot_be_carried_out_says_why() {
        for (spec, expected) in [
            (OrderSpec { kind: "command".to_owned(), ..spec() }, "no tasks of kind 'command'"),
            (OrderSpec { container: None, ..spec() }, "container environment"),
            (OrderSpec { container: Some("../x".to_owned()), ..spec() }, "environment name"),
            (OrderSpec { keys: vec![format!("command=\"x\" {KEY}")], ..spec() }, ""),
            (OrderSpec { keys: Vec::new(), ..spec() }, "public key"),
            (OrderSpec { mounts: vec!["relative:/x".to_owned()], ..spec() }, ""),
        ] {
            let fault = vps(spec).err().expect(expected);
            assert!(fault.contains(expected), "{fault}");
        }
    }

    #[test]
    fn lines_that_are_not_understood_are_named_and_the_others_taken() {
        let line = |id: &str, want: &str| DesiredTask {
            task_id: id.to_owned(),
            attempt: 1,
            want: want.to_owned(),
            spec: spec(),
        };
        let tasks = vec![line("1", "run"), line("x", "run"), line("2", "dance"), line("3", "stop")];
        let (wanted, odd) = read(DesiredAnswer { tasks, ..DesiredAnswer::default() });
        let wanted: Vec<_> = wanted.iter().map(|(task, wanted)| (task.get(), wanted.want)).collect();
        assert_eq!(wanted, [(1, Want::Run), (3, Want::Stop)]);
        assert_eq!(odd.len(), 2, "{odd:?}");
    }
}
