//! Environments on their way to nodes: only what is missing travels, and nothing half counts.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::far_node::{FarNode, Versions};
use crate::http;
use crate::mount::Mount;
use crate::program;
use crate::wait;

const MB: usize = 1_000_000;

#[test]
fn a_node_that_does_not_see_the_shared_directory_gets_what_it_lacks_and_no_more() {
    let far = FarNode::new();
    let versions = Versions::new(&far.cluster, &[20 * MB, 5 * MB]);
    far.cluster.add_environment("grown", 100, &versions.tarballs[0]);
    let before = far.cluster.rss("host");
    // Two at once share one transfer.
    let both = [far.look_for("grown", "/layer-1"), far.look_for("grown", "/layer-1")];
    for id in both {
        far.cluster.await_status(&id, "completed");
    }
    let first = far.manifest("grown");
    assert_eq!((far.loads(), far.line.take_asked().len()), (1, 1));
    let whole: u64 = first.layers.iter().map(|layer| layer.size).sum();
    let came = far.line.take_bytes();
    assert!(came >= whole && came < whole + whole / 100, "{came} of {whole}");
    let grown = far.cluster.rss("host").saturating_sub(before);
    assert!(grown < 8 * MB as u64, "the Host grew by {grown} bytes for an archive of {whole}");
    // 5 MB of it change.
    far.cluster.add_environment("grown", 200, &versions.tarballs[1]);
    far.cluster.await_status(&far.look_for("grown", "/layer-2"), "completed");
    let second = far.manifest("grown");
    let changed = second.layers.last().unwrap();
    let came = far.line.take_bytes();
    assert!(came as f64 <= 1.05 * changed.size as f64, "{came} bytes came for a layer of {}", changed.size);
    let asked = far.line.take_asked();
    assert!(asked.len() == 1 && asked[0].starts_with("grown/200?have="), "{asked:?}");
    let layers: Vec<String> = far.last_load().into_iter().filter(|name| name.ends_with("layer.tar")).collect();
    assert_eq!(layers, [format!("{}/layer.tar", &changed.diff_id["sha256:".len()..])]);
    assert_eq!(far.daemon.docker(&["image", "inspect", "-f", "{{.Id}}", "hakuriver/grown:base"]), second.image_id);
    wait::until_true("the Host knows that it is there", SOON, || {
        let list = far.cluster.cli(&["docker", "list-tars"]).ok();
        let newest = list.lines().find(|line| line.contains("grown-200.tar")).unwrap_or_default().to_owned();
        (newest.contains(&far.cluster.node("b")), list)
    });
    // What is there is not brought again, also by a Runner that is started anew.
    let mut far = far;
    far.cluster.stop("runner-b");
    far.start_runner();
    far.cluster.await_status(&far.look_for("grown", "/layer-2"), "completed");
    assert_eq!((far.loads(), far.line.take_asked()), (2, vec![]));
    assert!(far.parts().is_empty());
    // The layers below are gone from Docker by now, and known to nobody: all of it is brought.
    far.daemon.docker(&["rmi", "-f", &second.image_id, &first.image_id]);
    far.cluster.await_status(&far.look_for("grown", "/layer-2"), "completed");
    let asked = far.line.take_asked();
    assert!(asked.len() == 1 && asked[0].contains("have=&"), "{asked:?}");
}

#[test]
fn a_kill_of_host_runner_or_daemon_in_the_middle_costs_a_task_nothing_but_time() {
    let mut far = FarNode::new();
    let versions = Versions::new(&far.cluster, &[8 * MB, 8 * MB, 8 * MB]);
    // The Host, in the middle of a transfer.
    far.cluster.add_environment("killed", 100, &versions.tarballs[0]);
    far.line.hold_after(2 * MB as u64);
    let id = far.look_for("killed", "/layer-1");
    far.line.await_held();
    wait::until("the transfer is shown", SOON, || {
        let reason = far.cluster.status(&id).reason.unwrap_or_default();
        if reason.contains("fetching image killed (") { Ok(()) } else { Err(reason) }
    });
    far.cluster.kill9("host");
    far.line.cut();
    far.cluster.start_host();
    far.cluster.await_status(&id, "completed");
    assert!(goes_on(&far.line.take_asked()), "it goes on where it was");
    assert_eq!(far.loads(), 1);
    // The Runner.
    far.cluster.add_environment("killed", 200, &versions.tarballs[1]);
    far.line.hold_after(2 * MB as u64);
    let id = far.look_for("killed", "/layer-2");
    far.line.await_held();
    wait::until_true("something of it is kept", SOON, || {
        let kept = far.parts().first().map(|path| fs::metadata(path).unwrap().len());
        (kept > Some(0), format!("{kept:?}"))
    });
    far.cluster.kill9("runner-b");
    far.line.cut();
    far.start_runner();
    far.cluster.await_status(&id, "completed");
    assert!(goes_on(&far.line.take_asked()), "another one goes on where it was");
    assert_eq!((far.loads(), far.parts().len()), (2, 0));
    // The daemon, with the archive before its door.
    far.cluster.add_environment("killed", 300, &versions.tarballs[2]);
    far.hold_loads();
    let id = far.look_for("killed", "/layer-3");
    far.await_load(2);
    far.daemon.stop(Signal::SIGKILL);
    far.let_loads_go();
    far.daemon.start();
    far.cluster.await_status(&id, "completed");
    assert_eq!((far.line.take_asked().len(), far.parts().len()), (1, 0), "it was brought once");
    // The Runner, in the middle of a load: what Docker has got so far counts for nothing.
    far.daemon.docker(&["rmi", "-f", &far.manifest("killed").image_id]);
    far.hold_loads();
    let before = far.loads();
    let id = far.look_for("killed", "/layer-3");
    far.await_load(before);
    far.cluster.kill9("runner-b");
    far.let_loads_go();
    far.start_runner();
    far.cluster.await_status(&id, "completed");
    assert!(far.parts().is_empty());
}

