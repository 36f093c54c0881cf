use std::collections::BTreeSet;

use super::*;
use crate::domain::node::Inventory;
use crate::domain::placement::Readiness;
use crate::domain::sample::{G, Node, Random, command, vps};

/// What became of one waiting task.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    Placed(Placement),
    Waits { reason: Arc<str>, passed: u32 },
    Refused(String),
}

/// A queue of these tasks, with how often each was passed.
fn queue_of<'a>(tasks: impl Iterator<Item = (TaskId, &'a TaskSpec, u32)>) -> Queue {
    let mut queue = Queue::default();
    for (id, spec, passed) in tasks {
        queue.insert(id, &Arc::new(spec.clone()));
        let class = queue.classes.get_mut(&Demand::of(spec)).expect("it was inserted");
        class.members.get_mut(&id).expect("it was inserted").1 = passed;
    }
    queue
}

/// One round, with an answer for every task, in the order given.
fn schedule(waiting: &[Waiting<'_>], nodes: &[NodeView<'_>], vps_held: &[Held]) -> Vec<(TaskId, Turn)> {
    let mut queue = queue_of(waiting.iter().map(|task| (task.id, task.spec, task.passed)));
    let decided = queue.round(nodes, vps_held);
    let turn = |task: &Waiting<'_>| {
        if let Some((_, placement)) = decided.placed.iter().find(|(id, _)| *id == task.id) {
            return Turn::Placed(placement.clone());
        }
        if let Some((_, reason)) = decided.refused.iter().find(|(id, _)| *id == task.id) {
            return Turn::Refused(reason.clone());
        }
        let class = &queue.classes[&Demand::of(task.spec)];
        let reason = class.reason.clone().expect("whoever waits is told why");
        Turn::Waits { reason, passed: class.members[&task.id].1 }
    };
    waiting.iter().map(|task| (task.id, turn(task))).collect()
}

/// One round over tasks (with how often each was passed before), ids from 1, on nodes without VPS tasks.
fn round(tasks: &[(TaskSpec, u32)], nodes: &[Node]) -> Vec<Turn> {
    round_beside(tasks, nodes, &vec![Held::default(); nodes.len()])
}

fn round_beside(tasks: &[(TaskSpec, u32)], nodes: &[Node], vps_held: &[Held]) -> Vec<Turn> {
    let waiting: Vec<_> = (1..)
        .zip(tasks)
        .map(|(id, (spec, passed))| Waiting { id: TaskId::from_u64(id), spec, passed: *passed })
        .collect();
    let views: Vec<_> = nodes.iter().map(Node::view).collect();
    let turns = schedule(&waiting, &views, vps_held);
    assert_eq!(
        turns.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        waiting.iter().map(|task| task.id).collect::<Vec<_>>(),
        "an answer for everyone, in order"
    );
    turns.into_iter().map(|(_, turn)| turn).collect()
}

/// The turns in short: the node, or the passes, or `refused`.
fn short(turns: &[Turn]) -> Vec<String> {
    turns
        .iter()
        .map(|turn| match turn {
            Turn::Placed(placement) => placement.node.to_string(),
            Turn::Waits { passed, .. } => passed.to_string(),
            Turn::Refused(_) => "refused".to_owned(),
        })
        .collect()
}

fn reason(turn: &Turn) -> &str {
    match turn {
        Turn::Waits { reason, .. } => reason,
        Turn::Refused(reason) => reason,
        Turn::Placed(placement) => panic!("placed on {}", placement.node),
    }
}

#[test]
fn first_come_first_served() {
    let nodes = [Node::new("a", 4)];
    let turns = round(&[(command(3), 0), (command(3), 0), (command(1), 0), (command(1), 0)], &nodes);
    // The third takes what the second cannot use, and passes it.
    assert_eq!(short(&turns), ["a", "1", "a", "0"]);
    assert_eq!(reason(&turns[1]), "node 'a' has 1 of 4 cores free (3 asked for)");
    assert_eq!(schedule(&[], &[nodes[0].view()], &[Held::default()]), []);
}

