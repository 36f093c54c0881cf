//! Environments on the Host: containers set up by hand, and the tarballs that are packed of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hakuriver::api::environment::{ContainerRow, PackAnswer, ProgressLine, Tarballs};
use hakuriver::api::node::NodeEnvironment;
use hakuriver::archive::Manifest;
use nanoserde::DeJson;
use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::env::{Cluster, SOON, Settings, image_file, write_script};
use crate::fake_node::{FakeNode, Hardware};
use crate::gate::Gate;
use crate::mount::Mount;
use crate::program::docker;
use crate::{http, wait};

const BARE: &str = "hakuriver-test/bare:1";

/// An environment of a name that nobody else has, and all that Docker has of it: gone with the value.
pub struct Env {
    pub name: String,
    folder: PathBuf,
}

impl Env {
    pub fn new(cluster: &Cluster, short: &str) -> Self {
        Self::named(cluster, &format!("{}-{short}", cluster.tag))
    }

    fn named(cluster: &Cluster, name: &str) -> Self {
        Self { name: name.to_owned(), folder: cluster.dir.join("shared/hakuriver-containers") }
    }

    fn tag(&self) -> String {
        format!("hakuriver/{}:base", self.name)
    }

    /// The id of the image that has its tag.
    fn image(&self) -> Option<String> {
        let output = Command::new("docker").args(["image", "inspect", "-f", "{{.Id}}", &self.tag()]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// All its files in the container directory, sorted.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.contains(&self.name));
        names.sort();
        names
    }

    /// The names that its images have.
    fn tags(&self) -> Vec<String> {
        let list = docker(&["image", "ls", "--format", "{{.Tag}}", &format!("hakuriver/{}", self.name)]);
        list.lines().map(str::to_owned).collect()
    }

    pub fn sh(&self, script: &str) -> String {
        docker(&["exec", &self.name, "/bin/sh", "-c", script])
    }

    fn state(&self) -> String {
        docker(&["inspect", "-f", "{{.State.Status}}", &self.name])
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // May run while a failed test unwinds: no assertions.
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
        for file in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if let Ok(manifest) = Manifest::read(&file.path())
                && manifest.name == self.name
            {
                let _ = Command::new("docker").args(["rmi", "-f", &manifest.image_id]).output();
            }
        }
        let _ = Command::new("docker").args(["rmi", "-f", &self.tag()]).output();
    }
}

/// A Host alone; its Docker is `docker`.
fn host(docker: Option<PathBuf>, docker_lines: &str) -> Cluster {
    let mut cluster = Cluster::new(Settings {
        no_environment: true,
        docker_command: docker,
        docker_lines: docker_lines.to_owned(),
        ..Settings::default()
    });
    cluster.start_host();
    cluster
}

/// A folder for stand-in programs, which is there before a cluster's configuration is.
fn scratch() -> Cluster {
    Cluster::new(Settings { no_environment: true, ..Settings::default() })
}

/// A `docker` that does `script` first; `exec docker "$@"` follows.
fn stand_in(scratch: &Cluster, script: &str) -> PathBuf {
    let path = scratch.dir.join("docker");
    write_script(&path, &format!("#!/bin/sh\n{script}\nexec docker \"$@\"\n"));
    path
}

#[track_caller]
fn create(cluster: &Cluster, env: &Env) {
    let said = cluster.cli(&["docker", "create-container", BARE, &env.name]).ok();
    assert!(said.contains(&env.name) && said.contains(BARE), "{said}");
}

#[track_caller]
fn pack(cluster: &Cluster, env: &Env) -> PathBuf {
    let said = cluster.cli(&["docker", "create-tar", &env.name]).ok();
    PathBuf::from(said.trim().lines().last().unwrap())
}

