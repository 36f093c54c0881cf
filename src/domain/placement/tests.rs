use super::*;
use crate::domain::sample::{G, Node, Random, command, vps};

/// The verdict in short: `node`, `node:numa`, `node::gpus`, `wait: …` or `refused: …`.
fn verdict(spec: &TaskSpec, nodes: &[Node]) -> String {
    let views: Vec<_> = nodes.iter().map(Node::view).collect();
    let verdict = place(spec, &views);
    let reversed: Vec<_> = views.into_iter().rev().collect();
    if let Verdict::Placed(placement) = &verdict {
        assert_eq!(place(spec, &reversed), Verdict::Placed(placement.clone()), "the order of nodes plays no part");
    }
    match verdict {
        Verdict::Placed(Placement { node, numa, gpus, .. }) => {
            let numa = numa.map_or(String::new(), |numa| format!(":{numa}"));
            let gpus: Vec<String> = gpus.iter().map(GpuId::to_string).collect();
            let separator = if gpus.is_empty() { "" } else { "::" };
            format!("{node}{numa}{separator}{}", gpus.join(","))
        }
        Verdict::Wait(reason) => format!("wait: {reason}"),
        Verdict::Refused(reason) => format!("refused: {reason}"),
    }
}

fn check(nodes: &[Node], table: &[(TaskSpec, &str)]) {
    for (index, (spec, expected)) in table.iter().enumerate() {
        assert_eq!(verdict(spec, nodes), *expected, "row {index}: {spec:?}");
    }
}

#[test]
fn tasks_with_cores_go_to_the_fullest_node_that_fits() {
    let nodes = [
        Node::new("a", 8).holds(2, 0),
        Node::new("b", 4),
        Node::new("c", 16).holds(12, 0),
        Node::new("d", 64).readiness(Readiness::Offline),
    ];
    check(
        &nodes,
        &[
            (command(1), "b"), // b and c have 4 free: by name
            (command(4), "b"),
            (command(5), "a"),
            (command(6), "a"),
            (vps(3), "b"),
            (
                command(7),
                "wait: node 'a' has 6 of 8 cores free (7 asked for); node 'c' has 4 of 16 cores free (7 asked for); node 'd' is offline",
            ),
            (command(17), "wait: node 'd' is offline"),
            (
                command(65),
                "refused: no node is large enough or has what is asked for: node 'a' has 8 cores (65 asked for); \
                 node 'b' has 4 cores (65 asked for); node 'c' has 16 cores (65 asked for); \
                 node 'd' has 64 cores (65 asked for)",
            ),
            (
                command(17).immediate(),
                "refused: no node can take it now: node 'a' has 8 cores (17 asked for); \
                 node 'b' has 4 cores (17 asked for); node 'c' has 16 cores (17 asked for); node 'd' is offline",
            ),
        ],
    );
}

#[test]
fn tasks_without_cores_go_where_fewest_are_for_each_core() {
    // Full of exclusive tasks, which matters as little as its cores to it.
    check(&[Node::new("a", 2).holds(2, 0)], &[(vps(0), "a")]);
    let per_core = [Node::new("a", 2).unpinned(1), Node::new("b", 8).unpinned(3)];
    check(&per_core, &[(vps(0), "b")]);
    let equal = [Node::new("a", 2).unpinned(1), Node::new("b", 8).unpinned(4)];
    check(&equal, &[(vps(0), "a")]);
    let memory = [Node::new("a", 2).holds(0, 10 * G), Node::new("b", 2), Node::new("c", 2)];
    check(&memory, &[(vps(0), "b"), (vps(0).memory(60 * G), "b"), (vps(0).on("a"), "a")]);
}

#[test]
fn memory_is_held() {
    let nodes = [Node::new("a", 8).memory(64_500_000_000).holds(0, 60 * G)];
    check(
        &nodes,
        &[
            (vps(0).memory(4_500_000_000), "a"),
            (vps(0).memory(8 * G), "wait: node 'a' has 4.5G of 64.5G of memory free (8G asked for)"),
            (vps(0).memory(65 * G).on("a"), "refused: node 'a' has 64.5G of memory (65G asked for)"),
            (vps(0), "a"),
        ],
    );
}

