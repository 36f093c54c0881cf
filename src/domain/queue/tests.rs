use std::collections::{BTreeMap, BTreeSet};

use super::reference::{Turn, Waiting, schedule};
use super::*;
use crate::domain::node::Inventory;
use crate::domain::placement::{Readiness, fit, may_go_to};
use crate::domain::sample::{G, Node, Random, command, vps};

/// Tasks' ids are apart by this much, so that passes can be told between them.
const APART: u64 = 1_000;

fn id_of(number: u64) -> TaskId {
    TaskId::from_u64(number * APART)
}

/// One round over tasks (with how often each was passed before), ids from 1, on nodes without VPS tasks.
fn round(tasks: &[(TaskSpec, u32)], nodes: &[Node]) -> Vec<Turn> {
    round_beside(tasks, nodes, &vec![Held::default(); nodes.len()])
}

/// The same beside VPS tasks: by the queue and by the reference, which agree.
fn round_beside(tasks: &[(TaskSpec, u32)], nodes: &[Node], vps_held: &[Held]) -> Vec<Turn> {
    let waiting: Vec<_> =
        (1..).zip(tasks).map(|(id, (spec, passed))| Waiting { id: id_of(id), spec, passed: *passed }).collect();
    let mut queue = Queue::default();
    for task in &waiting {
        queue.insert(task.id, &Arc::new(task.spec.clone()));
    }
    for task in waiting.iter().rev() {
        let class = queue.classes.get_mut(&queue.waiting[&task.id]).expect("its class");
        let mut before = task.id.get();
        while class.passes(task.id) < task.passed {
            before += 1;
            class.count_pass(TaskId::from_u64(before));
        }
        assert_eq!(class.passes(task.id), task.passed, "older ones of a class were passed as often at least");
    }
    both(&mut queue, &waiting, nodes, vps_held)
}