#[track_caller]
fn containers(cluster: &Cluster) -> Vec<ContainerRow> {
    let text = cluster.get("/docker/host/containers");
    Vec::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// How many packings are to be put right.
fn owed(cluster: &Cluster) -> usize {
    fs::read_dir(cluster.dir.join("host/packing")).unwrap().count()
}

/// What the body of an error says.
#[track_caller]
fn refusal(reply: &http::Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.text()
}

#[test]
fn a_container_set_up_by_hand_becomes_an_environment_that_tasks_run_in() {
    let cluster = Cluster::up_with(Settings { no_environment: true, ..Settings::default() });
    let env = Env::new(&cluster, "whole");
    assert!(cluster.cli(&["docker", "list-containers"]).ok().starts_with("id"), "an empty table");
    create(&cluster, &env);
    env.sh("echo by-hand >/installed");
    let path = pack(&cluster, &env);
    assert_eq!(env.state(), "running", "started again as it was");
    assert_eq!(env.sh("cat /installed"), "by-hand");
    env.sh("sleep 0.01 &");
    wait::until_true("orphans are buried", SOON, || {
        let all = docker(&["top", &env.name, "-eo", "pid,stat,args"]);
        (all.lines().count() == 2, all)
    });
    assert_eq!(path.parent(), Some(env.folder.as_path()));

    let name = path.file_stem().unwrap().to_str().unwrap();
    assert_eq!(env.files(), [format!("{name}.json"), format!("{name}.tar")], "the two, and nothing else");
    let manifest = Manifest::read(&path.with_extension("json")).unwrap();
    assert_eq!(manifest, Manifest::describe(&path, &env.name, manifest.version).unwrap());
    assert_eq!(Some(&manifest.image_id), env.image().as_ref());
    assert_eq!(env.tags(), ["base"], "no name of the work is left");

    let run = cluster.cli(&["task", "submit", "--container", &env.name, "--wait", "--", "/bin/cat", "/installed"]);
    let id = crate::env::first_id(&run.ok());
    cluster.remember(std::slice::from_ref(&id));
    assert_eq!(cluster.cli(&["task", "stdout", &id]).ok(), "by-hand\n");

    // A container that did not run is packed as well, and does not run after.
    let said = cluster.cli(&["docker", "stop-container", &env.name]).ok();
    assert!(said.contains("stopped"), "{said}");
    pack(&cluster, &env);
    assert_eq!(env.state(), "exited");
    let said = cluster.cli(&["docker", "stop-container", &env.name]).ok();
    assert!(said.contains("did not run"), "{said}");
    cluster.cli(&["docker", "start-container", &env.name]).ok();
    assert_eq!(env.state(), "running");

    cluster.cli(&["docker", "delete-container", &env.name]).ok();
    cluster.cli(&["docker", "delete-container", &env.name]).fails(1, &[&env.name, "not found"]);
    assert_eq!(env.files().len(), 4, "tarballs stay");
}

#[test]
fn what_is_packed_starts_as_its_image_does_and_is_no_environments_container() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "start");
    // An image with an entry point, a command and a signal of its own.
    let tag = format!("hakuriver-test/{}-start:1", cluster.tag);
    let made = docker(&["create", "--stop-signal", "SIGQUIT", BARE, "x"]);
    let entry = ["--change", "ENTRYPOINT [\"/bin/echo\", \"a \\\"b\\\"\"]", "--change", "CMD [\"c\"]"];
    docker(&["commit", entry[0], entry[1], entry[2], entry[3], &made, &tag]);
    docker(&["rm", &made]);
    let own = docker(&["image", "inspect", "-f", "{{json .Config.Entrypoint}} {{json .Config.Cmd}}", &tag]);
    cluster.cli(&["docker", "create-container", &tag, &env.name]).ok();
    pack(&cluster, &env);
    let began = std::time::Instant::now();
    cluster.cli(&["docker", "stop-container", &env.name]).ok();
    assert!(began.elapsed().as_secs() < 8, "it obeys, and Docker's ten seconds are not needed");
    let packed = docker(&["image", "inspect", "-f", "{{json .Config.Entrypoint}} {{json .Config.Cmd}}", &env.tag()]);
    assert_eq!(packed, own);
    for label in ["hakuriver.env", "hakuriver.cluster"] {
        let format = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        assert_eq!(docker(&["image", "inspect", "-f", &format, &env.tag()]), "", "{label}");
    }
    // What runs in it is not taken for it.
    let other = docker(&["create", &env.tag()]);
    let listed = containers(&cluster);
    docker(&["rm", &other]);
    docker(&["rmi", "-f", &tag]);
    assert_eq!(listed.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), [env.name.as_str()]);
}