#[test]
fn named_nodes() {
    let nodes = [
        Node::new("node1", 4),
        Node::new("node2", 4).holds(4, 0),
        Node::new("off", 4).readiness(Readiness::Offline),
        Node::new("drain", 4).readiness(Readiness::Draining),
        Node::new("new", 4).readiness(Readiness::Joining),
    ];
    check(
        &nodes,
        &[
            (vps(1).on("node1"), "node1"),
            (vps(1).on("node2"), "wait: node 'node2' has 0 of 4 cores free (1 asked for)"),
            (vps(1).on("node2").immediate(), "refused: node 'node2' has 0 of 4 cores free (1 asked for)"),
            (vps(0).on("node2"), "node2"),
            (
                vps(1).on("node7"),
                "refused: node 'node7' is not registered (registered: drain, new, node1, node2, off); see 'hakuriver client nodes'",
            ),
            (
                vps(1).on("node7").queue(),
                "refused: node 'node7' is not registered (registered: drain, new, node1, node2, off); see 'hakuriver client nodes'",
            ),
            (vps(1).on("off"), "refused: node 'off' is offline (--queue waits for it)"),
            (vps(1).on("off").queue(), "wait: node 'off' is offline"),
            (vps(1).on("off").queue().immediate(), "refused: node 'off' is offline"),
            (vps(5).on("off").queue(), "refused: node 'off' has 4 cores (5 asked for)"),
            (vps(1).on("drain"), "refused: node 'drain' is draining (--queue waits for it)"),
            (vps(1).on("drain").queue(), "wait: node 'drain' is draining"),
            (vps(1).on("new"), "wait: node 'new' has not yet reported which tasks it has"),
            (vps(1).on("new").immediate(), "refused: node 'new' has not yet reported which tasks it has"),
            (
                vps(1).on("NODE1"),
                "refused: node 'NODE1' is not registered (registered: drain, new, node1, node2, off); see 'hakuriver client nodes'",
            ),
        ],
    );
}

#[test]
fn no_node_at_all() {
    check(
        &[],
        &[
            (vps(0), "wait: no node is registered yet"),
            (vps(0).immediate(), "refused: no node is registered; start 'hakuriver runner' on one"),
            (vps(0).on("node1"), "refused: node 'node1' is not registered (none is); see 'hakuriver client nodes'"),
        ],
    );
}

#[test]
fn numa_nodes() {
    let nodes = [Node::new("a", 8).numa(2)];
    check(
        &nodes,
        &[
            (vps(4).on("a:1"), "a:1"),
            (vps(0).on("a:1"), "a:1"),
            (vps(5).on("a:1"), "refused: node 'a' has 4 cores on NUMA node 1 (5 asked for)"),
            (vps(1).on("a:2"), "refused: node 'a' has no NUMA node 2 (it has NUMA nodes 0, 1)"),
            (vps(1).on("a:0").memory(33 * G), "refused: node 'a' has 32G of memory on NUMA node 0 (33G asked for)"),
            (vps(1).memory(33 * G), "a"),
        ],
    );
    check(&[Node::new("b", 8)], &[(vps(1).on("b:0"), "refused: node 'b' has no NUMA node 0 (it has no NUMA nodes)")]);

    let mut held = Node::new("a", 8).numa(2);
    held.held.add(&vps(3), &Placement { node: held.name.clone(), numa: Some(NumaId(0)), gpus: vec![], in_line: false });
    check(
        &[held.clone()],
        &[
            (vps(1).on("a:0"), "a:0"),
            (vps(2).on("a:0"), "wait: node 'a' has 1 of 4 cores free on NUMA node 0 (2 asked for)"),
            (vps(4).on("a:1"), "a:1"),
            (vps(5), "a"),
        ],
    );
    // Where the node puts a task for any NUMA node, the Host does not know.
    held.held.add(&vps(2), &Placement { node: held.name.clone(), numa: None, gpus: vec![], in_line: false });
    check(
        &[held],
        &[
            (vps(2).on("a:1"), "a:1"),
            (
                vps(3).on("a:1"),
                "wait: node 'a' has 2 of 4 cores free on NUMA node 1 (2 held by tasks for any NUMA node may stand there) (3 asked for)",
            ),
            (vps(3), "a"),
        ],
    );

    let mut memory_only = Node::new("m", 4).numa(1);
    memory_only.inventory.numa.push(crate::domain::node::NumaNode {
        id: NumaId(1),
        cpus: crate::domain::cpuset::CpuSet::default(),
        memory: 64 * G,
    });
    check(
        &[memory_only],
        &[(
            vps(0).on("m:1"),
            "refused: node 'm' has no CPUs on NUMA node 1 that tasks may use (it has NUMA nodes 0, 1)",
        )],
    );
}