#[test]
fn only_passes_where_command_tasks_stand_in_the_way_count() {
    // Three cores of each node are held: on a by a VPS, on b by a command.
    let nodes = [Node::new("a", 4).holds(3, 0), Node::new("b", 4).holds(3, 0)];
    let vps_held = [nodes[0].held.clone(), Held::default()];
    let four = |target: Option<&str>| target.map_or(command(4), |node| command(4).on(node));
    let tasks =
        [(four(Some("a")), 7), (four(Some("b")), 7), (four(None), 7), (command(1).on("a"), 0), (command(1).on("b"), 0)];
    let turns = round_beside(&tasks, &nodes, &vps_held);
    assert_eq!(short(&turns), ["7", "8", "8", "a", "b"]);
    // A VPS that is placed in the round stands in the way from then on.
    let tasks = [(four(Some("b")), 0), (vps(1).on("b"), 0), (command(0).on("b"), 0)];
    assert_eq!(short(&round_beside(&tasks, &nodes, &vps_held)), ["0", "b", "b"]);
}

#[test]
fn older_tasks_do_not_pass_younger_ones() {
    let nodes = [Node::new("a", 4)];
    let turns = round(&[(command(1), 0), (command(4), 3), (command(1), 0), (command(4), 2), (command(1), 0)], &nodes);
    assert_eq!(short(&turns), ["a", "5", "a", "3", "a"]);
}

#[test]
fn after_the_limit_a_node_is_kept() {
    let nodes = [Node::new("a", 4).holds(2, 0)];
    let patient = [(command(4), PASSED_LIMIT - 1), (command(1), 0), (command(1), 0)];
    // One more pass is the last one, within the same round.
    assert_eq!(short(&round(&patient, &nodes)), ["100", "a", "0"]);
    let starved = [(command(4), PASSED_LIMIT), (command(1), 0), (vps(1), 0), (command(5), 0)];
    let turns = round(&starved, &nodes);
    assert_eq!(short(&turns), ["100", "0", "0", "0"]);
    assert_eq!(reason(&turns[1]), "node 'a' is kept free for task 1, which has waited longer");
    assert_eq!(reason(&turns[0]), "node 'a' has 2 of 4 cores free (4 asked for)");
    assert_eq!(reason(&turns[3]), "node 'a' has 4 cores (5 asked for)");
    // When room is there, it gets it.
    assert_eq!(short(&round(&starved, &[Node::new("a", 4)])), ["a", "0", "0", "0"]);
}

#[test]
fn one_round_does_not_exceed_the_limit() {
    let nodes = [Node::new("a", 1000).holds(1, 0)];
    let mut tasks = vec![(command(1000), 0)];
    tasks.extend(vec![(command(1), 0); 500]);
    let turns = short(&round(&tasks, &nodes));
    assert_eq!(turns[0], "100");
    assert_eq!(turns[1..].iter().filter(|turn| *turn == "a").count(), 100);
    assert!(turns[1..101].iter().all(|turn| turn == "a"), "the oldest 100");
}

#[test]
fn what_the_passed_task_will_not_need_is_not_kept() {
    let nodes = [Node::new("a", 8).memory(64 * G).gpus(&[None, None]).holds(6, 0).holds_gpus(&[0])];
    let starved = command(4).memory(32 * G).any_gpus(1);
    let tasks = [
        (starved, PASSED_LIMIT),
        (command(0), 0),
        (command(0).memory(32 * G), 0),
        (command(0).memory(1), 0),
        (command(1), 0),
        (command(0).any_gpus(1), 0),
    ];
    assert_eq!(short(&round(&tasks, &nodes)), ["100", "a", "a", "0", "0", "0"]);
    // Six cores are free, four will be needed, GPUs are what is missing.
    let nodes = [Node::new("a", 8).gpus(&[None]).holds(2, 0).holds_gpus(&[0])];
    let tasks = [(command(4).any_gpus(1), PASSED_LIMIT), (command(2), 0), (command(1), 0)];
    assert_eq!(short(&round(&tasks, &nodes)), ["100", "a", "0"]);
}

