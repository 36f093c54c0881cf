use super::*;
use std::time::Instant;

fn program(argv: &[&str]) -> Program {
    Program::new(argv.iter().copied(), Duration::from_secs(20))
}

/// The tests may use a shell, as a program like any other.
fn sh(script: &str) -> Program {
    program(&["sh", "-c", script])
}

#[test]
fn streams_and_status_come_back() {
    let output = sh("echo out; echo err >&2; exit 3").run().expect("sh is there");
    assert_eq!((output.code, output.signal), (Some(3), None));
    assert_eq!((output.stdout.as_slice(), output.stderr_text().as_str()), (b"out\n".as_slice(), "err"));
    let fault = output.ok().expect_err("it failed");
    assert_eq!(fault.to_string(), "'sh -c echo out; echo err >&2; exit 3' failed (exit status 3): err");
    let killed = sh("kill -9 $$").run().expect("sh is there");
    assert_eq!((killed.code, killed.signal), (None, Some(9)));
}

#[test]
fn arguments_are_no_shell_text() {
    let nasty = "$(touch /tmp/pwned) `id` 'a\nb";
    let output = program(&["printf", "%s", nasty]).run().and_then(Output::ok).expect("printf is there");
    assert_eq!(output, nasty.as_bytes());
}

#[test]
fn what_cannot_start_says_why() {
    for (argv, reason) in [
        (vec!["no-such-program-here"], "no such program"),
        (vec!["/etc/passwd"], "ermission denied"),
        (vec![], "empty"),
        (vec!["printf", "a\0b"], "nul"),
    ] {
        let fault = program(&argv).run().expect_err("it cannot start");
        assert!(matches!(fault, CommandFault::CannotStart { .. }) && fault.to_string().contains(reason), "{fault}");
    }
}

#[test]
fn the_deadline_kills_the_whole_group() {
    let scratch = crate::sys::file::Scratch::new();
    let file = scratch.path().join("pid");
    let mut slow = sh(&format!("sleep 1000 & echo $! > {}; echo begun >&2; wait", file.display()));
    slow.deadline = Duration::from_millis(300);
    let start = Instant::now();
    let fault = slow.run().expect_err("its time is up");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(matches!(&fault, CommandFault::TimedOut { stderr, .. } if stderr == "begun"), "{fault}");
    assert!(fault.to_string().contains("within 0.3 s"), "{fault}");
    let grandchild = std::fs::read_to_string(&file).expect("it was written");
    let stat = format!("/proc/{}/stat", grandchild.trim());
    let end = Instant::now() + Duration::from_secs(5);
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < end, "the grandchild lives");
        std::thread::yield_now();
    }
}

#[test]
fn a_grandchild_that_keeps_the_pipe_open_holds_nobody() {
    let start = Instant::now();
    let output = sh("sleep 30 & echo $!").run().expect("sh is there");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let left = String::from_utf8(output.stdout).expect("digits").trim().parse().expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).expect("it lives");
}

#[test]
fn output_is_bounded_and_the_rest_is_drained() {
    let mut loud = sh("yes out | head -c 3000000; yes err | head -c 3000000 >&2; echo end >&2");
    loud.keep = 1000;
    let output = loud.run().expect("sh is there");
    assert_eq!(output.code, Some(0), "nobody was stopped by a full pipe");
    assert_eq!((output.stdout.len(), output.stderr.len()), (1000, 1000));
    assert!(output.stdout.starts_with(b"out\nout\n"), "the head of stdout");
    assert!(output.stderr.ends_with(b"err\nend\n"), "the tail of stderr");
}

#[test]
fn input_is_given_whole_and_may_be_left_unread() {
    let mut cat = program(&["cat"]);
    cat.stdin = b"0123456789".repeat(30_000);
    assert_eq!(cat.run().and_then(Output::ok).expect("cat is there"), cat.stdin);
    let mut deaf = program(&["true"]);
    deaf.stdin = vec![0; 1 << 20];
    assert_eq!(deaf.run().expect("true is there").code, Some(0));
    assert_eq!(program(&["cat"]).run().expect("cat is there").stdout, b"", "no input is an end of input");
}

#[test]
fn a_source_is_fed_with_progress() {
    let mut reports = Vec::new();
    let mut source = io::repeat(b'x').take(1_000_000);
    let output = program(&["wc", "-c"]).feed(&Stop::new(), &mut source, &mut |taken| reports.push(taken));
    assert_eq!(output.and_then(Output::ok).expect("wc is there"), b"1000000\n");
    assert_eq!(reports.last(), Some(&1_000_000));
    assert!(reports.is_sorted() && reports.len() > 2);

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let fault = program(&["cat"]).feed(&Stop::new(), &mut Broken, &mut |_| {}).expect_err("no source");
    assert!(fault.to_string().contains("the disk is gone"), "{fault}");
}

