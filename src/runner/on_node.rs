//! A command straight on the node, from its order to what the supervisor is asked for. Nothing here waits.

use std::fs;
use std::sync::Arc;

use super::holdings::Cannot;
use super::node::Node;
use super::order::CommandOrder;
use super::record::Record;
use super::supervise::protocol::Start;
use crate::domain::cpuset::CpuSet;
use crate::domain::ids::NumaId;
use crate::domain::node::Inventory;
use crate::domain::pinning::PinRequest;
use crate::domain::spec::UserId;

/// What a task's PATH is where it brings none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user of this node, as its accounts have him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: String,
    pub shell: String,
}

/// Puts together what the supervisor needs, and takes the cores.
///
/// # Errors
/// See [`Cannot`].
pub fn start(node: &Node, record: &Record, order: &CommandOrder) -> Result<Start, Cannot> {
    if order.in_line && node.holdings.are_promised() {
        return Err(Cannot::Now("one who was placed is being started".to_owned()));
    }
    let prepared = prepare(node, record, order).map_err(Cannot::Ever)?;
    // Last of all: what is taken here is given back when the task ends, and nothing before has made it one.
    let request = PinRequest { cores: order.needs.cores, numa: order.needs.numa, near: prepared.near };
    let pinned = node.holdings.take_cores(record.task, &request, &prepared.inventory)?;
    let list = |set: Option<&CpuSet>| set.map(ToString::to_string).unwrap_or_default();
    Ok(Start {
        cpus: list(pinned.as_ref().map(|pinned| &pinned.cpus)),
        mems: list(pinned.as_ref().map(|pinned| &pinned.mems)),
        ..prepared.start
    })
}

/// All but its cores.
struct Prepared {
    start: Start,
    inventory: Arc<Inventory>,
    near: Vec<NumaId>,
}

fn prepare(node: &Node, record: &Record, order: &CommandOrder) -> Result<Prepared, String> {
    let needs = &order.needs;
    let inventory = node.inventory();
    let (uuids, near) = node.gpus(&inventory, &needs.gpus)?;
    let abilities = node.abilities();
    if needs.memory.is_some() && !abilities.memory_limit {
        return Err("this node cannot limit the memory of tasks without a container".to_owned());
    }
    let (account, is_other) = match (order.user, &node.limits.runner_user) {
        (asked, Some(account)) => (only(account, asked)?.clone(), true),
        (Some(user), None) => (local_account(user), true),
        (None, None) => (local_account(UserId { uid: node.limits.own_uid, gid: None }), false),
    };
    if !node.limits.is_root && account.uid != node.limits.own_uid {
        return Err(format!(
            "this node cannot run a task as user {}: its Runner runs as user {}, and is not root",
            account.uid, node.limits.own_uid
        ));
    }
    let shared = node.shared_data();
    let workdir = match (&order.workdir, shared) {
        (Some(path), _) => path.clone(),
        (None, Some(shared)) => shared.to_string_lossy().into_owned(),
        (None, None) => node.limits.local_temp_dir.to_string_lossy().into_owned(),
    };
    let mut env = basic_environment(&account);
    env.extend(needs.env.iter().cloned());
    if !inventory.gpus.is_empty() {
        // Empty: a task that asked for none sees none, as others may hold them. Its own variable has no say: what it would
        // name is another task's.
        env.push(("CUDA_VISIBLE_DEVICES".to_owned(), uuids.join(",")));
    }
    env.push(("HAKURIVER_TASK_ID".to_owned(), record.task.to_string()));
    if let Some(numa) = needs.numa {
        env.push(("HAKURIVER_TARGET_NUMA_NODE".to_owned(), numa.to_string()));
    }
    let start = Start {
        task: record.task.get(),
        attempt: record.attempt.0,
        argv: order.argv.clone(),
        env: last_ones(env),
        workdir: Some(workdir),
        uid: is_other.then_some(account.uid),
        gid: is_other.then_some(account.gid),
        exclusive: needs.cores > 0,
        memory: needs.memory,
        time_limit_seconds: order.time_limit_seconds,
        output: node.records.output(record.task, record.attempt).to_string_lossy().into_owned(),
        scope: abilities.systemd,
        ..Start::default()
    };
    Ok(Prepared { start, inventory, near })
}

/// The account that tasks have where the configuration names it: else a token that must not be root here were root by asking.
fn only(account: &Account, asked: Option<UserId>) -> Result<&Account, String> {
    let is_the_one = |user: UserId| user.uid == account.uid && user.gid.is_none_or(|gid| gid == account.gid);
    if asked.is_none_or(is_the_one) {
        return Ok(account);
    }
    Err(format!(
        "this node runs tasks without a container as user {}:{} and as no other (environment.runner_user in its config): leave out \
         --user",
        account.uid, account.gid
    ))
}