#[test]
fn a_transfer_that_stands_still_is_abandoned_and_gone_on_with() {
    let far = FarNode::new();
    let versions = Versions::new(&far.cluster, &[8 * MB]);
    far.cluster.add_environment("stalled", 100, &versions.tarballs[0]);
    far.line.hold_after(2 * MB as u64);
    let id = far.look_for("stalled", "/layer-1");
    far.line.await_held();
    far.line.hold_no_more();
    far.cluster.await_status(&id, "completed");
    assert!(goes_on(&far.line.take_asked()));
}

/// The last of several questions began where the one before had ended.
fn goes_on(asked: &[String]) -> bool {
    let offset = |path: &String| path.rsplit_once("offset=").and_then(|(_, offset)| offset.parse::<u64>().ok());
    asked.len() >= 2 && asked.last().and_then(offset) > Some(0)
}

#[test]
fn a_damaged_archive_never_reaches_the_node_and_a_transfer_that_cannot_be_kept_fails_by_name() {
    let far = FarNode::new();
    let versions = Versions::new(&far.cluster, &[4 * MB, 4 * MB]);
    let folder = far.cluster.dir.join("shared/hakuriver-containers");
    far.cluster.add_environment("worn", 100, &versions.tarballs[0]);
    far.cluster.await_status(&far.look_for("worn", "/layer-1"), "completed");
    let whole = fs::read(&versions.tarballs[1]).unwrap();
    // In the layer that this node lacks.
    let missing = fs::read(far.cluster.dir.join("layer-2")).unwrap();
    let mut changed = whole.clone();
    let at = changed.windows(64).position(|bytes| bytes == &missing[..64]).unwrap();
    changed[at] ^= 1;
    for (version, bytes) in [(200, &whole[..whole.len() / 2]), (300, b"no archive at all"), (400, changed.as_slice())] {
        let name = format!("worn-{version}.tar");
        fs::write(folder.join(&name), bytes).unwrap();
        let record = far.cluster.await_status(&far.look_for("worn", "/layer-1"), "failed");
        let message = record.error_message.unwrap();
        assert!(message.contains(&name), "{message}");
        assert!(!folder.join(format!("worn-{version}.json")).exists(), "nothing is told of it");
        fs::remove_file(folder.join(&name)).unwrap();
    }
    assert_eq!(far.loads(), 1);
    // One that is changed after it was described.
    fs::write(folder.join("worn-500.tar"), &whole).unwrap();
    far.manifest("worn");
    let later = fs::metadata(folder.join("worn-500.tar")).unwrap().modified().unwrap();
    fs::write(folder.join("worn-500.tar"), &changed).unwrap();
    fs::File::options().write(true).open(folder.join("worn-500.tar")).unwrap().set_modified(later).unwrap();
    let record = far.cluster.await_status(&far.look_for("worn", "/layer-2"), "failed");
    let message = record.error_message.unwrap();
    assert!(message.contains("worn-500.tar") && message.contains("damaged"), "{message}");
    assert_eq!((far.loads(), far.parts().len()), (1, 0), "Docker was not asked to load it");
    fs::remove_file(folder.join("worn-500.tar")).unwrap();
    // The image that was there is in use as before.
    far.cluster.await_status(&far.look_for("worn", "/layer-1"), "completed");
    assert_eq!(far.loads(), 1);

    // A disk without room, for what is on its way.
    far.cluster.add_environment("worn", 600, &versions.tarballs[1]);
    let small = Mount::tmpfs(&far.spool(), "1m");
    let record = far.cluster.await_status(&far.look_for("worn", "/layer-2"), "failed");
    let message = record.error_message.unwrap();
    assert!(message.contains("this node cannot keep its") && message.contains("No space left"), "{message}");
    assert!(far.parts().is_empty(), "what came takes no room");
    drop(small);
    far.cluster.await_status(&far.look_for("worn", "/layer-2"), "completed");
}