#[test]
fn the_answers_are_those_of_0_3_field_by_field() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "json");
    let body = format!(r#"{{"image_name":"{BARE}","container_name":"{}","more":1}}"#, env.name);
    let made = cluster.post("/api/docker/host/create", &body);
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(made.text().starts_with("{\"message\":\"") && made.text().contains(&env.name), "{}", made.text());
    // A script that makes sure of it is no failure.
    let again = cluster.post("/docker/host/create", &body);
    assert_eq!(again.status, 201);
    assert!(again.text().contains("exists already"), "{}", again.text());

    let short = &docker(&["inspect", "-f", "{{.Id}}", &env.name])[..12];
    let list = cluster.get("/docker/host/containers");
    // Of the same answer: a moment later it is up for longer.
    let status = list.split("\"status\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(status.starts_with("Up "), "{status}");
    assert_eq!(list, format!(r#"[{{"id":"{short}","name":"{}","image":"{BARE}","status":"{status}"}}]"#, env.name));

    let packed = cluster.post(&format!("/docker/create_tar/{}", env.name), "");
    assert_eq!(packed.status, 200, "{}", packed.text());
    let answer = PackAnswer::deserialize_json(&packed.text()).unwrap();
    let path = Path::new(&answer.tarball_path);
    assert!(path.is_absolute() && path.exists(), "{}", packed.text());
    let labelled = cluster.post(&format!("/docker/create_tar/{}", env.name), r#"{"label":"second"}"#);
    assert_eq!(labelled.status, 200, "{}", labelled.text());

    let list = cluster.get("/docker/list");
    let tarballs = Tarballs::deserialize_json(&list).unwrap_or_else(|e| panic!("{e}: {list}"));
    let row = &tarballs[&env.name];
    let (newest, first) = (&row.all_versions[0], &row.all_versions[1]);
    assert!(newest.timestamp > first.timestamp && row.all_versions.len() == 2, "{list}");
    let line = |version: &hakuriver::api::environment::VersionRow, label: &str| {
        format!(
            r#"{{"timestamp":{},"tarball":"{}-{0}.tar","size":{},"label":{label}}}"#,
            version.timestamp,
            env.name,
            fs::metadata(env.folder.join(&version.tarball)).unwrap().len()
        )
    };
    assert_eq!(
        list,
        format!(
            r#"{{"{}":{{"latest_timestamp":{},"latest_tarball":"{}-{1}.tar","all_versions":[{},{}],"nodes":[]}}}}"#,
            env.name,
            newest.timestamp,
            env.name,
            line(newest, "\"second\""),
            line(first, "null")
        )
    );
    for verb in ["stop", "start", "delete"] {
        let done = cluster.post(&format!("/docker/host/{verb}/{}", env.name), "");
        assert_eq!(done.status, 200, "{}", done.text());
        assert!(done.text().starts_with("{\"message\":\"") && done.text().contains(&env.name), "{}", done.text());
    }
    for (path, status) in [
        ("/docker/host/stop/nobody-has-this", 404),
        ("/docker/host/start/-f", 404),
        ("/docker/host/delete/a%20b", 404),
        ("/docker/create_tar/nobody-has-this", 404),
        ("/docker/create_tar/Upper", 400),
        ("/docker/create_tar/NULL", 400),
    ] {
        assert!(refusal(&cluster.post(path, ""), status).starts_with("{\"detail\":\""), "{path}");
    }
    for (body, status, field) in [
        (r#"{"image_name":"x"}"#, 422, "container_name"),
        (r#"{"image_name":5,"container_name":"x"}"#, 422, "image_name"),
        (r#"{"image_name":"--privileged","container_name":"xy"}"#, 400, "image_name"),
        (r#"{"image_name":"x","container_name":"../x"}"#, 400, "name"),
    ] {
        let text = refusal(&cluster.post("/docker/host/create", body), status);
        assert!(text.contains(field), "{body}: {text}");
    }
}

#[test]
fn what_hakuriver_did_not_make_is_neither_shown_nor_touched_but_packed_when_named() {
    let cluster = host(None, "");
    let other = host(None, "");
    let env = Env::new(&cluster, "foreign");
    let id = docker(&["run", "-d", "--name", &env.name, BARE, "sleep", "1000"]);
    assert_eq!(containers(&cluster), []);
    for verb in ["stop-container", "start-container", "delete-container"] {
        cluster.cli(&["docker", verb, &env.name]).fails(1, &[&env.name, "left alone"]);
    }
    cluster.cli(&["docker", "create-container", BARE, &env.name]).fails(1, &["HakuRiver did not make it"]);
    assert_eq!(docker(&["inspect", "-f", "{{.Id}} {{.State.Status}}", &env.name]), format!("{id} running"));
    pack(&cluster, &env);
    assert_eq!(env.state(), "running");
    // What it runs by itself is its own business.
    assert_eq!(docker(&["image", "inspect", "-f", "{{json .Config.Cmd}}", &env.tag()]), r#"["sleep","1000"]"#);

    // Another cluster's environment is as foreign.
    let theirs = Env::new(&other, "theirs");
    create(&other, &theirs);
    assert_eq!(containers(&cluster), []);
    cluster.cli(&["docker", "delete-container", &theirs.name]).fails(1, &["left alone"]);
    cluster.cli(&["docker", "create-container", BARE, &theirs.name]).fails(1, &["another cluster"]);
    // One of ours of another image is not replaced.
    other
        .cli(&["docker", "create-container", "hakuriver-test/sshd:1", &theirs.name])
        .fails(1, &[BARE, "delete-container"]);
    assert_eq!(theirs.state(), "running");
}

#[test]
fn a_container_that_docker_would_remove_is_not_stopped_to_be_packed() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "fleeting");
    docker(&["run", "-d", "--rm", "--name", &env.name, BARE, "sleep", "600"]);
    let reply = cluster.post(&format!("/docker/create_tar/{}", env.name), "{}");
    let detail = refusal(&reply, 409);
    assert!(detail.contains("--rm") && detail.contains("docker commit"), "{detail}");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &env.name]), "true", "it runs as before");
    assert_eq!(env.files(), [] as [String; 0]);
}

#[test]
fn a_container_that_was_made_and_not_started_is_started_when_asked_for_again() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "half");
    let labels =
        [format!("hakuriver.env={}", env.name), format!("hakuriver.cluster={}", cluster.cluster_id().unwrap())];
    let id = docker(&["create", "--name", &env.name, "-l", &labels[0], "-l", &labels[1], BARE, "sleep", "1000"]);
    create(&cluster, &env);
    assert_eq!(docker(&["inspect", "-f", "{{.Id}} {{.State.Status}}", &env.name]), format!("{id} running"));
}

#[test]
fn a_tasks_container_is_no_environment() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "task");
    docker(&["create", "--name", &env.name, "--label", "hakuriver.task=17", BARE, "x"]);
    cluster.cli(&["docker", "create-tar", &env.name]).fails(1, &["task 17"]);
    assert_eq!(env.files(), [""; 0]);
}

