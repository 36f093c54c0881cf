//! The whole way of an environment, as a user goes it: made on the Host, set up by hand, packed, and used on a node that shares nothing
//! with the Host but a connection, where no registry can be reached.

use std::time::Duration;

use hakuriver::api::environment::Tarballs;
use nanoserde::DeJson;

use crate::env::SOON;
use crate::env_host::Env;
use crate::far_node::FarNode;
use crate::tty::Tty;
use crate::wait;

#[test]
fn what_a_user_installs_by_hand_is_there_on_a_node_with_a_docker_of_its_own() {
    let far = FarNode::new();
    let env = Env::new(&far.cluster, "hand");
    far.cluster.cli(&["docker", "create-container", "hakuriver-test/sshd:1", &env.name]).ok();

    let mut tty = Tty::start(far.cluster.cli_command(&["docker-shell", &env.name]));
    tty.await_raw();
    tty.line("bind 'set enable-bracketed-paste off'");
    tty.ready();
    tty.resize(41, 121);
    wait::until("the new size is there", SOON, || {
        tty.line("stty size; echo do''ne");
        let said = tty.expect("done\r\n");
        if said.contains("41 121\r\n") { Ok(()) } else { Err(said) }
    });
    tty.line("echo sleep''s; sleep 4711");
    tty.expect("sleeps\r\n");
    tty.type_in("\x03");
    tty.ready();
    let pasted: String =
        (0..16_000).map(|n| format!("{n:08} the quick brown fox jumps over the lazy dog 0123456789\n")).collect();
    assert!(pasted.len() > 1_000_000);
    tty.line("cat > /installed; echo ta''ken");
    tty.expect("\r\n");
    tty.type_in(&pasted);
    tty.type_in("\x04");
    tty.expect_within("taken\r\n", Duration::from_secs(120));
    tty.line("exit");
    assert_eq!(tty.end(), 0);

    let there = ["--target", &far.cluster.node("b"), "--container", &env.name];
    let read = |file: &str| {
        let id = far.cluster.task(&there, &["cat", file]);
        far.cluster.await_status(&id, "completed");
        far.cluster.cli(&["task", "stdout", &id]).ok()
    };
    far.cluster.cli(&["docker", "create-tar", &env.name]).ok();
    assert!(read("/installed") == pasted, "it is not what was pasted");
    let nodes = || Tarballs::deserialize_json(&far.cluster.get("/docker/list")).unwrap()[&env.name].nodes.clone();
    wait::until_true("the list has the node", SOON, || (nodes() == [far.cluster.node("b")], format!("{:?}", nodes())));

    // A little is changed: a little travels, in the layer that the commit has made.
    let whole = far.line.take_bytes();
    env.sh("echo later >/changed");
    far.cluster.cli(&["docker", "create-tar", &env.name]).ok();
    assert_eq!(nodes(), [""; 0], "nobody has the newest one yet");
    assert_eq!(read("/changed"), "later\n");
    let part = far.line.take_bytes();
    assert!(part < whole / 20, "{part} bytes of {whole}");
}
