//! Arguments as tables; and one real scope, where systemd runs.

use super::*;

#[test]
fn the_arguments_say_what_each_manager_understands() {
    let all = Properties { memory: Some(4096), cpus: "0-3".into(), mems: "0".into(), low_weight: true };
    let none = Properties::default();
    let begin = "systemd-run --scope --quiet --collect";
    let unit = "--slice=hakuriver.slice --unit=hakuriver-task-7.scope -p TasksMax=infinity";
    let table = [
        (false, false, &none, format!("{begin} {unit} --")),
        (false, false, &all, format!("{begin} {unit} -p MemoryMax=4096 -p CPUShares=102 --")),
        (true, true, &none, format!("{begin} --user {unit} -p Delegate=yes --")),
        (
            false,
            true,
            &all,
            format!(
                "{begin} {unit} -p MemoryMax=4096 -p MemorySwapMax=0 -p Delegate=yes -p AllowedCPUs=0-3 \
                 -p AllowedMemoryNodes=0 -p CPUWeight=10 --"
            ),
        ),
    ];
    for (user, unified, properties, wanted) in table {
        let argv = arguments(Manager { user, unified }, &unit_name(7), properties);
        assert_eq!(argv.join(" "), wanted, "user {user}, unified {unified}");
    }
}

#[test]
fn a_systemd_run_that_fails_is_told_with_its_last_words() {
    let (words, mut its) = io::pipe().expect("it can be made");
    its.write_all(b"1\n2\n3\n4\n5\nFailed to connect to bus\n").expect("it can be written");
    drop(its);
    let fault = systemd_fault(&["systemd-run".into(), "--scope".into()], "exit status 1", "it ended", words);
    assert_eq!(
        fault,
        "systemd-run failed (exit status 1): it ended: systemd-run --scope\n2\n3\n4\n5\nFailed to connect to bus"
    );
}

/// Waits for a task of a test and its groups.
fn ended(running: &Running) -> i32 {
    use nix::sys::wait::{WaitStatus, waitpid};
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.process.pid).expect("a pid"));
    match waitpid(pid, None).expect("it is our child") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn systemctl(argv: &[&str]) -> String {
    let argv = [&["systemctl"], argv].concat();
    let output = Program::new(argv, PATIENCE).run().expect("it runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// All of it in one test: scopes are few, and systemd is slow.
#[test]
fn a_task_in_a_real_scope() {
    let is_built = own_program().is_ok_and(|exe| Path::new(&exe).exists());
    if !process::is_root() || !is_built || !is_available() {
        eprintln!("NOT TESTED: a_task_in_a_real_scope needs root, systemd as init, and the program to be built");
        return;
    }
    let scratch = crate::sys::file::Scratch::new();
    let cgroups = Cgroups::find(Path::new("/"), &format!("hakuriver-test-scope-{}", std::process::id()));
    let allowed = crate::sys::affinity::allowed().expect("the kernel tells");
    let last = allowed.iter().last().expect("it runs somewhere").to_string();
    let task = |number: u64, argv: &[&str]| Start {
        task: u64::from(std::process::id()) * 10 + number,
        attempt: 1,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("LD_PRELOAD".to_owned(), String::new())],
        cpus: last.clone(),
        memory: Some(64 << 20),
        output: scratch.path().join(number.to_string()).display().to_string(),
        scope: true,
        ..Start::default()
    };
    let read = |number: u64, file: &str| {
        fs::read_to_string(scratch.path().join(format!("{number}.{file}"))).expect("it is there")
    };
    let is_gone = |unit: &str| until("the end of the scope", || systemctl(&["is-active", unit]) != "active");

    // What it finds.
    let argv = ["sh", "-c", "echo $$; grep Cpus_allowed_list /proc/self/status; env; ls /proc/$$/fd; sleep 1; exit 3"];
    let running = super::super::process::start(&task(1, &argv), &cgroups).expect("it starts");
    let unit = running.unit.clone().expect("it has a scope");
    let shown = systemctl(&["show", &unit, "-p", "MemoryMax", "-p", "TasksMax", "-p", "Slice", "-p", "ActiveState"]);
    for wanted in ["MemoryMax=67108864", "TasksMax=infinity", "Slice=hakuriver.slice", "ActiveState=active"] {
        assert!(shown.lines().any(|line| line == wanted), "{wanted}: {shown}");
    }
    assert_eq!(ended(&running), 3, "{}", read(1, "stderr"));
    let pid = running.process.pid;
    let wanted = format!("{pid}\nCpus_allowed_list:\t{last}\nLD_PRELOAD=\nPWD=/\n");
    let text = read(1, "stdout");
    assert!(text.starts_with(&format!("{pid}\nCpus_allowed_list:\t{last}\n")), "{text} is not {wanted}");
    assert!(!text.contains("INVOCATION_ID") && !text.contains("SYSTEMD"), "{text}");
    assert!(text.ends_with("\n0\n1\n2\n"), "a descriptor leaks: {text}");
    let group = running.group.as_ref().expect("it has groups");
    assert_eq!(group.pids().expect("they are listed"), [], "the anchor does not count");
    assert_eq!(group.oom_kills().expect("it is counted"), 0);
    assert!(group.remove().expect("it is removed"));
    is_gone(&unit);

    // Out of memory is known after the end.
    let running = super::super::process::start(&task(2, &["tail", "/dev/zero"]), &cgroups).expect("it starts");
    assert_eq!(ended(&running), 137);
    let group = running.group.as_ref().expect("it has groups");
    assert_eq!(group.oom_kills().expect("it is counted"), 1);
    assert!(group.remove().expect("it is removed"));
    is_gone(running.unit.as_ref().expect("it has a scope"));

    // Who has left the session is ended too; the anchor is not, until the record was read.
    let forest = "for i in 1 2 3; do (setsid sleep 1000 &) & done; wait; exec sleep 1000";
    let start = task(3, &["sh", "-c", forest]);
    let running = super::super::process::start(&start, &cgroups).expect("it starts");
    let group = running.group.as_ref().expect("it has groups");
    until("a forest", || group.pids().expect("they are listed").len() == 4);
    group.freeze(true).expect("it freezes");
    group.freeze(false).expect("it thaws");

    // The same unit again: systemd refuses.
    let again = Start { attempt: 2, ..start };
    let fault = super::super::process::start(&again, &cgroups).expect_err("the unit is there");
    assert!(fault.starts_with("systemd-run failed (exit status 1): "), "{fault}");
    assert!(fault.contains("systemd-run --scope") && fault.contains("hakuriver-task-"), "{fault}");

    group.signal(libc_sigkill()).expect("it is sent");
    assert_eq!(ended(&running), 137);
    until("an empty group", || group.remove().expect("it is looked at"));
    is_gone(running.unit.as_ref().expect("it has a scope"));

    // A task that cannot be run is another fault than systemd's.
    let fault = super::super::process::start(&task(4, &["no-such-program"]), &cgroups).expect_err("no program");
    assert!(fault.starts_with("cannot run 'no-such-program': there is no such program on the PATH"), "{fault}");
    is_gone(&unit_name(u64::from(std::process::id()) * 10 + 4));
    assert!(cgroups.left_over().expect("it is listed").is_empty());
    cgroups.close();
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}
