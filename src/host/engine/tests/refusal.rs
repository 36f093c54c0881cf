//! How refusals of many tasks are told.

use super::*;

/// One task for each set of arguments, all for one target.
fn sets(count: usize, spec: &TaskSpec) -> (Action, mpsc::Receiver<Result<Submitted, ActFault>>) {
    let (reply, answer) = mpsc::sync_channel(1);
    let label: Arc<str> = "auto".into();
    let with = |number: usize| TaskKind::Command { program: "true".into(), arguments: vec![number.to_string()] };
    let task = |number| (label.clone(), Arc::new(TaskSpec { kind: with(number), ..spec.clone() }));
    let submission =
        Submission { tasks: (0..count).map(task).collect(), refused: Vec::new(), name: None, idempotency: None };
    (Action::Submit(Box::new(submission), reply), answer)
}

#[test]
fn a_target_that_is_refused_is_told_of_once_for_all_its_argument_sets() {
    let mut bench = Bench::new();
    bench.node("n1");
    let (submission, answer) = sets(1_000, &command(5));
    bench.turn(vec![submission]);
    let fault = answer.try_recv().expect("answered").expect_err("no node is that large");
    assert_eq!((fault.status, fault.detail.matches("n1").count()), (503, 1), "{fault:?}");
    assert!(fault.detail.ends_with("(1000 sets of arguments)"), "{fault:?}");
    let alone = bench.submit(command(5)).expect_err("too large").detail;
    assert!(!alone.contains("sets"), "{alone}");
}

#[test]
fn those_that_were_not_to_wait_are_told_of_once_for_their_target() {
    let mut bench = Bench::new();
    bench.node("n1");
    let mut spec = command(1);
    spec.patience.immediate = true;
    let (submission, answer) = sets(1_000, &spec);
    bench.turn(vec![submission]);
    let Submitted(body) = answer.try_recv().expect("answered").expect("four have a place");
    assert_eq!((ids_in(&body).len(), body.matches("\"target\"").count()), (4, 1), "{body}");
    assert!(body.contains("(996 sets of arguments)"), "{body}");
}
