use nix::sys::resource::{UsageWho, getrusage};

use super::*;

fn set(text: &str) -> CpuSet {
    text.parse().unwrap_or_else(|fault| panic!("{fault}"))
}

/// A node: its CPUs, its NUMA nodes as "ID=CPUS" (memory 64 GB) or "ID=CPUS!" (no memory), its physical cores.
fn node(cpus: &str, numa: &[&str], siblings: &[&str]) -> Inventory {
    let numa = numa
        .iter()
        .map(|text| {
            let (id, cpus) = text.split_once('=').expect("ID=CPUS");
            let (cpus, memory) = cpus.strip_suffix('!').map_or((cpus, 64_000_000_000), |cpus| (cpus, 0));
            NumaNode { id: NumaId(id.parse().expect("a number")), cpus: set(cpus), memory }
        })
        .collect();
    Inventory {
        cpus: set(cpus),
        memory: 128_000_000_000,
        numa,
        gpus: Vec::new(),
        siblings: siblings.iter().map(|text| set(text)).collect(),
    }
}

/// A desktop: one socket, four cores with two threads each, numbered as Intel's firmware does (0 and 4 share a core).
fn desktop() -> Inventory {
    node("0-7", &["0=0-7"], &["0,4", "1,5", "2,6", "3,7"])
}

/// Two sockets with four cores of two threads each; even CPUs on one, odd ones on the other (as Dell's firmware does).
fn two_sockets() -> Inventory {
    node(
        "0-15",
        &["0=0,2,4,6,8,10,12,14", "1=1,3,5,7,9,11,13,15"],
        &["0,8", "2,10", "4,12", "6,14", "1,9", "3,11", "5,13", "7,15"],
    )
}

/// One socket of an EPYC with four NUMA nodes (NPS4), eight cores each, threads numbered from 32.
fn four_numa() -> Inventory {
    let siblings: Vec<String> = (0..32).map(|cpu| format!("{cpu},{}", cpu + 32)).collect();
    let siblings: Vec<&str> = siblings.iter().map(String::as_str).collect();
    node("0-63", &["0=0-7,32-39", "1=8-15,40-47", "2=16-23,48-55", "3=24-31,56-63"], &siblings)
}

/// `CPUS` or `CPUS@MEMS` or `not pinned` or the error.
fn pinned(node: &Inventory, cores: u32, numa: Option<u32>, near: &[u32], held: &str) -> String {
    let request = PinRequest { cores, numa: numa.map(NumaId), near: near.iter().map(|id| NumaId(*id)).collect() };
    match pin(&request, node, &set(held)) {
        Ok(None) => "not pinned".to_owned(),
        Ok(Some(pinned)) if pinned.mems.is_empty() => pinned.cpus.to_string(),
        Ok(Some(pinned)) => format!("{}@{}", pinned.cpus, pinned.mems),
        Err(fault) => fault,
    }
}

#[test]
fn one_socket_with_two_threads_a_core() {
    let node = desktop();
    for (cores, held, expected) in [
        (0, "", "not pinned"),
        (0, "0-7", "not pinned"),
        (1, "", "0"),
        (2, "", "0,4"),
        (3, "", "0-1,4"),
        (4, "", "0-1,4-5"),
        (8, "", "0-7"),
        // One thread: of a core that is shared already, so that the others stay whole.
        (1, "0", "4"),
        (1, "0-1,4", "5"),
        // Two: a whole core, not the two halves that are left.
        (2, "0-1", "2,6"),
        (3, "0-1", "2,4,6"),
        (6, "0-1", "2-7"),
        (2, "0-3", "4-5"),
        (7, "0-1", "7 cores are asked for, 6 of 8 are free there"),
        (9, "", "9 cores are asked for, 8 of 8 are free there"),
        (1, "0-7", "1 core is asked for, 0 of 8 are free there"),
    ] {
        assert_eq!(pinned(&node, cores, None, &[], held), expected, "{cores} cores beside {held:?}");
    }
}