#[test]
fn what_may_fill_a_numa_node_that_is_waited_for_is_not_let_in() {
    // Four cores of tasks for any NUMA node: they may all stand on node 1. One core is spare in the sum, but a task for
    // any NUMA node that takes it may stand there too.
    let nodes = [Node::new("a", 8).numa(2).holds(4, 0)];
    let tasks = [(command(3).on("a:1"), PASSED_LIMIT), (command(1), 0), (command(0), 0)];
    let turns = round(&tasks, &nodes);
    assert_eq!(short(&turns), ["100", "1", "a"]);
    assert_eq!(reason(&turns[1]), "node 'a' is kept free for task 1, which has waited longer");
}

#[test]
fn the_node_where_least_is_missing_is_kept_and_each_for_one_task() {
    let nodes = [Node::new("a", 8).holds(6, 0), Node::new("b", 8).holds(2, 0), Node::new("c", 8).holds(4, 0)];
    let full = |node| (command(1).on(node), 0);
    let starved = (command(8), PASSED_LIMIT);
    let one = [starved.clone(), full("a"), full("b"), full("c")];
    assert_eq!(short(&round(&one, &nodes)), ["100", "a", "0", "c"]);
    let two = [starved.clone(), starved.clone(), full("a"), full("b"), full("c")];
    assert_eq!(short(&round(&two, &nodes)), ["100", "100", "a", "0", "0"]);
    let four = [starved.clone(), starved.clone(), starved.clone(), starved, full("a"), full("b"), full("c")];
    assert_eq!(short(&round(&four, &nodes)), ["100", "100", "100", "100", "0", "0", "0"]);
}

#[test]
fn no_node_is_kept_where_a_vps_stands_in_the_way() {
    let nodes = [Node::new("a", 4).holds(2, 0)];
    let tasks = [(command(4), PASSED_LIMIT), (command(1), 0)];
    assert_eq!(short(&round_beside(&tasks, &nodes, &[nodes[0].held.clone()])), ["100", "a"]);
}

#[test]
fn accepted_tasks_wait_whatever_happens_to_their_node() {
    let nodes = [
        Node::new("off", 4).readiness(Readiness::Offline),
        Node::new("drain", 4).readiness(Readiness::Draining),
        Node::new("new", 4).readiness(Readiness::Joining),
        Node::new("small", 1),
    ];
    let tasks = [
        (vps(1).on("off"), 0),
        (vps(1).on("drain"), 0),
        (vps(1).on("new"), 0),
        (vps(2).on("small"), 0),
        (vps(2).on("small").immediate(), 0),
        (vps(64), 0),
        (vps(1).on("forgotten"), 0),
    ];
    let turns = round(&tasks, &nodes);
    assert_eq!(short(&turns), ["0", "0", "0", "0", "0", "0", "refused"]);
    assert_eq!(reason(&turns[0]), "node 'off' is offline");
    assert_eq!(reason(&turns[3]), "node 'small' has 1 core (2 asked for)");
    assert_eq!(reason(&turns[6]), "node 'forgotten' is no longer registered");
    assert_eq!(reason(&round(&[(vps(0), 0)], &[])[0]), "no node is registered yet");
}

/// A cluster that runs: tasks come, are scheduled, and (commands alone) end.
struct Cluster {
    nodes: Vec<Node>,
    /// Waiting: id, what, passes, since which tick.
    waiting: Vec<(u64, TaskSpec, u32, u32)>,
    /// Placed: what, where, when it ends.
    placed: Vec<(TaskSpec, Placement, Option<u32>)>,
    now: u32,
    next_id: u64,
    longest_wait: u32,
}