fn local_account(user: UserId) -> Account {
    account(&fs::read_to_string("/etc/passwd").unwrap_or_default(), user)
}

/// The account of a user, with the group that was asked for; one that the node does not know has its number for a name, and
/// no home.
fn account(passwd: &str, user: UserId) -> Account {
    let known = passwd.lines().filter_map(account_line).find(|account| account.uid == user.uid);
    let account = known.unwrap_or_else(|| Account {
        uid: user.uid,
        gid: user.uid,
        name: user.uid.to_string(),
        home: "/".to_owned(),
        shell: "/bin/sh".to_owned(),
    });
    Account { gid: user.gid.unwrap_or(account.gid), ..account }
}

/// A line of passwd(5).
fn account_line(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    Some(Account {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        name: (*name).to_owned(),
        home: or(home, "/"),
        shell: or(shell, "/bin/sh"),
    })
}

/// What every program expects to find, and nothing of the Runner's own.
fn basic_environment(account: &Account) -> Vec<(String, String)> {
    let lang = std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".to_owned());
    [
        ("PATH", PATH),
        ("HOME", &account.home),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", &account.shell),
        ("LANG", &lang),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Of two variables of one name, the later one.
fn last_ones(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut last: Vec<(String, String)> = Vec::with_capacity(env.len());
    for (name, value) in env {
        match last.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => last.push((name, value)),
        }
    }
    last
}

/// The user that the configuration names: a number, or a name that `getent` knows.
///
/// # Errors
/// One sentence: there is no such user.
pub fn configured_user(text: &str) -> Result<Option<Account>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(user) = text.parse::<UserId>() {
        return Ok(Some(local_account(user)));
    }
    let fault = |why: String| format!("environment.runner_user: no user '{text}' on this node: {why}");
    // The accounts may come from a directory service, whose libraries a static program cannot load; getent can.
    let program = crate::sys::command::Program::new(["getent", "passwd", text], std::time::Duration::from_secs(10));
    let answer = program.run().and_then(|output| output.ok()).map_err(|why| fault(why.to_string()))?;
    let line = String::from_utf8_lossy(&answer).into_owned();
    match account_line(line.trim()) {
        Some(account) => Ok(Some(account)),
        None => Err(fault(format!("getent answers {line:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_and_strangers_are_numbers() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nme:x:1000:100:Me,,,:/home/me:/bin/zsh\nbroken:x:7\nbare:x:9:9:::\n";
        let of = |uid, gid| account(passwd, UserId { uid, gid });
        assert_eq!((of(1000, None).gid, of(1000, None).home.as_str()), (100, "/home/me"));
        assert_eq!((of(9, None).home.as_str(), of(9, None).shell.as_str()), ("/", "/bin/sh"));
        assert_eq!((of(4711, Some(3)).gid, of(4711, None).gid, of(4711, None).name.as_str()), (3, 4711, "4711"));
        assert_eq!((of(1000, Some(7)).gid, of(1000, Some(7)).name.as_str()), (7, "me"));
    }

    #[test]
    fn nobody_asks_his_way_out_of_the_configured_account() {
        let account = account("", UserId { uid: 70, gid: Some(7) });
        for (uid, gid, is_right) in [
            (70, None, true),
            (70, Some(7), true),
            (70, Some(0), false),
            (0, None, false),
            (0, Some(7), false),
            (71, Some(7), false),
        ] {
            assert_eq!(only(&account, Some(UserId { uid, gid })).is_ok(), is_right, "{uid}:{gid:?}");
        }
        assert_eq!(only(&account, None), Ok(&account));
        let fault = only(&account, Some(UserId { uid: 0, gid: None })).expect_err("another");
        assert!(fault.contains("70:7") && fault.contains("environment.runner_user"), "{fault}");
    }

    #[test]
    fn the_tasks_own_variables_win() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = last_ones(vec![pair("PATH", "/bin"), pair("A", "1"), pair("PATH", "/mine")]);
        assert_eq!(env, [pair("PATH", "/mine"), pair("A", "1")]);
    }

    #[test]
    fn the_configured_user_is_a_number_or_a_name() {
        assert_eq!(configured_user(""), Ok(None));
        let ids = |text: &str| configured_user(text).map(|account| account.map(|account| (account.uid, account.gid)));
        assert_eq!(ids("4711:5"), Ok(Some((4711, 5))));
        assert_eq!(ids("root"), Ok(Some((0, 0))));
        let fault = configured_user("no-such-user-here").expect_err("there is none");
        assert!(fault.contains("environment.runner_user"), "{fault}");
    }
}