#[test]
fn two_sockets_keep_a_task_together() {
    let node = two_sockets();
    for (cores, numa, near, held, expected) in [
        (0, Some(1), &[][..], "", "1,3,5,7,9,11,13,15@1"),
        // Not exclusive: what others hold exclusively does not matter.
        (0, Some(1), &[], "1,3", "1,3,5,7,9,11,13,15@1"),
        (4, None, &[], "", "0,2,8,10"),
        (4, Some(1), &[], "", "1,3,9,11@1"),
        (8, None, &[], "", "0,2,4,6,8,10,12,14"),
        // The second node is the one with whole room.
        (8, None, &[], "0", "1,3,5,7,9,11,13,15"),
        // The fuller node is taken, so that the other one stays whole …
        (4, None, &[], "1,9", "3,5,11,13"),
        // … unless physical cores would be torn apart there.
        (2, None, &[], "0,2,4,6", "1,9"),
        // Near the GPUs comes first.
        (2, None, &[1], "", "1,9"),
        (2, None, &[1], "1,3,5,7", "9,11"),
        (8, None, &[1], "1", "0,2,4,6,8,10,12,14"),
        // Both nodes: all of the larger rest, the remainder from the other.
        (12, None, &[], "", "0-4,6,8-12,14"),
        (12, None, &[1], "", "0-3,5,7-11,13,15"),
        (16, None, &[], "", "0-15"),
        (6, Some(0), &[], "0,8,2", "6 cores are asked for on NUMA node 0, 5 of 8 are free there"),
        (1, Some(2), &[], "", "this node has no NUMA node 2"),
    ] {
        assert_eq!(
            pinned(&node, cores, numa, near, held),
            expected,
            "{cores} cores on {numa:?} near {near:?} beside {held:?}"
        );
    }
}

#[test]
fn four_numa_nodes_a_socket() {
    let node = four_numa();
    for (cores, near, held, expected) in [
        (16, &[][..], "", "0-7,32-39"),
        (16, &[2], "", "16-23,48-55"),
        (16, &[], "0", "8-15,40-47"),
        (24, &[], "", "0-11,32-43"),
        (24, &[3, 1], "", "8-15,24-27,40-47,56-59"),
        (32, &[], "8", "0-7,16-23,32-39,48-55"),
        // 38 and 39 are the second threads of cores that others use: a whole core elsewhere is better.
        (2, &[], "0-7,32-37", "8,40"),
        (64, &[], "", "0-63"),
    ] {
        assert_eq!(pinned(&node, cores, None, near, held), expected, "{cores} cores near {near:?} beside {held:?}");
    }
}

#[test]
fn memory_only_nodes_and_nodes_without_memory() {
    // Node 1 is memory without CPUs (CXL, HBM), node 2 CPUs without memory of their own, node 0 both.
    let node = node("0-7", &["0=0-3", "1=", "2=4-7!"], &[]);
    assert_eq!(pinned(&node, 0, Some(1), &[], ""), "NUMA node 1 has no CPUs that tasks may use");
    assert_eq!(pinned(&node, 2, Some(1), &[], ""), "NUMA node 1 has no CPUs that tasks may use");
    assert_eq!(pinned(&node, 2, Some(0), &[], ""), "0-1@0");
    assert_eq!(pinned(&node, 2, Some(2), &[], ""), "4-5");
    assert_eq!(pinned(&node, 0, Some(2), &[], ""), "4-7");
    assert_eq!(pinned(&node, 2, None, &[1], ""), "0-1");
    assert_eq!(pinned(&node, 6, None, &[2], ""), "0-1,4-7");
}

#[test]
fn offline_cpus_count_for_nothing() {
    // CPU 4 (the second thread of core 0) is offline, 3 and 7 are not for tasks.
    let node = node("0-2,5-6", &["0=0-7"], &["0,4", "1,5", "2,6", "3,7"]);
    // Core 0 has one thread, and that makes it whole.
    assert_eq!(pinned(&node, 1, None, &[], ""), "0");
    assert_eq!(pinned(&node, 2, None, &[], "0"), "1,5");
    assert_eq!(pinned(&node, 0, Some(0), &[], ""), "0-2,5-6@0");
    assert_eq!(pinned(&node, 5, Some(0), &[], ""), "0-2,5-6@0");
    assert_eq!(pinned(&node, 6, None, &[], ""), "6 cores are asked for, 5 of 5 are free there");
    // What others hold may be offline by now.
    assert_eq!(pinned(&node, 5, None, &[], "4,7"), "0-2,5-6");
}

