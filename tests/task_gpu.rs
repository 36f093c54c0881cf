//! GPUs of command tasks, against an `nvidia-smi` that prints what real machines print, hangs, fails, or loses a device.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::env::{Cluster, SOON, Settings, image_file, write_script};
use crate::tasks::Latches;
use crate::wait;

/// A directory with the programs that stand in for the driver's and Docker's, and what they print.
struct Machine {
    /// Only its directory is used.
    scratch: Cluster,
}

impl Machine {
    fn new(gpus: usize) -> Self {
        let machine = Self { scratch: Cluster::new(Settings { no_environment: true, ..Settings::default() }) };
        let dir = machine.dir();
        fs::create_dir(&dir).unwrap();
        write_script(
            &dir.join("nvidia-smi"),
            &format!(
                "#!/bin/sh\n[ ! -e {0}/hang ] || exec sleep 60\n[ ! -e {0}/fail ] || {{ echo 'NVIDIA-SMI has failed because it couldn'\\''t \
                 communicate with the NVIDIA driver.'; exit 9; }}\nexec cat {0}/gpus\n",
                dir.display()
            ),
        );
        // Docker here has no NVIDIA runtime: the arguments are noted one a line, then --gpus is left out.
        write_script(
            &dir.join("docker-without-gpus"),
            &format!(
                "#!/bin/bash\nif [ \"$1\" = run ]; then printf '%s\\n' \"$@\" >>{0}/argv; fi\nkept=()\nwhile [ $# -gt 0 ]; do\n  \
                 if [ \"$1\" = --gpus ]; then shift 2; else kept+=(\"$1\"); shift; fi\ndone\nexec docker \"${{kept[@]}}\"\n",
                dir.display()
            ),
        );
        machine.has(&(0..gpus).collect::<Vec<_>>());
        machine
    }

    fn dir(&self) -> PathBuf {
        self.scratch.dir.join("fake-bin")
    }

    /// What the driver lists from now on.
    fn has(&self, gpus: &[usize]) {
        let lines: String = gpus.iter().map(|&at| line(at)).collect();
        // By renaming, so that no reader sees half of it.
        fs::write(self.dir().join("gpus.new"), lines).unwrap();
        fs::rename(self.dir().join("gpus.new"), self.dir().join("gpus")).unwrap();
    }

    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(Settings {
            no_environment: true,
            docker_command: Some(self.dir().join("docker-without-gpus")),
            path_first: Some(self.dir()),
            ..Settings::default()
        });
        cluster.add_environment("hakuriver-base", 1_700_000_000, &image_file("bare.tar"));
        cluster.start_host();
        cluster.start_runner("a");
        cluster
    }
}

fn uuid(at: usize) -> String {
    format!("GPU-{at}1111111-aaaa-bbbb-cccc-00000000000{at}")
}

/// As a machine with A100s prints it: no fan, and some figures that the driver does not tell.
fn line(at: usize) -> String {
    format!(
        "{at}, {}, NVIDIA A100-SXM4-80GB, 550.54.15, 00000000:{:02X}:00.0, {}, 1410, [N/A], 1593, 81920, {}, 41251, 51, [N/A], 254.70, 400.00\n",
        uuid(at),
        at * 16 + 7,
        at * 10,
        1000 + at
    )
}

#[track_caller]
fn await_gpus(cluster: &Cluster, count: usize) {
    wait::until(&format!("{count} GPUs"), SOON, || {
        let gpus = cluster.nodes()[0].gpu_info.len();
        if gpus == count { Ok(()) } else { Err(format!("{gpus}")) }
    });
}