#[test]
fn older_versions_go_and_their_images_with_them() {
    let cluster = host(None, "keep_versions = 2\n");
    let env = Env::new(&cluster, "old");
    create(&cluster, &env);
    let bystander = env.folder.join(format!("{}-x-1.tar", env.name));
    fs::write(&bystander, "").unwrap();
    let (first, first_image) = (pack(&cluster, &env), env.image().unwrap());
    // Its manifest was asked for in the moment in which an even older one went.
    fs::write(env.folder.join(format!("{}-5.json", env.name)), "{}").unwrap();
    let (second, third) = (pack(&cluster, &env), pack(&cluster, &env));
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut left = vec![bystander.file_name().unwrap().to_str().unwrap().to_owned()];
    for path in [&second, &third] {
        left.extend([format!("{}.json", stem(path)), format!("{}.tar", stem(path))]);
    }
    left.sort();
    assert_eq!(env.files(), left);
    assert!(stem(&first) < stem(&second) && stem(&second) < stem(&third), "each is later than the one before");
    let gone = Command::new("docker").args(["image", "inspect", &first_image]).output().unwrap();
    assert!(!gone.status.success(), "the first image is gone: nobody uses it");
    assert_eq!(env.tags(), ["base"]);
}

#[test]
fn a_version_stays_as_long_as_a_node_is_loading_it_and_the_list_has_the_nodes() {
    let cluster = host(None, "keep_versions = 1\n");
    let env = Env::new(&cluster, "loading");
    let nodes = ["n1", "n2", "n3"].map(|name| FakeNode::silent(&cluster, name, &Hardware::cores("0-3", &[])));
    let says = |node: usize, path: &Path, state: &str| {
        let version = path.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        nodes[node].has(vec![NodeEnvironment { name: env.name.clone(), version, state: state.to_owned() }]);
    };
    create(&cluster, &env);
    let first = pack(&cluster, &env);
    says(0, &first, "loading");
    says(1, &first, "ready");
    let second = pack(&cluster, &env);
    assert!(first.exists(), "n1 is loading it");
    says(0, &second, "ready");
    says(2, &second, "loading");
    let list = Tarballs::deserialize_json(&cluster.get("/docker/list")).unwrap();
    assert_eq!(list[&env.name].nodes, ["n1"], "n2 has an older one, and n3 none yet");
    let table = cluster.cli(&["docker", "list-tars"]).ok();
    let of = |path: &Path| table.lines().find(|line| line.contains(path.file_name().unwrap().to_str().unwrap()));
    assert!(of(&second).is_some_and(|line| line.ends_with("  n1")), "{table}");
    assert!(of(&first).is_some_and(|line| line.ends_with("  -")), "{table}");
    let third = pack(&cluster, &env);
    assert!(!first.exists() && second.exists() && third.exists(), "nobody is loading the first any more");
}