#[test]
fn lines_come_as_they_are_written() {
    let mut seen = Vec::new();
    let mut many = sh("printf 'a\\r\\n\\nlonger than eight\\nlast'; echo x >&2");
    many.keep = 8;
    let output = many.lines(&Stop::new(), &mut |line| {
        seen.push(line.to_owned());
        true
    });
    assert_eq!(seen, ["a", "", "longer t", "last"]);
    assert_eq!(output.expect("sh is there").stderr, b"x\n");
}

#[test]
fn a_line_can_end_the_program_at_once() {
    let start = Instant::now();
    let mut seen = 0;
    let output = sh("while :; do echo on; done").lines(&Stop::new(), &mut |_| {
        seen += 1;
        seen < 3
    });
    assert_eq!((seen, output.expect("sh is there").signal), (3, Some(9)));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_is_noticed_while_nothing_is_written() {
    let stop = Stop::new();
    let mut quiet = sh("echo begun; sleep 1000");
    quiet.deadline = Duration::MAX;
    let start = Instant::now();
    let output = quiet.lines(&stop, &mut |line| {
        assert_eq!(line, "begun");
        stop.set();
        true
    });
    assert_eq!(output.expect("sh is there").signal, Some(9));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_child_starts_with_a_clean_state() {
    use std::os::fd::AsRawFd as _;
    crate::sys::shutdown::block_signals();
    let inherited = std::fs::File::open("/dev/null").expect("it is there");
    // SAFETY: clears a flag of a descriptor that is ours, as if a careless parent had left it to us.
    unsafe { libc::fcntl(inherited.as_raw_fd(), libc::F_SETFD, 0) };
    let output = program(&["cat", "/proc/self/status"]).run().and_then(Output::ok).expect("cat is there");
    let status = String::from_utf8(output).expect("text");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).expect("it is there").trim().to_owned();
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(u64::from_str_radix(&field("SigIgn:"), 16).expect("hexadecimal") >> (libc::SIGPIPE - 1) & 1, 0);
    let open = program(&["ls", "/proc/self/fd"]).run().and_then(Output::ok).expect("ls is there");
    assert_eq!(String::from_utf8(open).expect("text"), "0\n1\n2\n3\n", "3 is the folder that ls reads");
}

#[test]
fn the_foreground_has_its_own_status() {
    let run = |script: &str| foreground(&["sh".to_owned(), "-c".to_owned(), script.to_owned()], &[]);
    assert_eq!(run("exit 7").expect("sh is there"), 7);
    assert_eq!(run("kill -15 $$").expect("sh is there"), 143);
    assert!(foreground(&["no-such-program-here".to_owned()], &[]).is_err());
}

#[test]
fn messages_are_short() {
    let many = (0..100).map(|n| format!("line {n}\n")).collect::<String>();
    assert_eq!(last_lines(&many).lines().count(), 10);
    assert!(last_lines(&many).ends_with("line 99"));
    assert_eq!(last_lines(&"x".repeat(5000)).len(), 2000);
    assert_eq!(shown(&["x".repeat(500)]).chars().count(), 300);
    let secret = Program { env: vec![("TOKEN".into(), "hidden".into())], ..program(&["true"]) };
    assert!(!format!("{secret:?}").contains("hidden"));
}

#[test]
fn what_dies_with_us_is_killed_when_its_thread_ends() {
    // The thread that starts a program stands for our process here: the signal is tied to it.
    let mut tied = sh("exec sleep 1000");
    tied.dies_with_us = true;
    let (send, pid) = std::sync::mpsc::channel();
    let starter = std::thread::spawn(move || {
        let mut command = prepare(&tied.argv, &[]).expect("there is a program");
        die_with_us(&mut command);
        let child = command.spawn().expect("sh is there");
        send.send(child).expect("the test listens");
    });
    let mut child = pid.recv().expect("it was started");
    starter.join().expect("no panic");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9));
}

#[test]
fn what_is_poured_arrives_whole_and_a_full_sink_ends_the_program() {
    let stop = Stop::new();
    let mut got = Vec::new();
    let mut sink = |bytes: &[u8]| {
        got.extend_from_slice(bytes);
        Ok(())
    };
    let output = sh("head -c 3000000 /dev/zero; echo err >&2; exit 4").pour(&stop, &mut sink).expect("sh is there");
    assert_eq!((got.len(), output.code, output.stderr_text().as_str()), (3_000_000, Some(4), "err"));
    assert!(output.stdout.is_empty());
    let began = Instant::now();
    let full = || Err(io::Error::other("the disk is full"));
    let fault = sh("cat /dev/zero").pour(&stop, &mut |_| full()).expect_err("nothing is kept");
    assert!(matches!(fault, CommandFault::Failed { .. }) && fault.to_string().contains("the disk is full"), "{fault}");
    stop.set();
    let stopped = sh("cat /dev/zero").pour(&stop, &mut |_| Ok(())).expect("it ran");
    assert_eq!((stopped.code, stopped.signal), (None, Some(9)));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