#[test]
fn two_gpus_are_held_by_one_task_each() {
    let machine = Machine::new(2);
    let cluster = machine.cluster();
    await_gpus(&cluster, 2);
    let latches = Latches::new(&cluster);
    let script = |at: usize| format!("echo ${{CUDA_VISIBLE_DEVICES-unset}}; {}", latches.wait(&at.to_string()));
    let ids: Vec<String> = (0..3).map(|at| cluster.script(&["--cores", "0", "--gpus", "1"], &script(at))).collect();
    let mut held: Vec<String> = ids[..2].iter().map(|id| cluster.await_lines(id, 1).remove(0)).collect();
    held.sort_unstable();
    assert_eq!(held, [uuid(0), uuid(1)], "by their names, not by numbers that move");
    let mut given: Vec<Vec<u32>> = ids[..2].iter().map(|id| cluster.status(id).required_gpus).collect();
    given.sort_unstable();
    assert_eq!(given, [[0], [1]]);
    let waiting = cluster.status(&ids[2]);
    assert_eq!(waiting.status, "pending");
    assert!(waiting.reason.as_deref().unwrap_or_default().contains("GPU"), "{:?}", waiting.reason);
    // Held also while paused, and given on at its end.
    cluster.cli(&["task", "command", &ids[1], "pause"]).ok();
    cluster.await_status(&ids[1], "paused");
    assert_eq!(cluster.status(&ids[2]).status, "pending");
    let freed = cluster.await_lines(&ids[0], 1).remove(0);
    latches.open("0");
    cluster.await_status(&ids[0], "completed");
    assert_eq!(cluster.await_lines(&ids[2], 1), [freed]);
    latches.open("2");
    cluster.await_status(&ids[2], "completed");
    cluster.cli(&["task", "kill", &ids[1]]).ok();
    cluster.await_status(&ids[1], "killed");
    // Two at once, and none: a task that asked for none sees none.
    let both = cluster.script(&["--gpus", "2"], "echo $CUDA_VISIBLE_DEVICES");
    cluster.await_status(&both, "completed");
    assert_eq!(cluster.stdout(&both), format!("{},{}\n", uuid(0), uuid(1)));
    let none = cluster.script(&[], "echo \"[${CUDA_VISIBLE_DEVICES-unset}]\"");
    cluster.await_status(&none, "completed");
    assert_eq!(cluster.stdout(&none), "[]\n");
    let target = format!("{}::0", cluster.node("a"));
    cluster.task_submit(&["--container", "NULL", "--target", &target], &["true"]).fails(2, &["GPU", "container"]);
    cluster.script_refused(&["--gpus", "3"], &["2 GPUs"]);
}

#[test]
fn eight_gpus_reach_containers_by_uuid_and_heartbeats_with_figures() {
    let machine = Machine::new(8);
    let cluster = machine.cluster();
    await_gpus(&cluster, 8);
    let gpus = cluster.nodes()[0].gpu_info.clone();
    assert_eq!((gpus[3].gpu_id, gpus[3].gpu_utilization, gpus[3].memory_used_mib), (3, 30, 1003));
    assert_eq!((gpus[3].fan_speed, gpus[3].mem_utilization, gpus[3].power_usage_mw), (-1, -1, 254_700));
    let health = cluster.get(&format!("/health?hostname={}", cluster.node("a")));
    assert!(health.contains("NVIDIA A100-SXM4-80GB"), "{health}");
    let target = format!("{}::5,7", cluster.node("a"));
    let id = cluster.task(&["--target", &target], &["sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}; sleep 1000"]);
    assert_eq!(cluster.await_lines(&id, 1), ["unset"], "in a container the given GPUs count from 0");
    let argv = fs::read_to_string(machine.dir().join("argv")).unwrap();
    let wanted = format!("--gpus\n\"device={},{}\"\n", uuid(5), uuid(7));
    assert!(argv.contains(&wanted), "{wanted} in {argv}");
    cluster.task_submit(&["--target", &target, "--immediate"], &["true"]).fails(1, &["GPU 5"]);
    let any = cluster.task(&["--gpus", "6"], &["sleep", "1000"]);
    cluster.await_status(&any, "running");
    assert_eq!(cluster.status(&any).required_gpus, [0, 1, 2, 3, 4, 6]);
    let target = format!("{}::8", cluster.node("a"));
    cluster.task_submit(&["--target", &target], &["true"]).fails(1, &["GPU 8"]);
    cluster.cli(&["task", "kill", &id, &any]).ok();
    cluster.await_status(&id, "killed");
    cluster.await_status(&any, "killed");
}