#[test]
fn a_host_that_is_stopped_breaks_off_and_puts_right() {
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    let mut cluster = host(Some(gate.program()), "");
    let env = Env::new(&cluster, "stopped");
    create(&cluster, &env);
    gate.close(&["save"]);
    let mut client = cluster.cli_command(&["docker", "create-tar", &env.name]);
    let client = client.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    gate.await_one(&["save"]);
    cluster.stop("host");
    let told = client.wait_with_output().unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let why = String::from_utf8_lossy(&told.stderr);
    assert!(why.contains("the Host stops"), "{why}");
    assert_eq!((env.state(), env.files(), env.image()), ("running".to_owned(), vec![], None));
    assert_eq!(env.tags(), [""; 0]);
}

#[test]
fn an_image_that_is_nowhere_is_refused_with_how_to_bring_it_and_no_docker_is_503() {
    let cluster = host(None, "");
    let nowhere = format!("localhost:1/{}:9", cluster.tag);
    let failed = cluster.cli(&["docker", "create-container", &nowhere, &format!("{}-x", cluster.tag)]);
    assert_eq!(failed.status, 1, "{failed}");
    for part in [nowhere.as_str(), "docker load", "docker save"] {
        assert!(failed.stderr.contains(part), "{failed}");
    }
    assert_eq!(containers(&cluster), []);

    let none = host(Some("/nonexistent/docker".into()), "");
    for (method, path, body) in [
        ("GET", "/docker/host/containers", None),
        ("POST", "/docker/host/create", Some(r#"{"image_name":"x","container_name":"xy"}"#)),
        ("POST", "/docker/host/stop/xy", None),
        ("POST", "/docker/create_tar/xy", None),
    ] {
        let text = refusal(&http::call(none.api, method, path, Some(&none.token()), body), 503);
        assert!(text.contains("/nonexistent/docker"), "{path}: {text}");
    }
    // What needs none goes on.
    assert_eq!(none.get("/docker/list"), "{}");
}

#[test]
fn a_pull_shows_its_progress() {
    let scratch = scratch();
    let pulled = format!("hakuriver-test/{}-pulled:1", scratch.tag);
    let program = stand_in(
        &scratch,
        &format!(
            "[ \"$1\" = pull ] || exec docker \"$@\"\n\
             echo 'aa: Pulling fs layer'\necho 'bb: Pulling fs layer'\necho 'aa: Pull complete'\n\
             docker tag {BARE} {pulled}\nexit"
        ),
    );
    let cluster = host(Some(program), "");
    let env = Env::new(&cluster, "pulled");
    let body = format!(r#"{{"image_name":"{pulled}","container_name":"{}"}}"#, env.name);
    let path = "/docker/host/create?progress=1";
    let made = http::call(cluster.api, "POST", path, Some(&cluster.token()), Some(&body));
    docker(&["rmi", "-f", &pulled]);
    let steps: Vec<String> =
        made.text().lines().filter_map(|line| ProgressLine::deserialize_json(line).unwrap().progress).collect();
    assert_eq!(steps[0], format!("pulling {pulled}"), "{steps:?}");
    for layers in ["0 of 1", "0 of 2", "1 of 2"] {
        assert!(steps.contains(&format!("pulling {pulled}: {layers} layers")), "{layers}: {steps:?}");
    }
}

#[test]
fn a_failed_save_leaves_nothing_behind_and_removes_nothing() {
    let scratch = scratch();
    let mode = scratch.dir.join("mode");
    fs::write(&mode, "").unwrap();
    let program = stand_in(
        &scratch,
        &format!(
            "[ \"$1\" = save ] || exec docker \"$@\"\n\
             case $(cat {}) in\n\
             half) docker save \"$2\" | head -c 100000; echo 'no more' >&2; exit 1 ;;\n\
             cut) docker save \"$2\" | head -c 100000; exit 0 ;;\n\
             swapped) exec docker save hakuriver-test/sshd:1 ;;\n\
             esac",
            mode.display()
        ),
    );
    let cluster = host(Some(program), "keep_versions = 1\n");
    let env = Env::new(&cluster, "failed");
    create(&cluster, &env);
    let first = pack(&cluster, &env);
    let (files, image) = (env.files(), env.image());
    for (how, reason) in [("half", "no more"), ("cut", "truncated")] {
        fs::write(&mode, how).unwrap();
        let failed = cluster.cli(&["docker", "create-tar", &env.name]);
        assert_eq!(failed.status, 1, "{how}: {failed}");
        assert!(failed.stderr.contains(reason) && failed.stderr.contains("is as it was"), "{how}: {failed}");
        assert_eq!(env.files(), files, "{how}");
        assert_eq!((env.image(), env.state()), (image.clone(), "running".to_owned()), "{how}");
        assert_eq!(env.tags(), ["base"], "{how}: no image of the work is left");
    }
    fs::write(&mode, "").unwrap();
    assert!(pack(&cluster, &env) > first, "the next try succeeds");
    assert!(!first.exists(), "docker.keep_versions is 1");
}

#[test]
fn a_full_disk_fails_the_packing_and_nothing_else() {
    let cluster = host(None, "");
    let env = Env::new(&cluster, "full");
    create(&cluster, &env);
    let small = Mount::tmpfs(&env.folder, "1m");
    let full = cluster.post(&format!("/docker/create_tar/{}", env.name), "");
    assert!(refusal(&full, 507).contains("No space left"), "{}", full.text());
    assert_eq!(env.files(), [""; 0]);
    assert_eq!((env.state(), env.image()), ("running".to_owned(), None));
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&env.folder).status().unwrap();
    assert!(grown.success());
    assert!(pack(&cluster, &env).exists());
    let image = env.image().unwrap();
    drop(small);
    docker(&["rmi", "-f", &image]);
}

#[test]
fn a_host_killed_in_the_middle_leaves_nothing_half_done() {
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    let mut cluster = host(Some(gate.program()), "");
    let env = Env::new(&cluster, "killed");
    create(&cluster, &env);
    let first = pack(&cluster, &env);
    let (files, image) = (env.files(), env.image());
    for at in ["after-stop", "after-commit", "save", "after-save"] {
        gate.close(&[at]);
        let mut client = cluster.cli_command(&["docker", "create-tar", &env.name]);
        let mut client =
            client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        gate.await_one(&[at]);
        cluster.kill9("host");
        client.wait().unwrap();
        gate.open();
        cluster.start_host();
        wait::until_true(&format!("{at}: the container runs again"), SOON, || {
            let (state, owed) = (env.state(), owed(&cluster));
            let is_as_before = state == "running" && env.files() == files && env.tags() == ["base"];
            (is_as_before && owed == 0, format!("{state} {:?} {owed}", env.files()))
        });
        assert_eq!(env.image(), image, "{at}: the old image has its name");
    }
    // A commit whose Host was killed ends after it, in the daemon.
    let late = format!("hakuriver/{}:packing-{}-17", env.name, &cluster.cluster_id().unwrap()[..8]);
    docker(&["tag", BARE, &late]);
    assert!(pack(&cluster, &env) > first, "the next try succeeds");
    assert_eq!(env.tags(), ["base"]);
}

#[test]
fn a_docker_that_goes_away_in_the_middle_is_waited_for() {
    let scratch = scratch();
    let away = scratch.dir.join("away");
    // It goes away when it is to commit, and stays away until the test says otherwise.
    let program = stand_in(
        &scratch,
        &format!(
            "[ \"$1\" = commit ] && [ -e {0}.soon ] && mv {0}.soon {0}\n\
             if [ -e {0} ]; then echo 'Cannot connect to the Docker daemon. Is the docker daemon running?' >&2; exit 1; fi",
            away.display()
        ),
    );
    let cluster = host(Some(program), "");
    let env = Env::new(&cluster, "away");
    create(&cluster, &env);
    fs::write(away.with_extension("soon"), "").unwrap();
    let failed = cluster.post(&format!("/docker/create_tar/{}", env.name), "");
    assert!(refusal(&failed, 503).contains("it is put right when Docker answers"), "{}", failed.text());
    assert_eq!(env.state(), "exited", "it could not be started again");
    fs::remove_file(&away).unwrap();
    wait::until_true("the container runs again", SOON, || {
        (env.state() == "running" && owed(&cluster) == 0, format!("{} {}", env.state(), owed(&cluster)))
    });
    assert!(pack(&cluster, &env).exists());
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_a_save_leaves_nothing_half_done() {
    let scratch = scratch();
    let mut daemon = Daemon::new(&scratch);
    daemon.start();
    daemon.docker(&["load", "-i", image_file("bare.tar").to_str().unwrap()]);
    let image = fs::read_to_string(image_file("bare.id")).unwrap();
    // A part of the archive comes, and the rest when the test says so.
    let hold = scratch.dir.join("hold");
    let program = scratch.dir.join("docker");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = save ] && [ -e {0} ] || exec docker -H {1} \"$@\"\n\
         mkfifo {0}.pipe\ndocker -H {1} \"$@\" >{0}.pipe &\n\
         {{ head -c 65536; : >{0}.at; while [ -e {0} ]; do sleep 0.02; done; cat; }} <{0}.pipe\nwait $!\n",
        hold.display(),
        daemon.socket()
    );
    write_script(&program, &text);
    let cluster = host(Some(program), "");
    let env = Env::new(&cluster, "daemon");
    cluster.cli(&["docker", "create-container", image.trim(), &env.name]).ok();
    fs::write(&hold, "").unwrap();
    let failed = std::thread::scope(|scope| {
        let packing = scope.spawn(|| cluster.post(&format!("/docker/create_tar/{}", env.name), ""));
        wait::until_true("a part is saved", SOON, || (hold.with_extension("at").exists(), "no".to_owned()));
        daemon.stop(Signal::SIGKILL);
        fs::remove_file(&hold).unwrap();
        packing.join().unwrap()
    });
    assert!(failed.status >= 500 && failed.text().contains("was not packed"), "{}", failed.text());
    assert_eq!(cluster.get("/docker/list"), "{}");
    daemon.start();
    let look = || daemon.docker(&["inspect", "-f", "{{.State.Status}}", &env.name]);
    wait::until_true("the container runs again, and nothing half done is left", SOON, || {
        let (state, files) = (look(), env.files());
        let tags = daemon.docker(&["image", "ls", "-q", &format!("hakuriver/{}", env.name)]);
        let is_as_before = state == "running" && files.is_empty() && tags.is_empty();
        (is_as_before && owed(&cluster) == 0, format!("{state} {files:?} {tags}"))
    });
    assert!(pack(&cluster, &env).exists(), "the next try succeeds");
}

#[test]
fn two_at_once_do_not_meet() {
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    let cluster = host(Some(gate.program()), "");
    let env = Env::new(&cluster, "two");
    create(&cluster, &env);
    gate.close(&["save"]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| cluster.post(&format!("/docker/create_tar/{}", env.name), "").status);
        gate.await_one(&["save"]);
        for path in ["create_tar", "host/delete", "host/stop"] {
            let text = refusal(&cluster.post(&format!("/docker/{path}/{}", env.name), ""), 409);
            assert!(text.contains("just now"), "{text}");
        }
        // The Host answers meanwhile, and shows no half version.
        assert_eq!(cluster.get("/docker/list"), "{}");
        assert_eq!(env.state(), "running", "it runs again while its image is saved");
        gate.open();
        assert_eq!(first.join().unwrap(), 200);
    });
}

