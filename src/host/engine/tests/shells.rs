//! Shells that users wait for stand in the list of their node.

use super::*;
use crate::api::node::ShellOrder;

#[test]
fn a_shell_wakes_its_node_and_is_told_until_nobody_waits_for_it() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let name: NodeName = "n1".parse().expect("name");
    let task = bench.submit(command(1)).expect("placed");
    let before = bench.desired("n1", &session);
    assert!(before.shells.is_empty());
    let (reply, answer) = mpsc::sync_channel(1);
    let waits = Poll { known: before.version.clone(), changes: true, may_wait: true, ..poll(&session) };
    bench.turn(vec![Action::Desired(name.clone(), waits, reply)]);
    let order = |id: &str| ShellOrder { id: id.to_owned(), task_id: task.to_string(), ..ShellOrder::default() };
    bench.turn(vec![Action::AskShell(name.clone(), task, order("a"))]);
    let told = answer.try_recv().expect("woken").expect("news");
    assert_eq!((told.base, told.shells), (Some(before.version), vec![order("a")]));
    // Again and again, since an answer may be lost; with every other that is waited for.
    bench.turn(vec![Action::AskShell(name.clone(), task, order("b"))]);
    assert_eq!(bench.desired("n1", &session).shells, [order("a"), order("b")]);
    bench.turn(vec![Action::EndShell(name.clone(), "a".to_owned()), Action::EndShell(name, "no such".to_owned())]);
    assert_eq!(bench.desired("n1", &session).shells, [order("b")]);
    // A node that is not known is nobody's fault.
    bench.turn(vec![Action::AskShell("n2".parse().expect("name"), task, order("c"))]);
}