#[test]
fn a_full_disk_of_the_daemon_fails_by_name_and_the_next_try_succeeds() {
    let mut far = FarNode::new();
    let versions = Versions::new(&far.cluster, &[30 * MB]);
    far.daemon.stop(Signal::SIGTERM);
    let small = Mount::tmpfs(&far.daemon.data, "24m");
    far.daemon.start();
    wait::until("the node has Docker again", SOON, || {
        let problems = far.cluster.nodes()[0].problems.join("; ");
        if problems.to_lowercase().contains("docker") { Err(problems) } else { Ok(()) }
    });
    far.cluster.add_environment("large", 100, &versions.tarballs[0]);
    let record = far.cluster.await_status(&far.look_for("large", "/layer-1"), "failed");
    let message = record.error_message.unwrap();
    assert!(message.contains("large-100.tar") && message.contains("no space left"), "{message}");
    assert!(far.parts().is_empty());
    small.grow("200m");
    far.cluster.await_status(&far.look_for("large", "/layer-1"), "completed");
    far.daemon.docker(&["rmi", "-f", "hakuriver/large:base"]);
    far.daemon.stop(Signal::SIGTERM);
    drop(small);
}

#[test]
fn the_host_gives_archives_to_nodes_alone_and_from_any_place() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    cluster.add_environment("served", 100, &image_file("bare.tar"));
    let (node, user) = (cluster.node_token(), cluster.token());
    let get = |path: &str| http::call(cluster.api, "GET", path, Some(&node), None);
    for path in ["/environments/served", "/environments/served/100"] {
        assert_eq!(http::call(cluster.api, "GET", path, Some(&user), None).status, 403, "{path}");
        assert_eq!(http::call(cluster.api, "GET", path, None, None).status, 401, "{path}");
    }
    for (path, status) in [
        ("/environments/other", 404),
        ("/environments/served/101", 404),
        ("/environments/..%2Fserved", 404),
        ("/environments/served/100?offset=x", 422),
        ("/environments/served/100?offset=999999999999", 416),
    ] {
        let reply = get(path);
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(reply.text().starts_with("{\"detail\":\""), "{path}: {}", reply.text());
    }
    // What is known of it is written once, beside it.
    let manifest = hakuriver::archive::Manifest::decode(&get("/environments/served").body).unwrap();
    let beside = cluster.dir.join("shared/hakuriver-containers/served-100.json");
    assert_eq!(hakuriver::archive::Manifest::read(&beside), Ok(manifest.clone()));
    assert_eq!((manifest.version, manifest.tarball.as_str()), (100, "served-100.tar"));
    let whole = get("/environments/served/100");
    let length = whole.header("hakuriver-length").unwrap().parse::<usize>().unwrap();
    assert_eq!(whole.body.len(), length);
    for offset in [1, 511, 4_096, length - 1, length] {
        assert_eq!(get(&format!("/environments/served/100?offset={offset}")).body, whole.body[offset..], "{offset}");
    }
    // A part is an archive that anybody can look into.
    let part = get(&format!("/environments/served/100?have={}", manifest.layers[0].diff_id));
    let mut command = Command::new("tar");
    command.arg("-tf").arg("-");
    let names = program::run_with(&mut command, &part.body, Duration::from_secs(20)).ok();
    let hex = &manifest.image_id["sha256:".len()..];
    assert_eq!(names, format!("{hex}.json\nmanifest.json\n"));
    // Layers count from the lowest on: another one that the node has is no help.
    let other = get(&format!("/environments/served/100?have=sha256:{:064}", 0));
    assert_eq!(other.body, whole.body);
    // Another archive in its place, with what was known of the first one beside it.
    let path = cluster.dir.join("shared/hakuriver-containers/served-100.tar");
    fs::remove_file(&path).unwrap();
    fs::copy(image_file("sshd.tar"), &path).unwrap();
    let reply = get("/environments/served");
    assert_eq!(reply.status, 409);
    assert!(reply.text().contains("served-100.tar") && reply.text().contains("served-100.json"), "{}", reply.text());
    fs::remove_file(&beside).unwrap();
    assert_eq!(get("/environments/served").status, 200, "as the message says");
}
