//! What the Host ordered, read from the wire into types.

use crate::api::node::{DesiredAnswer, DesiredTask, OrderSpec, RETURN};
use crate::domain::ids::{Attempt, EnvName, GpuId, NumaId, TaskId};
use crate::domain::spec::{Mount, SpecFault, UserId};
use crate::domain::ssh_key::PublicKey;
use crate::domain::state::Want;

/// One line of the Host's list.
#[derive(Clone)]
pub struct Wanted {
    pub attempt: Attempt,
    pub want: Want,
    /// It is to be given back, unless it was started.
    pub recalled: bool,
    /// It was here before.
    pub seen: bool,
    /// Where it is not here, it is not to be started yet.
    pub no_start: bool,
    /// `vps` or `command`.
    pub kind: String,
    /// Err: why this program cannot carry it out.
    pub order: Result<Order, String>,
}

/// The Host's list, or what is new in it.
pub struct News {
    /// `wanted` is all that there is.
    pub whole: bool,
    pub wanted: Vec<(TaskId, Wanted)>,
    /// No longer in the list.
    pub removed: Vec<TaskId>,
    /// It is no more than this of a longer list: as far as this task, in the order of ids.
    pub through: Option<TaskId>,
}

/// A task to start.
#[derive(Clone)]
pub enum Order {
    Vps(VpsOrder),
    /// A command in a container.
    Contained(CommandOrder, ContainerOrder),
    /// A command straight on the node.
    OnNode(CommandOrder),
}

/// What is to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandOrder {
    /// Program and arguments, in the text form of `domain::raw_text`.
    pub argv: Vec<String>,
    pub needs: Needs,
    /// Absolute.
    pub workdir: Option<String>,
    pub user: Option<UserId>,
    pub time_limit_seconds: Option<u64>,
    /// It waits here for its cores, in the order of ids.
    pub in_line: bool,
}

/// What any task may ask for.
#[derive(Clone, Default, PartialEq)]
pub struct Needs {
    /// The task's environment; may be secret.
    pub env: Vec<(String, String)>,
    /// 0: none of its own.
    pub cores: u32,
    /// Bytes.
    pub memory: Option<u64>,
    pub numa: Option<NumaId>,
    pub gpus: Vec<GpuId>,
}