#[test]
fn the_first_host_makes_the_default_environment_in_the_background() {
    let name = format!("hrt-{}-first", std::process::id());
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    gate.close(&["save"]);
    let lines = format!("initial_base_image = \"{BARE}\"\ndefault_container_name = \"{name}\"\n");
    // It is ready while Docker is not.
    let mut cluster = host(Some(gate.program()), &lines);
    let env = Env::named(&cluster, &name);
    gate.await_one(&["save"]);
    gate.open();
    wait::until_true("the default environment is there", SOON, || {
        let list = cluster.get("/docker/list");
        (list.contains(&name), format!("{list}\n{}", cluster.log("host")))
    });
    let files = env.files();
    cluster.stop("host");
    cluster.start_host();
    assert_eq!(env.files(), files, "once");

    let none = host(None, "initial_base_image = \"localhost:1/nowhere:1\"\n");
    wait::until_true("a warning says what to do", SOON, || {
        let log = none.log("host");
        let all = ["warning: ", "docker load", "create-container IMAGE hakuriver-base", "initial_base_image"];
        (all.iter().all(|part| log.contains(part)), log)
    });
    assert_eq!(none.get("/docker/list"), "{}");
}

#[test]
fn the_lists_name_what_is_there() {
    let cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let mut cluster = cluster;
    cluster.add_environment("by-hand", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    let table = cluster.cli(&["docker", "list-tars"]).ok();
    assert!(table.starts_with("environment ") && table.contains("by-hand-1700000000.tar"), "{table}");
    let json = cluster.cli(&["docker", "list-tars", "--json"]).ok();
    assert_eq!(json.trim(), cluster.get("/docker/list"));
    let refused = cluster.cli(&["vps", "submit", "--container", "nope", "--public-key-file", "/nonexistent"]);
    assert_eq!(refused.status, 2, "{refused}");
    assert!(cluster.cli(&["docker", "list-containers", "--json"]).ok().trim() == "[]");
}