#[test]
fn gpus() {
    let nodes = [
        Node::new("big", 16).numa(2).gpus(&[Some(0), Some(0), Some(1), Some(1), Some(1)]).holds_gpus(&[2]),
        Node::new("none", 4),
        Node::new("one", 8).gpus(&[None]),
    ];
    check(
        &nodes,
        &[
            (vps(0).on("big::1,0"), "big::0,1"),
            (vps(0).on("big::0,2"), "wait: node 'big' has GPU 2 held by another task"),
            (vps(0).on("big::5"), "refused: node 'big' has no GPU 5 (it has GPUs 0, 1, 2, 3, 4)"),
            (vps(0).on("one::1"), "refused: node 'one' has no GPU 1 (it has GPU 0)"),
            (vps(0).on("none::0"), "refused: node 'none' has no GPU 0 (it has no GPUs)"),
            (vps(0).any_gpus(1).on("none"), "refused: node 'none' has no GPUs (1 asked for)"),
            (vps(0).any_gpus(2).on("one"), "refused: node 'one' has 1 GPU (2 asked for)"),
            (vps(1).any_gpus(1), "one::0"),
            // Of one NUMA node where it can be, and of the one that is asked for.
            (vps(1).any_gpus(2), "big::0,1"),
            (vps(1).any_gpus(2).on("big:1"), "big:1::3,4"),
            (vps(1).any_gpus(3), "big::0,1,3"),
            (vps(1).any_gpus(3).on("big:1"), "big:1::0,3,4"),
            (vps(1).any_gpus(4), "big::0,1,3,4"),
            (vps(1).any_gpus(5), "wait: node 'big' has 4 of 5 GPUs free (5 asked for)"),
            (
                vps(1).any_gpus(6),
                "refused: no node is large enough or has what is asked for: node 'big' has 5 GPUs (6 asked for); \
                 node 'none' has no GPUs (6 asked for); node 'one' has 1 GPU (6 asked for)",
            ),
        ],
    );
    // The smallest group that has enough is taken, so that the larger one stays for others.
    let groups = [Node::new("g", 16).gpus(&[Some(0), Some(0), Some(0), Some(1), Some(1)])];
    check(&groups, &[(vps(0).any_gpus(2), "g::3,4"), (vps(0).any_gpus(3), "g::0,1,2"), (vps(0).any_gpus(1), "g::3")]);
}

#[test]
fn conditions() {
    let mut node = Node::new("a", 4);
    node.conditions = Conditions::default();
    let nodes = [node];
    check(
        &nodes,
        &[
            (vps(0), "wait: node 'a' has no Docker daemon that answers"),
            (vps(0).on("a"), "wait: node 'a' has no Docker daemon that answers"),
            (vps(0).on("a").immediate(), "refused: node 'a' has no Docker daemon that answers"),
            (command(1).without_container(), "a"),
            (
                command(1).without_container().memory(G).on("a"),
                "refused: node 'a' cannot enforce a memory limit without a container (its Runner has no memory controller to use)",
            ),
        ],
    );
    // Of a node that has not reported for itself yet, nothing is concluded.
    let joining: Vec<Node> = nodes.into_iter().map(|node| node.readiness(Readiness::Joining)).collect();
    check(
        &joining,
        &[(command(1).without_container().memory(G).on("a"), "wait: node 'a' has not yet reported which tasks it has")],
    );
}

