//! The main job: a VPS from `submit` to `kill`, on real Docker.

use crate::env::{Cluster, Settings, first_id};
use crate::program::docker;

#[test]
fn a_vps_runs_pauses_resumes_and_dies() {
    let cluster = Cluster::up();
    let public = cluster.dir.join("key.pub");
    let submit = cluster.cli(&["vps", "submit", "--public-key-file", public.to_str().unwrap()]);
    let out = submit.ok();
    let id = first_id(&out);
    assert!(out.lines().next().unwrap().contains(&id), "the id comes first: {submit}");
    assert!(out.contains(&cluster.node("a")), "the node is named: {submit}");
    let record = cluster.status(&id);
    assert_eq!(record.status, "running", "submit returns when SSH is accepted: {record:?}");
    let port = record.ssh_port.expect("a running VPS has a port").to_string();
    assert!(out.contains(&port), "the port is printed: {submit}");
    assert!(out.contains("hakuriver ssh"), "the line to connect with is printed: {submit}");
    assert_eq!(record.task_type, "vps");
    assert!(record.started_at.is_some() && record.completed_at.is_none(), "{record:?}");
    assert!(record.command.contains("SHA256:"), "the key is shown by its fingerprint: {}", record.command);
    assert!(!record.command.contains("AAAA"), "and never itself: {}", record.command);

    let shell = cluster.ssh(&id, &["--", "id -u; hostname; test -d /shared && test -d /local_temp && echo mounts"]);
    let shell = shell.ok();
    assert!(shell.starts_with("0\n") && shell.contains("mounts"), "{shell}");

    let table = cluster.cli(&["vps", "status"]).ok();
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let wanted = "task_id status assigned_node required_cores required_memory_bytes required_gpus submitted_at started_at ssh_port";
    assert_eq!(header.join(" "), wanted, "{table}");
    let row = table.lines().find(|line| line.contains(&id)).expect("the VPS is listed");
    assert!(row.contains("running") && row.trim_end().ends_with(&port), "{table}");

    for _ in 0..2 {
        cluster.cli(&["vps", "command", &id, "pause"]).ok();
    }
    cluster.await_status(&id, "paused");
    let container = cluster.container(&id);
    assert_eq!(docker(&["inspect", "-f", "{{.State.Paused}}", &container]), "true");
    let table = cluster.cli(&["vps", "status"]).ok();
    let row = table.lines().find(|line| line.contains(&id)).expect("a paused VPS is active");
    assert!(!row.trim_end().ends_with(&port), "no port unless running: {table}");
    // A frozen sshd would only hang: told so, with ssh's own status for a connection that failed.
    let refused = cluster.ssh(&id, &["--", "true"]);
    assert_ne!(refused.status, 0, "{refused}");
    assert!(refused.stderr.contains("paused"), "{refused}");

    for _ in 0..2 {
        cluster.cli(&["vps", "command", &id, "resume"]).ok();
    }
    let resumed = cluster.await_status(&id, "running");
    assert_eq!(resumed.ssh_port.map(|p| p.to_string()).as_deref(), Some(port.as_str()), "the same port");
    assert_eq!(cluster.container(&id), container, "the same container");
    assert_eq!(cluster.ssh(&id, &["--", "echo again"]).ok(), "again\n");

    cluster.kill_vps(&id);
    let record = cluster.status(&id);
    assert!(record.completed_at.is_some() && record.ssh_port.is_none(), "{record:?}");
    assert!(!cluster.cli(&["vps", "status"]).ok().contains(&id), "a killed VPS is not active");
    cluster.cli(&["vps", "kill", &id]).fails(1, &[&id, "killed"]);
    cluster.cli(&["vps", "command", &id, "pause"]).fails(1, &[&id]);
    let leftovers = std::fs::read_dir(cluster.dir.join("runner").join(cluster.node("a")).join("tasks"));
    let leftovers: Vec<_> = leftovers.into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    assert!(leftovers.is_empty(), "the record folder goes with the task: {leftovers:?}");
}

