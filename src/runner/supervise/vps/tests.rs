//! The start-up of a VPS in a folder that stands for a container's root.

use super::*;
use crate::sys::file::Scratch;

fn task() -> BoxFile {
    let env = [("B".to_owned(), "task".to_owned()), ("HOME".to_owned(), "/data".to_owned())];
    let keys = ["ssh-ed25519 AAAA me".to_owned()];
    BoxFile::for_vps("42", &keys, &"7".repeat(64), &env)
}

fn put(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("it stands in a folder")).expect("it can be made");
    fs::write(&path, text).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|fault| panic!("{path}: {fault}"))
}

fn mode(root: &Path, path: &str) -> u32 {
    fs::metadata(root.join(path)).unwrap_or_else(|fault| panic!("{path}: {fault}")).mode() & 0o7777
}

#[test]
fn the_tasks_environment_wins_and_a_logins_own_is_left_out() {
    let own = [("A", "image"), ("B", "image"), ("HOME", "/"), ("SSH_X", "1"), ("HAKURIVER_TASK_ID", "7")];
    let env = environment(own.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())), &task());
    let env: Vec<_> = env.iter().map(|v| (v.name.as_str(), v.value.as_str(), v.of_task)).collect();
    assert_eq!(
        env,
        [("A", "image", false), ("B", "task", true), ("HAKURIVER_TASK_ID", "42", true), ("HOME", "/data", true)]
    );
}

#[test]
fn servers_are_looked_for_in_the_path_and_where_they_usually_stand() {
    let scratch = Scratch::new();
    let root = scratch.path();
    assert_eq!(find_server(root, "/usr/bin"), None);
    put(root, "usr/sbin/dropbear", "", 0o755);
    assert_eq!(find_server(root, "/usr/bin"), Some(Server::Dropbear("/usr/sbin/dropbear".into())));
    put(root, "usr/sbin/sshd", "", 0o644);
    assert!(matches!(find_server(root, ""), Some(Server::Dropbear(_))), "what cannot be executed is no server");
    put(root, "opt/bin/sshd", "", 0o755);
    assert_eq!(find_server(root, "bin:/opt/bin"), Some(Server::OpenSsh("/opt/bin/sshd".into())));
}

#[test]
fn an_empty_image_is_prepared_and_a_second_time_changes_nothing() {
    let scratch = Scratch::new();
    let root = scratch.path();
    put(root, "usr/sbin/sshd", "\0OpenSSH_9.2p1\0", 0o755);
    let key = HostKey::from_seed_hex(&task().host_key_seed).expect("it is a seed");
    let env = environment(std::iter::empty(), &task());
    let prepare = || prepare_openssh(root, Path::new("/usr/sbin/sshd"), &task(), &key, &env);
    prepare().expect("nothing is in the way");
    assert_eq!(mode(root, "etc/hakuriver"), 0o700);
    for file in ["authorized_keys", "host_key", "sshd_config"] {
        assert_eq!(mode(root, &format!("etc/hakuriver/{file}")), 0o600);
    }
    assert_eq!((mode(root, "run/sshd"), mode(root, "root"), mode(root, "etc/passwd")), (0o755, 0o700, 0o644));
    assert!(read(root, "etc/hakuriver/sshd_config").contains("\"HAKURIVER_TASK_ID=42\""));

    let files = ["etc/hakuriver/authorized_keys", "etc/hakuriver/sshd_config", "etc/passwd", "etc/group"];
    let before = files.map(|file| read(root, file));
    prepare().expect("nothing is in the way");
    assert_eq!(files.map(|file| read(root, file)), before);
    let left: Vec<_> = fs::read_dir(root.join("etc/hakuriver")).expect("it is there").collect();
    assert_eq!(left.len(), 3, "nothing temporary stays");
}

#[test]
fn a_locked_root_is_unlocked_and_the_files_mode_and_link_stay() {
    let scratch = Scratch::new();
    let root = scratch.path();
    put(root, "etc/real-shadow", "root:!:1::::::\n", 0o640);
    std::os::unix::fs::symlink("real-shadow", root.join("etc/shadow")).expect("a link can be made");
    prepare_accounts(root, true).expect("nothing is in the way");
    assert_eq!(read(root, "etc/real-shadow"), "root:*:1::::::\n");
    assert_eq!(mode(root, "etc/real-shadow"), 0o640);
    assert!(fs::symlink_metadata(root.join("etc/shadow")).expect("it is there").is_symlink());
}

#[test]
fn dropbear_gets_the_missing_keys_once() {
    let scratch = Scratch::new();
    let root = scratch.path();
    put(root, "root/.ssh/authorized_keys", "ssh-rsa BBBB mine", 0o600);
    let key = HostKey::from_seed_hex(&task().host_key_seed).expect("it is a seed");
    for _ in 0..2 {
        prepare_dropbear(root, &task(), &key).expect("nothing is in the way");
        assert_eq!(read(root, "root/.ssh/authorized_keys"), "ssh-rsa BBBB mine\nssh-ed25519 AAAA me\n");
    }
    assert_eq!(fs::read(root.join("etc/hakuriver/host_key.dropbear")).expect("it is there"), key.dropbear_private());
}

#[test]
fn dropbear_is_asked_only_for_what_it_can() {
    assert!(hands_on_environment(b"\0-e\t\tPass on server process environment to child process\n\0"));
    assert!(!hands_on_environment(b"Dropbear v2020.81"));
    let argv = dropbear_argv(Path::new("/usr/sbin/dropbear"), false).join(" ");
    assert_eq!(argv, "/usr/sbin/dropbear -F -E -s -r /etc/hakuriver/host_key.dropbear -p 22");
}

#[test]
fn debian_may_not_start_what_it_installs() {
    let scratch = Scratch::new();
    let root = scratch.path();
    put(root, "usr/sbin/x", "", 0o755);
    assert_eq!(forbid_service_start(root), None, "no Debian");
    put(root, "etc/debian_version", "12\n", 0o644);
    let policy = forbid_service_start(root).expect("it was not there");
    assert_eq!(mode(root, "usr/sbin/policy-rc.d"), 0o755);
    assert_eq!(forbid_service_start(root), None, "there is one already");
    fs::remove_file(policy).expect("it is there");
}
