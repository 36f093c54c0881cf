//! What a shell would read, in every field of a submission: it ends in exec untouched.

use std::fs;

use hakuriver::api::public::SubmitBody;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::fake_node::{FakeNode, Hardware};
use crate::tasks::{null_body, seen};
use crate::wait;

/// A name of a folder that any shell, any list of words and any template would take apart. (A comma, a colon and a double quote in a
/// path are refused: Docker itself would take them apart.)
const FOLDER: &str = "$(touch hakuriver-was-here) `id` ;&| 'x' \\ {{.Id}} %s * ~ #";

/// A value with everything in it.
const VALUE: &str = "$(id) `id`\n;&|<> 'q' \"d\" \\ {{.Id}} %s * ~ # , = : \t\u{1b}[2J \u{e4}";

#[test]
fn a_node_is_told_every_field_as_it_was_given() {
    let cluster = super::host();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-3", &[]));
    let body = SubmitBody {
        arguments: vec![VALUE.to_owned(), String::new(), "--".to_owned()],
        env_vars: [("A".to_owned(), VALUE.to_owned())].into(),
        workdir: Some(format!("/x/{FOLDER}")),
        ..null_body(VALUE, &[])
    };
    let id = cluster.submit_body(&body).remove(0);
    let task = wait::until("the node has it", SOON, || {
        let answer = node.look();
        answer.tasks.into_iter().find(|task| task.task_id == id).ok_or_else(|| "not on the list".to_owned())
    });
    let spec = task.spec;
    assert_eq!(spec.argv, [VALUE, VALUE, "", "--"]);
    assert_eq!((spec.env[0].name.as_str(), spec.env[0].value.as_str()), ("A", VALUE));
    assert_eq!(spec.workdir.as_deref(), Some(format!("/x/{FOLDER}").as_str()));
    let record = cluster.status(&id);
    assert_eq!((record.command.as_str(), record.arguments[0].as_str()), (VALUE, VALUE));
}

#[test]
fn a_real_task_gets_every_field_as_it_was_given() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let folder = cluster.dir.join(FOLDER);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "found").unwrap();
    let program = r#"pwd; cat "$1/file"; echo; printf '%s|' "$A" "$@"; printf '%s|' "$0""#;
    for container in ["NULL", "bare"] {
        let inside = if container == "NULL" { folder.to_str().unwrap().to_owned() } else { format!("/in/{FOLDER}") };
        let mounts = (container != "NULL").then(|| vec![format!("{}:{inside}:ro", folder.display())]);
        let body = SubmitBody {
            arguments: vec!["-c".into(), program.into(), VALUE.into(), inside.clone(), VALUE.into(), String::new()],
            env_vars: [("A".to_owned(), VALUE.to_owned())].into(),
            container_name: Some(container.to_owned()),
            additional_mounts: mounts,
            workdir: Some(inside.clone()),
            ..null_body("/bin/sh", &[])
        };
        let id = cluster.submit_body(&body).remove(0);
        let record = cluster.await_end(&id);
        let errors = String::from_utf8_lossy(&cluster.output(&id, "stderr")).into_owned();
        assert_eq!(record.status, "completed", "{container}: {} {errors}", seen(&record));
        let expected = format!("{inside}\nfound\n{VALUE}|{inside}|{VALUE}||{VALUE}|");
        assert_eq!(String::from_utf8_lossy(&cluster.output(&id, "stdout")), expected, "{container}");
    }
    let mut folders = vec![cluster.dir.clone(), std::env::current_dir().unwrap()];
    folders.extend(["/", "/tmp", "/root"].map(Into::into));
    for folder in folders {
        assert!(!folder.join("hakuriver-was-here").exists(), "a shell has read it in {}", folder.display());
    }
}