#[test]
fn kill_works_from_paused_and_right_after_submit() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    cluster.cli(&["vps", "command", &id, "pause"]).ok();
    cluster.await_status(&id, "paused");
    cluster.kill_vps(&id);
    // 0.3 never sent a kill that came before `running`.
    let id = cluster.submit_no_wait(&[]);
    cluster.kill_vps(&id);
    // A pause wanted before it runs is carried out once it does.
    let id = cluster.submit_no_wait(&[]);
    let early = cluster.cli(&["vps", "command", &id, "pause"]);
    assert_eq!(early.status, 0, "{early}");
    cluster.await_status(&id, "paused");
    cluster.cli(&["client", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    cluster.await_no_container(&id);
}

#[test]
fn a_full_node_queues_and_says_why() {
    let cluster = Cluster::up();
    let cores = cluster.nodes()[0].total_cores.to_string();
    let all = cluster.submit(&["--cores", &cores]);
    assert_eq!(cluster.nodes()[0].available_cores, 0);
    // Held also while paused.
    cluster.cli(&["vps", "command", &all, "pause"]).ok();
    cluster.await_status(&all, "paused");
    let waiting = cluster.submit_no_wait(&["--cores", "1"]);
    let killed = cluster.submit_no_wait(&["--cores", "1"]);
    for id in [&waiting, &killed] {
        let record = cluster.status(id);
        assert_eq!(record.status, "pending", "{record:?}");
        assert!(record.reason.as_deref().is_some_and(|r| r.contains("core")), "it says what it waits for: {record:?}");
    }
    cluster.cli(&["vps", "kill", &killed]).ok();
    assert_eq!(cluster.status(&killed).status, "killed", "a pending task is killed at once");
    cluster.kill_vps(&all);
    cluster.await_status(&waiting, "running");
    cluster.kill_vps(&waiting);
}

#[test]
fn what_was_asked_for_reaches_the_container_and_no_process_list() {
    let cluster = Cluster::up();
    let data = cluster.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "from the node\n").unwrap();
    let (rw, ro) = (format!("{}:/data", data.display()), format!("{}:/frozen:ro", data.display()));
    let secret = "two words; $(id) 'quoted' \"twice\" \\ # %d";
    let id = cluster.submit(&[
        "--cores",
        "1",
        "--memory",
        "256M",
        "--mount",
        &rw,
        "--mount",
        &ro,
        "--env",
        &format!("SECRET={secret}"),
        "--env",
        "PLAIN=1",
    ]);
    let container = cluster.container(&id);
    let look = |format: &str| docker(&["inspect", "-f", format, &container]);
    assert_eq!(look("{{.HostConfig.Memory}}"), "256000000");
    let cpus = look("{{.HostConfig.CpusetCpus}}");
    assert!(cpus.parse::<u32>().is_ok(), "one core: {cpus:?}");
    assert_eq!(look("{{.HostConfig.NanoCpus}}"), "0", "no throttle on top of the pinning");
    assert_eq!(look("{{.HostConfig.Privileged}}"), "false");
    assert!(
        !docker(&["inspect", &container]).contains("two words"),
        "the environment is not in Docker's configuration"
    );
    let all = crate::program::run(std::process::Command::new("ps").args(["axww", "-o", "args"]), crate::env::SOON).ok();
    assert!(!all.contains("two words"), "nor in a command line");
    assert!(!cluster.get("/vps").contains("two words"), "nor in lists");

    assert_eq!(cluster.ssh(&id, &["--", "printenv SECRET"]).ok(), format!("{secret}\n"));
    let env = cluster.ssh(&id, &["--", "echo $PLAIN $HAKURIVER_TASK_ID; nproc; cat /data/file"]).ok();
    assert_eq!(env, format!("1 {id}\n1\nfrom the node\n"));
    cluster.ssh(&id, &["--", "echo from the VPS > /data/back"]).ok();
    assert_eq!(std::fs::read_to_string(data.join("back")).unwrap(), "from the VPS\n");
    let refused = cluster.ssh(&id, &["--", "echo no > /frozen/back"]);
    assert_ne!(refused.status, 0, "{refused}");
    cluster.kill_vps(&id);
    assert!(data.join("file").exists(), "a mounted directory outlives the VPS");
}