#[test]
fn cpus_beyond_1023_and_without_any_topology() {
    let node = node("1000-1003,2000-2003", &["7=2000-2003"], &["2000-2003"]);
    assert_eq!(pinned(&node, 4, None, &[], ""), "2000-2003");
    assert_eq!(pinned(&node, 2, None, &[], ""), "1000-1001");
    assert_eq!(pinned(&node, 4, Some(7), &[], ""), "2000-2003@7");
    assert_eq!(pinned(&node, 6, None, &[], ""), "1000-1001,2000-2003");
    let bare = Inventory { cpus: set("0-3"), ..Inventory::default() };
    assert_eq!(pinned(&bare, 2, None, &[0], "0"), "1-2");
    assert_eq!(pinned(&bare, 1, Some(0), &[], ""), "this node has no NUMA node 0");
}

/// Two sockets of an EPYC 7763 with NPS4: eight NUMA nodes of sixteen cores, second threads numbered from 128.
fn two_epycs() -> Inventory {
    let siblings: Vec<String> = (0..128).map(|cpu| format!("{cpu},{}", cpu + 128)).collect();
    let siblings: Vec<&str> = siblings.iter().map(String::as_str).collect();
    let numa: Vec<String> =
        (0..8).map(|id| format!("{id}={}-{},{}-{}", id * 16, id * 16 + 15, id * 16 + 128, id * 16 + 143)).collect();
    let numa: Vec<&str> = numa.iter().map(String::as_str).collect();
    node("0-255", &numa, &siblings)
}

#[test]
fn eight_gpus_on_two_sockets_with_four_numa_nodes_each() {
    // As in a DGX A100: GPUs 0 and 1 stand at node 3, 2 and 3 at 1, 4 and 5 at 7, 6 and 7 at 5.
    let node = two_epycs();
    for (cores, near, held, expected) in [
        (32, &[3][..], "", "48-63,176-191"),
        (16, &[7], "", "112-119,240-247"),
        // Two GPUs at different nodes: their CPUs, and no others.
        (64, &[3, 1], "", "16-31,48-63,144-159,176-191"),
        (48, &[5, 7], "", "80-95,112-119,208-223,240-247"),
        // The node is full: another one, as a whole.
        (32, &[3], "48-63,176-191", "0-15,128-143"),
        // A few are free there, but not enough: rather one other node than two.
        (16, &[3], "48-60,176-188", "0-7,128-135"),
        // An odd number takes one core apart, the last one.
        (5, &[], "", "0-2,128-129"),
        // What is apart already is filled up first, by single threads.
        (1, &[], "0-2,128-129", "130"),
        (256, &[], "", "0-255"),
    ] {
        assert_eq!(pinned(&node, cores, None, near, held), expected, "{cores} cores near {near:?} beside {held:?}");
    }
    assert_eq!(pinned(&node, 4, Some(6), &[], "96,224"), "97-98,225-226@6");
}

#[test]
fn cores_of_two_kinds() {
    // An i9-13900K: eight cores of two threads with neighbouring numbers, sixteen of one thread.
    let mut siblings: Vec<String> = (0..8).map(|core| format!("{}-{}", core * 2, core * 2 + 1)).collect();
    siblings.extend((16..32).map(|cpu| cpu.to_string()));
    let node = node("0-31", &["0=0-31"], &siblings.iter().map(String::as_str).collect::<Vec<_>>());
    for (cores, held, expected) in [
        (1, "", "16"),
        (2, "", "0-1"),
        (3, "", "0-1,16"),
        (16, "", "0-15"),
        (17, "", "0-16"),
        (1, "16-31", "0"),
        (1, "0,16-31", "1"),
        (4, "0-13", "14-17"),
    ] {
        assert_eq!(pinned(&node, cores, None, &[], held), expected, "{cores} cores beside {held:?}");
    }
}