/// The turns of every task that waits, which both ways of finding them agree on.
fn both(queue: &mut Queue, waiting: &[Waiting<'_>], nodes: &[Node], vps_held: &[Held]) -> Vec<Turn> {
    let views: Vec<_> = nodes.iter().map(Node::view).collect();
    let expected = schedule(waiting, &views, vps_held);
    assert_eq!(
        expected.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        waiting.iter().map(|task| task.id).collect::<Vec<_>>(),
        "an answer for everyone, in order"
    );
    let ended = queue.round(&views, &vps_held.iter().collect::<Vec<_>>());
    assert!(ended.is_sorted_by_key(|(id, _)| *id), "oldest first");
    let mut ended: BTreeMap<TaskId, super::Turn> = ended.into_iter().collect();
    for (id, turn) in &expected {
        let found = match ended.remove(id) {
            Some(super::Turn::Placed(placement)) => Turn::Placed(placement),
            Some(super::Turn::Refused(why)) => Turn::Refused(why),
            None => Turn::Waits { reason: queue.reason(*id).expect("asked"), passed: queue.passes(*id) },
        };
        assert_eq!(found, *turn, "task {id}");
        assert_eq!(queue.contains(*id), matches!(turn, Turn::Waits { .. }), "task {id}");
    }
    assert!(ended.is_empty(), "{ended:?}");
    expected.into_iter().map(|(_, turn)| turn).collect()
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
    assert_eq!(Queue::default().round(&[nodes[0].view()], &[&Held::default()]), []);
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
    assert_eq!(reason(&turns[1]), "node 'a' is kept free for task 1000, which has waited longer");
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
    assert_eq!(reason(&turns[1]), "node 'a' is kept free for task 1000, which has waited longer");
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
    /// Kept from tick to tick, as in a Host.
    queue: Queue,
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
        Self {
            nodes,
            queue: Queue::default(),
            waiting: Vec::new(),
            placed: Vec::new(),
            now: 0,
            next_id: 1,
            longest_wait: 0,
        }
    }

    fn submit(&mut self, spec: TaskSpec) {
        self.queue.insert(TaskId::from_u64(self.next_id), &Arc::new(spec.clone()));
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
        let turns = both(&mut self.queue, &tasks, &self.nodes, &vps_held);
        let mut still: Vec<(u64, TaskSpec, u32, u32)> = Vec::new();
        for ((id, spec, before, since), turn) in std::mem::take(&mut self.waiting).into_iter().zip(turns) {
            match turn {
                Turn::Placed(placement) => {
                    let overtaken = still.iter().find(|(_, older, ..)| alike(older, &spec));
                    assert!(overtaken.is_none(), "task {id} has overtaken {overtaken:?}, which asks for the same");
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

/// Tasks of few kinds come, wait, are placed, end, are killed while they wait; nodes go and return: in each round the
/// queue, which remembers, does what the reference does, which looks at every task anew.
#[test]
fn the_queue_does_what_the_reference_does() {
    let mut reserved = 0;
    for seed in 1..=30 {
        let mut random = Random::new(seed + 500);
        let mut cluster = cluster();
        for _ in 0..150 {
            for _ in 0..random.below(14) {
                let mut spec = match random.below(12) {
                    0 => command(16),
                    1 => command(8).on("a"),
                    2 => command(3).on("b:1"),
                    3 => command(1).any_gpus(3),
                    4 => command(2).on("b::0,2"),
                    5 => vps(random.below(2)).memory(G),
                    6 => command(0).memory(20 * G),
                    7 => command(4).without_container().memory(8 * G),
                    _ => command(1),
                };
                // Few VPS tasks: they fill the cluster for good.
                if matches!(spec.kind, TaskKind::Vps { .. }) && random.percent(80) {
                    spec = command(2);
                }
                cluster.submit(spec);
            }
            if random.percent(20) && !cluster.waiting.is_empty() {
                let at = random.below(cluster.waiting.len() as u32) as usize;
                let (id, ..) = cluster.waiting.remove(at);
                assert!(cluster.queue.remove(TaskId::from_u64(id)) && !cluster.queue.remove(TaskId::from_u64(id)));
            }
            let node = random.below(3) as usize;
            cluster.nodes[node].readiness = match random.below(10) {
                0 => Readiness::Offline,
                1 => Readiness::Draining,
                _ => Readiness::Ready,
            };
            cluster.nodes[node].conditions.docker = random.percent(90);
            cluster.tick(&mut random, 8);
            reserved += cluster.waiting.iter().filter(|(.., passed, _)| *passed >= PASSED_LIMIT).count();
            let classes: BTreeSet<ClassId> = cluster.queue.waiting.values().copied().collect();
            assert_eq!(classes, cluster.queue.classes.keys().copied().collect(), "no class is left behind");
            assert_eq!(cluster.queue.by_request.len(), classes.len());
        }
    }
    assert!(reserved > 1_000, "reservations were hardly tried: {reserved}");
}

/// A task that its node never started comes back, older than those who wait by now.
#[test]
fn who_comes_back_is_the_first_again() {
    let nodes = [Node::new("a", 4).holds(4, 0)];
    let mut queue = Queue::default();
    let spec = Arc::new(command(4));
    queue.insert(id_of(5), &spec);
    queue.insert(id_of(6), &spec);
    assert_eq!(queue.round(&[nodes[0].view()], &[&Held::default()]), []);
    queue.insert(id_of(1), &spec);
    let turns = queue.round(&[Node::new("a", 4).view()], &[&Held::default()]);
    assert_eq!(turns.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id_of(1)]);
}

/// What is told of a class: its reason when it is another one, and its end.
#[test]
fn news_are_told_once() {
    let (full, free) = (Node::new("a", 4).holds(4, 0), Node::new("a", 4));
    let mut queue = Queue::default();
    let class = queue.insert(id_of(1), &Arc::new(command(4)));
    assert_eq!(queue.insert(id_of(2), &Arc::new(command(4))), class, "they ask for the same");
    assert_ne!(queue.insert(id_of(3), &Arc::new(vps(4))), class);
    assert_eq!(queue.reason(id_of(1)), None);
    queue.round(&[full.view()], &[&Held::default()]);
    let news = queue.take_news();
    let reason = "node 'a' has 0 of 4 cores free (4 asked for)";
    assert_eq!(
        news.iter().map(|news| (news.vps, news.reason.as_deref())).collect::<Vec<_>>(),
        [(false, Some(reason)), (true, Some(reason))]
    );
    queue.round(&[full.view()], &[&Held::default()]);
    assert_eq!(queue.take_news(), [], "nothing is new");
    queue.round(&[free.view()], &[&Held::default()]);
    assert_eq!(queue.reason(id_of(2)).as_deref(), Some(reason), "the second waits for the first");
    queue.remove(id_of(2));
    assert_eq!(queue.take_news(), [News { class, vps: true, reason: None }]);
    assert_ne!(queue.insert(id_of(9), &Arc::new(command(4))), class, "a number is never used again");
}

/// However many wait for the same, a round looks at the first of them alone.
#[test]
fn a_round_asks_once_for_each_request() {
    let full = Node::new("a", 4).holds(4, 0);
    let mut queue = Queue::default();
    let spec = Arc::new(command(1));
    for id in 1..=100_000 {
        queue.insert(TaskId::from_u64(id), &spec);
    }
    let started = std::time::Instant::now();
    // Task by task these would be a hundred million looks: minutes.
    for _ in 0..1_000 {
        assert_eq!(queue.round(&[full.view()], &[&Held::default()]), []);
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