#[test]
fn names_are_held_while_it_lives_and_taken_by_every_command() {
    let cluster = Cluster::up();
    let id = cluster.submit(&["--name", "dev"]);
    let public = cluster.dir.join("key.pub");
    let again = ["vps", "submit", "--name", "dev", "--public-key-file", public.to_str().unwrap()];
    cluster.cli(&again).fails(1, &["dev", &id]);
    assert_eq!(cluster.ssh("dev", &["--", "echo by name"]).ok(), "by name\n");
    assert!(cluster.cli(&["client", "status", "dev"]).ok().contains(&id));
    cluster.cli(&["vps", "command", "dev", "pause"]).ok();
    cluster.await_status(&id, "paused");
    cluster.cli(&["vps", "command", "dev", "resume"]).ok();
    cluster.await_status(&id, "running");
    cluster.cli(&["vps", "kill", "dev"]).ok();
    cluster.await_status(&id, "killed");
    let next = cluster.submit_no_wait(&["--name", "dev"]);
    assert_ne!(next, id);
    cluster.kill_vps(&next);
}

#[test]
fn a_stopped_up_leaves_its_vps_alone_and_finds_it_again() {
    let mut cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let (container, keys) = (cluster.container(&id), cluster.status(&id).host_keys);
    cluster.stop("up");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &container]), "true", "tasks go on running");
    cluster.start_up();
    let record = cluster.await_status(&id, "running");
    assert_eq!(record.attempt, 1, "{record:?}");
    assert_eq!(cluster.container(&id), container);
    assert_eq!(cluster.status(&id).host_keys, keys);
    assert_eq!(cluster.ssh(&id, &["--", "echo still"]).ok(), "still\n");
    cluster.kill_vps(&id);
}

#[test]
fn several_vps_start_at_once_and_none_disturbs_another() {
    let cluster = Cluster::up_with(Settings::default());
    let ids: Vec<String> = (0..5).map(|_| cluster.submit_no_wait(&[])).collect();
    let mut ports: Vec<u16> = ids.iter().map(|id| cluster.await_status(id, "running").ssh_port.unwrap()).collect();
    let mut keys: Vec<Vec<String>> = ids.iter().map(|id| cluster.status(id).host_keys).collect();
    ports.sort_unstable();
    ports.dedup();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((ports.len(), keys.len()), (5, 5), "each has a port and a host key of its own");
    cluster.cli(&["vps", "kill", &ids[0]]).ok();
    cluster.await_status(&ids[0], "killed");
    for id in &ids[1..] {
        assert_eq!(cluster.ssh(id, &["--", "echo $HAKURIVER_TASK_ID"]).ok(), format!("{id}\n"));
    }
    for id in &ids[1..] {
        cluster.kill_vps(id);
    }
}

#[test]
fn json_is_the_api_s_json_and_nothing_else() {
    let cluster = Cluster::up();
    let public = cluster.dir.join("key.pub");
    let submitted = cluster.cli(&["vps", "submit", "--no-wait", "--public-key-file", public.to_str().unwrap()]).ok();
    let id = first_id(&submitted);
    cluster.await_status(&id, "running");
    for (args, path) in [
        (vec!["vps", "status", "--json"], "/vps/status".to_owned()),
        (vec!["client", "status", &id, "--json"], format!("/status/{id}")),
    ] {
        assert_eq!(cluster.cli(&args).ok().trim_end(), cluster.get(&path).trim_end(), "{args:?}");
    }
    let nodes = cluster.cli(&["client", "nodes", "--json"]).ok();
    assert!(nodes.trim_end().starts_with("[{") && nodes.trim_end().ends_with("}]"), "{nodes}");
    let health = cluster.cli(&["client", "health", "--json"]).ok();
    assert!(health.starts_with('{') && health.contains("\"aggregate\""), "{health}");
    cluster.kill_vps(&id);
}