#[test]
fn memory_of_devices_and_fast_memory_are_nodes_without_cpus() {
    // A Xeon Max in flat mode (nodes 2 and 3 are its HBM) with a CXL expander (node 4) and a GPU at socket 1.
    let xeon = node(
        "0-15",
        &["0=0-3,8-11", "1=4-7,12-15", "2=", "3=", "4="],
        &["0,8", "1,9", "2,10", "3,11", "4,12", "5,13", "6,14", "7,15"],
    );
    assert_eq!(pinned(&xeon, 4, None, &[1], ""), "4-5,12-13");
    // A GPU whose own memory is a node (as Grace and Hopper): there are no CPUs near it, so any will do.
    assert_eq!(pinned(&xeon, 4, None, &[4], ""), "0-1,8-9");
    assert_eq!(pinned(&xeon, 12, None, &[3, 1], ""), "0-1,4-9,12-15");
    assert_eq!(pinned(&xeon, 1, Some(4), &[], ""), "NUMA node 4 has no CPUs that tasks may use");
    // Numbers need not be dense: nodes 0 and 8 of a POWER9, four threads a core, one core offline but for a thread.
    let power = node("0-7,88-92", &["0=0-7", "8=88-95", "252=", "253="], &["0-3", "4-7", "88-91", "92-95"]);
    assert_eq!(pinned(&power, 4, Some(8), &[], ""), "88-91@8");
    assert_eq!(pinned(&power, 1, None, &[8], ""), "92");
    assert_eq!(pinned(&power, 5, Some(8), &[], ""), "88-92@8");
    assert_eq!(pinned(&power, 6, Some(8), &[], ""), "6 cores are asked for on NUMA node 8, 5 of 5 are free there");
}

/// Sixteen sockets with 2,304 CPUs, as HPE sells them.
#[test]
fn a_very_large_machine_is_pinned_quickly_and_beyond_1023() {
    let siblings: Vec<String> = (0..1_152).map(|cpu| format!("{cpu},{}", cpu + 1_152)).collect();
    let siblings: Vec<&str> = siblings.iter().map(String::as_str).collect();
    let numa: Vec<String> = (0..32)
        .map(|id| format!("{id}={}-{},{}-{}", id * 36, id * 36 + 35, id * 36 + 1_152, id * 36 + 1_187))
        .collect();
    let numa: Vec<&str> = numa.iter().map(String::as_str).collect();
    let node = node("0-2303", &numa, &siblings);
    assert_eq!(pinned(&node, 72, Some(31), &[], ""), "1116-1151,2268-2303@31");
    assert_eq!(pinned(&node, 2, None, &[31], ""), "1116,2268");
    assert_eq!(pinned(&node, 2_304, None, &[], ""), "0-2303");
    // Of this thread, and not of the clock: others may have the machine meanwhile.
    let seconds = || getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel counts").user_time().tv_sec();
    let before = seconds();
    // One after another until it is full: each costs little, however many CPUs there are.
    let mut held = CpuSet::default();
    for _ in 0..100 {
        let request = PinRequest { cores: 2, numa: None, near: Vec::new() };
        let Ok(Some(pinned)) = pin(&request, &node, &held) else { panic!("there is room") };
        assert!(pinned.cpus.and(&held).is_empty());
        held = held.or(&pinned.cpus);
    }
    assert_eq!(held.len(), 200);
    let took = seconds() - before;
    assert!(took < 20, "{took} s");
}

/// Whatever is asked and held: as many CPUs as asked, none held, all of the node, and an error only where too few are
/// free.
#[test]
fn nothing_is_ever_pinned_twice_or_beyond_the_node() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for node in [desktop(), two_sockets(), four_numa(), two_epycs()] {
        for _ in 0..2_000 {
            let percent = random(101);
            let held: CpuSet = node.cpus.iter().filter(|_| random(100) < percent).collect();
            let cores = random(node.cpus.len() as u64 + 2) as u32 + 1;
            let numa = if random(2) == 0 { None } else { Some(node.numa[random(node.numa.len() as u64) as usize].id) };
            let near =
                if random(2) == 0 { vec![] } else { vec![node.numa[random(node.numa.len() as u64) as usize].id] };
            let request = PinRequest { cores, numa, near };
            let place = numa.map_or(node.cpus.clone(), |id| {
                node.numa.iter().find(|n| n.id == id).expect("chosen above").cpus.clone()
            });
            let free = place.without(&held);
            match pin(&request, &node, &held) {
                Ok(Some(pinned)) => {
                    assert_eq!(pinned.cpus.len(), cores as usize, "{request:?} beside {held}");
                    assert_eq!(pinned.cpus.without(&free), CpuSet::default(), "{request:?} beside {held}");
                }
                Ok(None) => panic!("{request:?} was not pinned"),
                Err(fault) => assert!(free.len() < cores as usize, "{request:?} beside {held}: {fault}"),
            }
        }
    }
}