impl Cluster {
    fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, waiting: Vec::new(), placed: Vec::new(), now: 0, next_id: 1, longest_wait: 0 }
    }

    fn submit(&mut self, spec: TaskSpec) {
        self.waiting.push((self.next_id, spec, 0, self.now));
        self.next_id += 1;
    }

    /// What is held on a node, derived from the tasks.
    fn held(&self, node: &Node, vps_only: bool) -> Held {
        let mut held = Held::default();
        for (spec, placement, _) in &self.placed {
            if placement.node == node.name && (!vps_only || matches!(spec.kind, TaskKind::Vps { .. })) {
                held.add(spec, placement);
            }
        }
        held
    }

    /// Ends what is due, schedules, and checks that nothing is held twice or beyond capacity.
    fn tick(&mut self, random: &mut Random, longest_run: u32) {
        self.now += 1;
        let now = self.now;
        self.placed.retain(|(_, _, end)| end.is_none_or(|end| end > now));
        let held: Vec<Held> = self.nodes.iter().map(|node| self.held(node, false)).collect();
        let vps_held: Vec<Held> = self.nodes.iter().map(|node| self.held(node, true)).collect();
        for (node, held) in self.nodes.iter_mut().zip(held) {
            node.held = held;
        }
        let tasks: Vec<Waiting<'_>> = self
            .waiting
            .iter()
            .map(|(id, spec, passed, _)| Waiting { id: TaskId::from_u64(*id), spec, passed: *passed })
            .collect();
        let views: Vec<_> = self.nodes.iter().map(Node::view).collect();
        let turns = schedule(&tasks, &views, &vps_held);
        let mut still = Vec::new();
        for ((id, spec, before, since), (_, turn)) in std::mem::take(&mut self.waiting).into_iter().zip(turns) {
            match turn {
                Turn::Placed(placement) => {
                    let end = match spec.kind {
                        TaskKind::Command { .. } => Some(now + 1 + random.below(longest_run)),
                        TaskKind::Vps { .. } => None,
                    };
                    self.longest_wait = self.longest_wait.max(now - since);
                    self.placed.push((spec, placement, end));
                }
                Turn::Waits { passed, reason } => {
                    assert!(passed >= before && !reason.is_empty());
                    still.push((id, spec, passed, since));
                }
                Turn::Refused(reason) => panic!("{reason}"),
            }
        }
        self.waiting = still;
        self.check();
    }

    fn check(&self) {
        for node in &self.nodes {
            let held = self.held(node, false);
            let has: &Inventory = &node.inventory;
            assert!(held.cores <= has.cpus.len() as u32 && held.memory <= has.memory, "{held:?} of {}", node.name);
            for numa in &has.numa {
                assert!(held.numa_cores.get(&numa.id).copied().unwrap_or(0) <= numa.cpus.len() as u32, "{held:?}");
            }
            let gpus: Vec<_> = self
                .placed
                .iter()
                .filter(|(_, placement, _)| placement.node == node.name)
                .flat_map(|(_, placement, _)| &placement.gpus)
                .collect();
            assert_eq!(gpus.iter().collect::<BTreeSet<_>>().len(), gpus.len(), "a GPU is held twice");
        }
    }
}

fn cluster() -> Cluster {
    Cluster::new(vec![
        Node::new("a", 8).numa(2),
        Node::new("b", 8).numa(2).gpus(&[Some(0), Some(0), Some(1), Some(1)]),
        Node::new("c", 16),
    ])
}

/// Small tasks come faster than the cluster can work; large ones among them must have their turn all the same.
#[test]
fn nobody_waits_for_ever_behind_command_tasks() {
    for seed in 1..=4 {
        let mut random = Random::new(seed);
        let mut cluster = cluster();
        // VPS tasks that stay: with these, `a` can never again give all of its cores.
        cluster.submit(vps(2).on("a"));
        cluster.submit(vps(0).memory(16 * G).on("b"));
        let large = [
            command(16),
            command(8),
            command(2).on("a:1"),
            command(2).any_gpus(4),
            command(1).memory(48 * G).on("b"),
            vps(6).on("a"),
        ];
        let mut large_ids = Vec::new();
        for tick in 0..600 {
            while cluster.waiting.len() < 60 {
                let mut small = command(1 + random.below(2)).memory(u64::from(1 + random.below(6)) * G);
                if random.percent(20) {
                    small = small.any_gpus(1);
                }
                cluster.submit(small);
            }
            if tick % 60 == 10 && tick < 300 {
                large_ids.push(cluster.next_id);
                cluster.submit(large[(tick / 60) as usize % large.len()].clone());
            }
            cluster.tick(&mut random, 10);
        }
        assert_eq!(large_ids.len(), 5);
        let waiting: Vec<_> = cluster.waiting.iter().filter(|(id, ..)| large_ids.contains(id)).collect();
        assert!(waiting.is_empty(), "seed {seed}: still waiting after 300 ticks: {waiting:?}");
        assert!(cluster.longest_wait < 200, "seed {seed}: {} ticks", cluster.longest_wait);
    }
}