#[test]
fn a_waiting_reason_names_few_nodes_and_the_most_hopeful_first() {
    let nodes = [
        Node::new("a", 2),
        Node::new("b", 8).readiness(Readiness::Offline),
        Node::new("c", 8).holds(8, 0),
        Node::new("d", 8).readiness(Readiness::Draining),
        Node::new("e", 8).readiness(Readiness::Joining),
        Node::new("f", 8).readiness(Readiness::Offline),
    ];
    check(
        &nodes,
        &[(
            command(4),
            "wait: node 'c' has 0 of 8 cores free (4 asked for); node 'e' has not yet reported which tasks it has; \
             node 'd' is draining; 2 more nodes do not fit now",
        )],
    );
}

#[test]
fn an_unknown_node_is_not_answered_with_a_thousand_names() {
    let nodes: Vec<Node> = (0..1000).map(|n| Node::new(&format!("n{n:04}"), 1)).collect();
    let text = verdict(&vps(0).on("x"), &nodes);
    assert!(text.contains("n0019 and 980 more)") && !text.contains("n0020"), "{text}");
}

#[test]
fn what_tasks_hold_adds_up() {
    let node: NodeName = "a".parse().expect("a name");
    let mut held = Held::default();
    let place = |numa: Option<u32>, gpus: &[u32]| Placement {
        node: node.clone(),
        numa: numa.map(NumaId),
        gpus: gpus.iter().map(|id| GpuId(*id)).collect(),
        in_line: false,
    };
    held.add(&command(2).memory(G), &place(None, &[1]));
    held.add(&vps(3), &place(Some(1), &[0, 2]));
    held.add(&vps(0).memory(G), &place(Some(1), &[]));
    held.add(&command(1), &place(Some(0), &[]));
    let expected = Held {
        cores: 6,
        memory: 2 * G,
        gpus: [0, 1, 2].map(GpuId).into(),
        numa_cores: [(NumaId(0), 1), (NumaId(1), 3)].into(),
        unpinned: 1,
    };
    assert_eq!(held, expected);
}

/// Fills random clusters until nothing goes any more: nothing is held twice or beyond what a node has, and what is
/// refused or waits really does not fit.
#[test]
fn nothing_is_held_twice_and_nothing_beyond_capacity() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let mut nodes: Vec<Node> = (0..1 + random.below(5))
            .map(|n| {
                let gpus: Vec<Option<u32>> = (0..random.below(5)).map(|gpu| Some(gpu % 2)).collect();
                Node::new(&format!("n{n}"), 4 * (1 + random.below(4))).numa(2).gpus(&gpus)
            })
            .collect();
        for _ in 0..100 {
            let mut spec = command(random.below(7)).memory(u64::from(1 + random.below(20)) * G);
            if random.percent(30) {
                let node = random.below(nodes.len() as u32);
                spec = spec.on(&format!("n{node}:{}", random.below(2)));
            }
            if random.percent(30) {
                spec = spec.any_gpus(1 + random.below(3));
            }
            let before = nodes.clone();
            let views: Vec<_> = before.iter().map(Node::view).collect();
            let fits = |node: &Node| may_go_to(&spec, &node.view()) && fit(&spec, &node.view(), &node.held).is_ok();
            let Verdict::Placed(placement) = place(&spec, &views) else {
                assert!(!before.iter().any(fits), "seed {seed}: {spec:?}");
                continue;
            };
            let node = nodes.iter_mut().find(|node| node.name == placement.node).expect("a node of the cluster");
            assert!(fits(node), "seed {seed}: {spec:?}");
            assert_eq!(placement.gpus.len(), spec.gpus.count(), "seed {seed}");
            assert!(placement.gpus.iter().all(|gpu| !node.held.gpus.contains(gpu)), "seed {seed}: a GPU held twice");
            node.held.add(&spec, &placement);
            let (held, has) = (&node.held, &node.inventory);
            assert!(held.cores <= has.cpus.len() as u32, "seed {seed}: {held:?}");
            assert!(held.memory <= has.memory, "seed {seed}: {held:?}");
            assert!(held.gpus.iter().all(|id| has.gpus.iter().any(|gpu| gpu.id == *id)), "seed {seed}: {held:?}");
            for numa in &has.numa {
                let cores = held.numa_cores.get(&numa.id).copied().unwrap_or(0);
                assert!(cores <= numa.cpus.len() as u32, "seed {seed}: {held:?}");
            }
        }
    }
}