impl std::fmt::Debug for Needs {
    /// Without the environment: it often holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Needs").field("cores", &self.cores).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// The container that it is to run in.
#[derive(Clone)]
pub struct ContainerOrder {
    pub environment: EnvName,
    pub privileged: bool,
    pub mounts: Vec<Mount>,
}

/// A VPS to start.
#[derive(Clone)]
pub struct VpsOrder {
    /// `authorized_keys` lines.
    pub keys: Vec<String>,
    pub needs: Needs,
    pub container: ContainerOrder,
}

/// Reads the Host's list. Lines without a readable id are named in the second answer, and else passed over.
pub fn read(answer: DesiredAnswer) -> (News, Vec<String>) {
    let whole = answer.base.is_none();
    let mut wanted = Vec::new();
    let mut odd = Vec::new();
    for line in answer.tasks {
        let what = format!("task {:?} with want {:?}", line.task_id, line.want);
        match wanted_of(line) {
            Some(line) => wanted.push(line),
            None => odd.push(format!("the Host's list has {what}, which this program does not understand")),
        }
    }
    let removed = answer.removed.iter().filter_map(|id| id.parse().ok()).collect();
    let through = answer.through.and_then(|id| id.parse().ok());
    (News { whole, wanted, removed, through }, odd)
}

fn wanted_of(line: DesiredTask) -> Option<(TaskId, Wanted)> {
    let task = line.task_id.parse().ok()?;
    let recalled = line.want == RETURN;
    let want = if recalled { Want::Run } else { Want::from_word(&line.want)? };
    let (kind, seen, no_start) = (line.spec.kind.clone(), line.seen, line.no_start);
    let attempt = Attempt(line.attempt);
    Some((task, Wanted { attempt, want, recalled, seen, no_start, kind, order: order(line.spec) }))
}

fn order(spec: OrderSpec) -> Result<Order, String> {
    // The Host has checked all of this; a Host of another version may check it otherwise.
    let mounts = spec.mounts.iter().map(|mount| mount.parse()).collect::<Result<Vec<Mount>, _>>();
    let mounts = mounts.map_err(|fault| fault.to_string())?;
    let environment =
        spec.container.map(|name| name.parse::<EnvName>()).transpose().map_err(|fault| fault.to_string())?;
    let container = environment.map(|environment| ContainerOrder { environment, privileged: spec.privileged, mounts });
    let needs = Needs {
        env: spec.env.into_iter().map(|pair| (pair.name, pair.value)).collect(),
        cores: spec.cores,
        memory: spec.memory_bytes,
        numa: spec.numa.map(NumaId),
        gpus: spec.gpus.into_iter().map(GpuId).collect(),
    };
    match spec.kind.as_str() {
        "vps" => {
            let container = container.ok_or("a VPS needs a container environment")?;
            let keys = spec.keys.iter().map(|key| PublicKey::parse(key).map(|key| key.to_string()));
            let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|fault| fault.to_string())?;
            if keys.is_empty() {
                return Err("a VPS needs a public key".to_owned());
            }
            Ok(Order::Vps(VpsOrder { keys, needs, container }))
        }
        "command" => {
            if spec.argv.first().is_none_or(String::is_empty) {
                return Err("a command needs a program".to_owned());
            }
            let command = CommandOrder {
                argv: spec.argv,
                needs,
                workdir: spec.workdir,
                user: spec.user.map(|user| user.parse()).transpose().map_err(|fault: SpecFault| fault.to_string())?,
                time_limit_seconds: spec.time_limit_seconds,
                in_line: spec.in_line,
            };
            Ok(match container {
                Some(container) => Order::Contained(command, container),
                None => Order::OnNode(command),
            })
        }
        other => Err(format!("this node's version of HakuRiver runs no tasks of kind '{other}'")),
    }
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
        let Ok(Order::Vps(VpsOrder { keys, container, .. })) = order(spec()) else { panic!("it is a VPS") };
        assert_eq!((keys, container.mounts.len(), container.environment.as_str()), (vec![KEY.to_owned()], 1, "base"));
    }

    #[test]
    fn a_command_is_read_with_and_without_a_container() {
        let command = |container: Option<&str>| OrderSpec {
            kind: "command".to_owned(),
            argv: vec!["echo".to_owned(), "$(id)".to_owned()],
            container: container.map(str::to_owned),
            user: Some("1000:100".to_owned()),
            time_limit_seconds: Some(60),
            ..OrderSpec::default()
        };
        let Ok(Order::Contained(with, container)) = order(command(Some("base"))) else { panic!("it has a container") };
        let Ok(Order::OnNode(without)) = order(command(None)) else { panic!("it has no container") };
        assert_eq!((with.clone(), container.environment.as_str()), (without, "base"));
        assert_eq!(with.argv, ["echo", "$(id)"]);
        assert_eq!(with.user, Some(UserId { uid: 1000, gid: Some(100) }));
    }

    #[test]
    fn what_cannot_be_carried_out_says_why() {
        for (spec, expected) in [
            (OrderSpec { kind: "novel".to_owned(), ..spec() }, "no tasks of kind 'novel'"),
            (OrderSpec { kind: "command".to_owned(), ..spec() }, "needs a program"),
            (OrderSpec { kind: "command".to_owned(), argv: vec![String::new()], ..spec() }, "needs a program"),
            (
                OrderSpec {
                    kind: "command".to_owned(),
                    argv: vec!["a".to_owned()],
                    user: Some("me".to_owned()),
                    ..spec()
                },
                "user",
            ),
            (OrderSpec { container: None, ..spec() }, "container environment"),
            (OrderSpec { container: Some("../x".to_owned()), ..spec() }, "environment name"),
            (OrderSpec { keys: vec![format!("command=\"x\" {KEY}")], ..spec() }, ""),
            (OrderSpec { keys: Vec::new(), ..spec() }, "public key"),
            (OrderSpec { mounts: vec!["relative:/x".to_owned()], ..spec() }, ""),
        ] {
            let fault = order(spec).err().expect(expected);
            assert!(fault.contains(expected), "{fault}");
        }
    }

    #[test]
    fn lines_that_are_not_understood_are_named_and_the_others_taken() {
        let line = |id: &str, want: &str| DesiredTask {
            task_id: id.to_owned(),
            attempt: 1,
            want: want.to_owned(),
            seen: false,
            no_start: false,
            spec: spec(),
        };
        let tasks = vec![line("1", "run"), line("x", "run"), line("2", "dance"), line("3", "stop")];
        let removed = vec!["4".to_owned()];
        let (news, odd) = read(DesiredAnswer { tasks, removed, ..DesiredAnswer::default() });
        assert!(news.whole && news.removed == [TaskId::from_u64(4)]);
        let wanted: Vec<_> = news.wanted.iter().map(|(task, wanted)| (task.get(), wanted.want)).collect();
        assert_eq!(wanted, [(1, Want::Run), (3, Want::Stop)]);
        assert_eq!(odd.len(), 2, "{odd:?}");
    }
}