#[test]
fn a_driver_that_hangs_holds_up_nothing() {
    let machine = Machine::new(2);
    fs::write(machine.dir().join("hang"), "").unwrap();
    let cluster = machine.cluster();
    assert_eq!(cluster.nodes()[0].gpu_info.len(), 0);
    let id = cluster.script(&[], "exit 0");
    cluster.await_status(&id, "completed");
    cluster.script_refused(&["--gpus", "1"], &["no GPUs"]);
    drop(cluster);
    // One that hangs later: the GPUs stay, without figures.
    fs::remove_file(machine.dir().join("hang")).unwrap();
    let cluster = machine.cluster();
    await_gpus(&cluster, 2);
    fs::write(machine.dir().join("hang"), "").unwrap();
    wait::until("figures that are not known", SOON, || {
        let gpus = cluster.nodes()[0].gpu_info.clone();
        let unknown = gpus.len() == 2 && gpus.iter().all(|gpu| gpu.temperature == -1);
        if unknown { Ok(()) } else { Err(format!("{gpus:?}")) }
    });
    wait::holds_for("the node is online", Duration::from_secs(2), || {
        let node = cluster.nodes().remove(0);
        if node.status == "online" { Ok(()) } else { Err(node.status) }
    });
    let id = cluster.script(&[], "exit 0");
    cluster.await_status(&id, "completed");
}

#[test]
fn a_driver_that_fails_is_a_node_without_gpus() {
    let machine = Machine::new(2);
    fs::write(machine.dir().join("fail"), "").unwrap();
    let cluster = machine.cluster();
    assert_eq!(cluster.nodes()[0].gpu_info.len(), 0);
    cluster.script_refused(&["--gpus", "1"], &["no GPUs"]);
    let id = cluster.script(&[], "echo \"[${CUDA_VISIBLE_DEVICES-unset}]\"");
    cluster.await_status(&id, "completed");
    let log = cluster.log("runner-a");
    assert!(log.contains("nvidia-smi") && log.contains('9'), "the log says which program failed, and how: {log}");
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_given_to_nobody() {
    let machine = Machine::new(8);
    let cluster = machine.cluster();
    await_gpus(&cluster, 8);
    let latches = Latches::new(&cluster);
    // One task holds what will be lost.
    let target = format!("{}::7", cluster.node("a"));
    let mount = format!("{0}:{0}", latches.dir.display());
    let holder = cluster.task(&["--target", &target, "--mount", &mount], &["sh", "-c", &latches.wait("go")]);
    cluster.await_status(&holder, "running");
    machine.has(&[0, 1, 2, 3, 4, 6]);
    wait::until("two are without figures", SOON, || {
        let gpus = cluster.nodes()[0].gpu_info.clone();
        let silent: Vec<u32> = gpus.iter().filter(|gpu| gpu.temperature == -1).map(|gpu| gpu.gpu_id).collect();
        if gpus.len() == 8 && silent == [5, 7] { Ok(()) } else { Err(format!("{gpus:?}")) }
    });
    assert_eq!(cluster.nodes()[0].status, "online");
    assert_eq!(cluster.status(&holder).status, "running", "the task that has it is left alone");
    let six = cluster.script(&["--gpus", "6"], "echo $CUDA_VISIBLE_DEVICES");
    cluster.await_status(&six, "completed");
    let given = cluster.stdout(&six);
    assert_eq!(given.matches("GPU-").count(), 6);
    assert!(!given.contains(&uuid(5)) && !given.contains(&uuid(7)), "{given}");
    // What is gone cannot be had, by its number neither, and the one that holds it is still left alone.
    cluster.script_refused(&["--gpus", "7"], &["GPU"]);
    assert_eq!(cluster.status(&holder).status, "running");
    latches.open("go");
    cluster.await_status(&holder, "completed");
}

impl Cluster {
    #[track_caller]
    fn script_refused(&self, options: &[&str], reasons: &[&str]) {
        let mut all = vec!["--container", "NULL"];
        all.extend(options);
        self.task_submit(&all, &["true"]).fails(1, reasons);
    }
}
