//! Every command line of the user's reference page for `hakuriver.vps`, as printed there, through the links.

use std::fs;
use std::process::Command;

use crate::env::{Cluster, SOON, Settings, binary, first_id, image_file, write_script};
use crate::fake_node::{FakeNode, Hardware};
use crate::program::{self, Output, docker, run};
use crate::wait;

/// A Host with the page's nodes and environments, and a home directory with the page's key files.
struct Page {
    cluster: Cluster,
    _nodes: Vec<FakeNode>,
}

impl Page {
    fn new() -> Self {
        let mut cluster = Cluster::new(Settings::default());
        cluster.start_host();
        for environment in ["my-ubuntu-vps", "my-cuda-vps"] {
            cluster.add_environment(environment, 1_700_000_000, &image_file("sshd.tar"));
        }
        let eight = Hardware::cores("0-7", &[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        let nodes = vec![
            FakeNode::obedient(&cluster, "nodeA", &eight),
            FakeNode::obedient(&cluster, "nodeB", &eight),
            FakeNode::obedient(&cluster, "nodeC", &Hardware { gpus: 2, ..eight.clone() }),
        ];
        let home = cluster.dir.join("home");
        for folder in [".ssh", ".hakuriver"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        for key in ["id_ed25519", "my_vps_key", "gpu_key"] {
            crate::env::keygen(&home.join(".ssh").join(key));
        }
        let text = fs::read_to_string(cluster.config("config")).unwrap();
        let state = format!("{text}[paths]\nstate_dir = \"{}\"\n", cluster.dir.display());
        fs::write(home.join(".hakuriver/config.toml"), state).unwrap();
        let bin = cluster.dir.join("bin");
        fs::create_dir(&bin).unwrap();
        let mut links = cluster.command(&binary());
        run(links.args(["init", "links", "--dir", bin.to_str().unwrap()]), SOON).ok();
        Self { cluster, _nodes: nodes }
    }

    /// One line as a user types it in a shell: `~` is the home directory.
    fn line(&self, line: &str) -> Output {
        let path = format!("{}:{}", self.cluster.dir.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = self.cluster.command("sh".as_ref());
        command.args(["-c", line]).env("PATH", path);
        program::run(&mut command, SOON)
    }

    fn submitted(&self, line: &str) -> hakuriver::api::public::TaskRecord {
        let output = self.line(line);
        let id = first_id(&output.ok());
        self.cluster.await_status(&id, "running")
    }
}

#[test]
fn the_examples_of_submit() {
    let page = Page::new();
    let plain = page.submitted("hakuriver.vps submit");
    assert_eq!((plain.required_cores, plain.required_memory_bytes), (0, None));
    assert_eq!(plain.container_name.as_deref(), Some("hakuriver-base"));

    let sized = page
        .submitted("hakuriver.vps submit --target nodeA --cores 4 --memory 8G --public-key-file ~/.ssh/my_vps_key.pub");
    assert_eq!(sized.assigned_node.as_deref(), Some("nodeA"));
    assert_eq!((sized.required_cores, sized.required_memory_bytes), (4, Some(8_000_000_000)));

    // The page's "ssh-rsa AAAA..." is a placeholder: a real RSA key stands for it.
    let rsa = page.cluster.dir.join("rsa");
    let mut keygen = Command::new("ssh-keygen");
    run(keygen.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa.to_str().unwrap()]), SOON).ok();
    let key = fs::read_to_string(rsa.with_extension("pub")).unwrap();
    let numa = page.submitted(&format!(
        "hakuriver.vps submit --target nodeB:0 --public-key-string \"{}\" --container my-ubuntu-vps",
        key.trim()
    ));
    assert_eq!((numa.assigned_node.as_deref(), numa.target_numa_node_id), (Some("nodeB"), Some(0)));
    assert_eq!(numa.container_name.as_deref(), Some("my-ubuntu-vps"));
    assert!(numa.command.contains("ssh-rsa"), "{}", numa.command);

    let gpus = page.submitted(
        "hakuriver.vps submit --target nodeC::0,1 --container my-cuda-vps --public-key-file ~/.ssh/gpu_key.pub",
    );
    assert_eq!((gpus.assigned_node.as_deref(), gpus.required_gpus), (Some("nodeC"), vec![0, 1]));
}

#[test]
fn status_kill_and_command_and_the_related_ones() {
    let page = Page::new();
    let id = page.submitted("hakuriver.vps submit --cores 1").task_id;
    let status = page.line("hakuriver.vps status").ok();
    for column in "task_id status assigned_node required_cores required_memory_bytes required_gpus submitted_at started_at ssh_port".split(' ') {
        assert!(status.contains(column), "{column}: {status}");
    }
    assert!(status.contains(&id));
    page.line(&format!("hakuriver.vps command {id} pause")).ok();
    page.cluster.await_status(&id, "paused");
    page.line(&format!("hakuriver.vps command {id} resume")).ok();
    page.cluster.await_status(&id, "running");
    let record = page.line(&format!("hakuriver.client status {id}")).ok();
    assert!(record.contains("running") && record.contains("node"), "{record}");
    page.line(&format!("hakuriver.client command {id} pause")).ok();
    page.cluster.await_status(&id, "paused");
    page.line(&format!("hakuriver.vps kill {id}")).ok();
    page.cluster.await_status(&id, "killed");
    let other = page.submitted("hakuriver.vps submit").task_id;
    page.line(&format!("hakuriver.client kill {other}")).ok();
    page.cluster.await_status(&other, "killed");
    let ssh = page.line(&format!("hakuriver.ssh {other} -- true"));
    assert_ne!(ssh.status, 0);
    assert!(ssh.stderr.contains("killed"), "{ssh}");
    // The global option, before and after the command's name.
    let config = page.cluster.config("config");
    page.line(&format!("hakuriver.vps --config {config} status")).ok();
    page.line("hakuriver.vps submit --target nodeA --target nodeB").fails(2, &["--target"]);
    page.line("hakuriver.vps submit --container NULL").fails(2, &["NULL"]);
}

#[test]
fn gpus_reach_docker_by_uuid_in_one_argument() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let bin = scratch.dir.join("fake-bin");
    fs::create_dir(&bin).unwrap();
    let gpu = |index: u32, uuid: &str, bus: &str| {
        format!(
            "{index}, {uuid}, NVIDIA Test, 550.54, {bus}, 3, 1500, 1, 5000, 24564, 100, 24464, 40, [N/A], 30.50, 300.00"
        )
    };
    let (one, two) = ("GPU-11111111-aaaa-bbbb-cccc-000000000001", "GPU-22222222-aaaa-bbbb-cccc-000000000002");
    write_script(
        &bin.join("nvidia-smi"),
        &format!("#!/bin/sh\necho '{}'\necho '{}'\n", gpu(0, one, "00000000:01:00.0"), gpu(1, two, "00000000:02:00.0")),
    );
    // Docker here has no NVIDIA runtime: the arguments are noted one a line, then --gpus is left out.
    let argv = scratch.dir.join("argv");
    write_script(
        &bin.join("docker-without-gpus"),
        &format!(
            "#!/bin/bash\nif [ \"$1\" = run ]; then printf '%s\\n' \"$@\" >>{}; fi\nkept=()\nwhile [ $# -gt 0 ]; do\n  \
             if [ \"$1\" = --gpus ]; then shift 2; else kept+=(\"$1\"); shift; fi\ndone\nexec docker \"${{kept[@]}}\"\n",
            argv.display()
        ),
    );
    let cluster = Cluster::up_with(Settings {
        docker_command: Some(bin.join("docker-without-gpus")),
        path_first: Some(bin.clone()),
        ..Settings::default()
    });
    let node = cluster.node("a");
    let gpus = wait::until("the figures of two GPUs", SOON, || {
        let gpus = cluster.nodes()[0].gpu_info.clone();
        if gpus.len() == 2 { Ok(gpus) } else { Err(format!("{gpus:?}")) }
    });
    assert_eq!((gpus[1].gpu_id, gpus[1].fan_speed, gpus[1].memory_total_mib), (1, -1, 24_564));
    assert!(cluster.cli(&["client", "nodes"]).ok().contains('2'));
    let id = cluster.submit(&["--target", &format!("{node}::0,1")]);
    let seen = fs::read_to_string(&argv).unwrap();
    let wanted = format!("--gpus\n\"device={one},{two}\"\n");
    assert!(seen.contains(&wanted), "{wanted} in {seen}");
    assert!(!docker(&["inspect", &cluster.container(&id)]).contains("CUDA_VISIBLE_DEVICES"));
    let waiting = cluster.submit_no_wait(&["--gpus", "1"]);
    assert_eq!(cluster.status(&waiting).status, "pending", "both are held");
    cluster.kill_vps(&id);
    cluster.await_status(&waiting, "running");
    cluster.kill_vps(&waiting);
    let public = cluster.dir.join("key.pub");
    let file = public.to_str().unwrap();
    cluster
        .cli(&["vps", "submit", "--public-key-file", file, "--target", &format!("{node}::2")])
        .fails(1, &["GPU", "2"]);
}