/// Whatever comes: once no more does, everything that fits beside the VPS tasks gets its turn.
#[test]
fn a_queue_empties_when_nothing_more_comes() {
    for seed in 1..=4 {
        let mut random = Random::new(seed + 1000);
        let mut cluster = cluster();
        for _ in 0..100 {
            for _ in 0..random.below(8) {
                let mut spec = if random.percent(5) { vps(random.below(2)) } else { command(random.below(17)) };
                spec = spec.memory(u64::from(1 + random.below(30)) * G);
                match random.below(10) {
                    0 => spec = spec.any_gpus(1 + random.below(4)),
                    1 if spec.cores <= 8 => spec = spec.on("a"),
                    2 if spec.cores <= 4 => spec = spec.on("b:1"),
                    3 if spec.cores <= 8 => spec = spec.on("b::1,2"),
                    _ => {}
                }
                cluster.submit(spec);
            }
            cluster.tick(&mut random, 20);
        }
        // Each tick starts what can start: when no command runs any more, nothing else will change.
        while cluster.placed.iter().any(|(_, _, end)| end.is_some()) {
            assert!(cluster.now < 5_000, "seed {seed}: {:?}", cluster.waiting);
            cluster.tick(&mut random, 20);
        }
        let views: Vec<_> = cluster.nodes.iter().map(Node::view).collect();
        for (id, spec, ..) in &cluster.waiting {
            for node in &views {
                let vps_held =
                    cluster.held(cluster.nodes.iter().find(|n| n.name == *node.name).expect("it is there"), true);
                let fits = may_go_to(spec, node) && fit(spec, node, &vps_held).is_ok();
                assert!(!fits, "seed {seed}: task {id} still waits and would fit {}: {spec:?}", node.name);
            }
        }
    }
}

#[test]
fn a_long_queue_costs_no_more_than_a_short_one_and_keeps_its_order() {
    let nodes = [Node::new("a", 8)];
    let views: Vec<_> = nodes.iter().map(Node::view).collect();
    let mut queue = Queue::default();
    let spec = Arc::new(command(1));
    (1..=100_000).for_each(|id| queue.insert(TaskId::from_u64(id), &spec));
    // Younger, and small enough for what the others leave: nothing.
    queue.insert(TaskId::from_u64(200_000), &Arc::new(command(2)));
    let decided = queue.round(&views, &[Held::default()]);
    let placed: Vec<u64> = decided.placed.iter().map(|(id, _)| id.get()).collect();
    assert_eq!(placed, [1, 2, 3, 4, 5, 6, 7, 8], "the oldest, in order");
    assert_eq!(decided.reasons.len(), 2, "one for each request");
    let began = std::time::Instant::now();
    for _ in 0..1_000 {
        let full = [Node::new("a", 8).holds(8, 0)];
        let views: Vec<_> = full.iter().map(Node::view).collect();
        let decided = queue.round(&views, &[Held::default()]);
        assert!(decided.placed.is_empty());
    }
    // A look at all 100,000 a thousand times would take minutes in a debug build.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn what_waits_is_taken_out_and_its_reason_goes_with_the_last_of_its_kind() {
    let mut queue = Queue::default();
    let (one, other) = (Arc::new(command(5)), Arc::new(command(6)));
    for id in [1, 2] {
        queue.insert(TaskId::from_u64(id), &one);
    }
    queue.insert(TaskId::from_u64(3), &other);
    let nodes = [Node::new("a", 4)];
    let views: Vec<_> = nodes.iter().map(Node::view).collect();
    assert_eq!(queue.round(&views, &[Held::default()]).reasons.len(), 2);
    assert_eq!(queue.round(&views, &[Held::default()]).reasons, [], "nothing new");
    assert_eq!(queue.reason(&one).map(|reason| &**reason), Some("node 'a' has 4 cores (5 asked for)"));
    assert_eq!(queue.remove(TaskId::from_u64(1), &one), None);
    assert_eq!(queue.remove(TaskId::from_u64(2), &one), Some(Demand::of(&one)));
    assert_eq!(queue.reason(&one), None);
    assert!(!queue.is_empty());
}
