//! `hakuriver run`, also under the name `hakurun`: a program on this machine, once for every combination of spanned arguments.

use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};

use super::fault::Fault;
use super::role::Invocation;
use super::{args, output, words};
use crate::domain::span::Combinations;
use crate::sys::affinity;
use crate::sys::command::crew::{Crew, End, Interrupt};
use crate::sys::process;

/// Run a program on this machine, once for every combination of its arguments: span:{1..3} stands for 1, 2 and 3, span:[a,b] for a and
/// b, anything else for itself. The last argument changes fastest; one run follows the other. No Host is needed.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    usage = "[--parallel] [--] PROGRAM ARGS...",
    example = "{command_name} echo 'span:[a,b]' 'span:{{1..3}}'\n\
               {command_name} --parallel ./train.py --seed 'span:{{1..8}}' --rate 'span:[0.1,0.01]'\n\
               {command_name} ./render --frame 'span:{{001..240}}' -v",
    note = "Integers may be negative; with a zero in front, as in span:{{08..10}}, all have the same number of digits.\n\
            Quote spans: shells expand braces and brackets of their own accord.\n\
            An item holds anything but a comma: span:[span:{{x}}] is the word span:{{x}} itself.\n\
            What follows PROGRAM is its own, also what begins with '-'. The runs read and write what this command does.\n\
            Those that do not exit with 0 are listed at the end; the exit status is then 1. Ctrl-C ends all that run."
)]
struct RunArgs {
    /// run as many at once as there are CPUs that this command may use; their outputs mix
    #[argh(switch)]
    parallel: bool,
    /// the program, and its arguments with the spans
    #[argh(positional, greedy, arg_name = "PROGRAM")]
    command: Vec<String>,
}

/// How long those that run may take to end when we are to.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    // A configuration is taken, as everywhere, and not needed.
    let (RunArgs { parallel, command }, _) = args::of(invocation)?;
    let name = invocation.command.join(" ");
    let Some((program, arguments)) = command.split_first() else {
        return Err(Fault::Usage(format!("missing: PROGRAM; see '{name} --help'")));
    };
    let combinations = Combinations::of(arguments).map_err(|fault| Fault::Usage(fault.to_string()))?;
    output::warn_of_unquoted_spans(&command);
    let at_once = if parallel { affinity::allowed().map_or(1, |cpus| cpus.0.len()).max(1) } else { 1 };
    let line = |number: u64| {
        let mut line = vec![program.clone()];
        line.extend(combinations.get(number).unwrap_or_default());
        line
    };
    let outcome = run_all(combinations.count(), at_once, &line)?;
    let (text, status) = report(&outcome, combinations.count(), &line);
    if !text.is_empty() {
        output::error_line(&text);
    }
    if status == 0 { Ok(()) } else { Err(Fault::Status(status)) }
}

/// What became of the runs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    started: u64,
    /// Those that did not exit with 0, by number.
    bad: Vec<(u64, End)>,
    /// Why the one after those that were started could not be.
    not_started: Option<String>,
    interrupt: Option<i32>,
}

/// Runs them in their order, so many at once.
fn run_all(count: u64, at_once: usize, line: &dyn Fn(u64) -> Vec<String>) -> Result<Outcome, Fault> {
    let cannot = |fault: std::io::Error| Fault::Refused(format!("cannot wait for programs: {fault}"));
    let mut crew = Crew::begin().map_err(cannot)?;
    let mut outcome = Outcome::default();
    // From when on those that still run are killed.
    let mut until: Option<Instant> = None;
    loop {
        while outcome.interrupt.is_none()
            && outcome.not_started.is_none()
            && crew.len() < at_once
            && outcome.started < count
        {
            match crew.start(outcome.started, &line(outcome.started)) {
                Ok(()) => outcome.started += 1,
                // The next ones would fare no better: it is the same program.
                Err(fault) => outcome.not_started = Some(fault.to_string()),
            }
        }
        if crew.is_empty() {
            outcome.bad.sort_unstable_by_key(|(number, _)| *number);
            return Ok(outcome);
        }
        let news = crew.wait(until).map_err(cannot)?;
        outcome.bad.extend(news.ended.into_iter().filter(|(_, end)| *end != End::Exit(0)));
        if let Some(interrupt) = news.interrupt {
            let is_repeated = outcome.interrupt.replace(interrupt.signal).is_some();
            end_all(&crew, interrupt, is_repeated);
            until = Some(Instant::now() + GRACE);
        } else if until.is_some_and(|until| Instant::now() >= until) {
            crew.signal(process::SIGKILL);
            // What hangs in the kernel cannot be waited for without end.
            until = None;
        }
    }
}

/// Ends those that run: by the signal that we have got; when it comes a second time, without asking.
fn end_all(crew: &Crew, interrupt: Interrupt, is_repeated: bool) {
    if !crew.is_empty() && !is_repeated {
        output::error_line(&format!("ending {}", counted(crew.len() as u64, "run")));
    }
    if is_repeated {
        crew.signal(process::SIGKILL);
    } else if !interrupt.is_from_terminal {
        crew.signal(interrupt.signal);
    }
}

/// What there is to say at the end, and the exit status.
fn report(outcome: &Outcome, count: u64, line: &dyn Fn(u64) -> Vec<String>) -> (String, u8) {
    let mut text = Vec::new();
    if let Some(fault) = &outcome.not_started {
        text.push(format!("error: {fault}"));
    }
    if !outcome.bad.is_empty() {
        text.push(format!("error: {} did not exit with 0:", of(outcome.bad.len() as u64, count)));
        text.extend(outcome.bad.iter().map(|(number, end)| {
            let end = match end {
                End::Exit(status) => format!("exit status {status}"),
                End::Signal(signal) => format!("signal {signal}"),
            };
            format!("  {end}: {}", words::shown(&line(*number)))
        }));
    }
    let left = count - outcome.started;
    if left > 0 && (outcome.interrupt.is_some() || count > 1) {
        text.push(format!("{} not started", of(left, count)));
    }
    let status = match outcome.interrupt {
        Some(signal) => {
            text.push(format!("interrupted by signal {signal}"));
            u8::try_from(128 + signal).unwrap_or(1)
        }
        None => u8::from(outcome.not_started.is_some() || !outcome.bad.is_empty()),
    };
    (text.join("\n"), status)
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn of(number: u64, count: u64) -> String {
    format!("{number} of {}", counted(count, "run"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Exit, parse};

    fn read(line: &str) -> Result<RunArgs, Exit> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse::<RunArgs>(&["hakurun"], &args).map(|(args, _)| args)
    }

    #[test]
    fn what_follows_the_program_is_its_own() {
        for (line, parallel, command) in [
            ("echo span:{1..3}", false, "echo span:{1..3}"),
            ("--parallel echo", true, "echo"),
            ("echo --parallel -h --help --config x", false, "echo --parallel -h --help --config x"),
            ("--parallel -- --odd -h", true, "--odd -h"),
            ("-- echo -- x", false, "echo -- x"),
            ("", false, ""),
        ] {
            let command = command.split_whitespace().map(str::to_owned).collect();
            assert_eq!(read(line), Ok(RunArgs { parallel, command }), "{line}");
        }
        let Err(Exit::Usage(text)) = read("--paralel echo") else { panic!("taken") };
        assert!(text.starts_with("unknown option '--paralel' (known: "), "{text}");
    }

    #[test]
    fn help_shows_the_spans_and_an_example() {
        for line in ["--help", "-h"] {
            let Err(Exit::Help(help)) = read(line) else { panic!("{line} is no help") };
            for wanted in ["\n  --parallel ", "span:{1..3}", "span:[a,b]", "\nExamples:\n  hakurun "] {
                assert!(help.contains(wanted), "{wanted}: {help}");
            }
            assert!(!help.contains("{{"), "{help}");
        }
    }

    #[test]
    fn what_went_wrong_is_listed_with_its_arguments() {
        let line = |number: u64| vec!["sh".to_owned(), "a b".to_owned(), number.to_string()];
        let bad = vec![(1, End::Exit(9)), (3, End::Signal(11))];
        for (outcome, count, text, status) in [
            (Outcome { started: 4, ..Outcome::default() }, 4, "", 0),
            (
                Outcome { started: 4, bad: bad.clone(), ..Outcome::default() },
                4,
                "error: 2 of 4 runs did not exit with 0:\n  exit status 9: sh 'a b' 1\n  signal 11: sh 'a b' 3",
                1,
            ),
            (Outcome { not_started: Some("no".into()), ..Outcome::default() }, 1, "error: no", 1),
            (
                Outcome { started: 2, not_started: Some("no".into()), ..Outcome::default() },
                3,
                "error: no\n1 of 3 runs not started",
                1,
            ),
            (
                Outcome { started: 4, bad, interrupt: Some(2), ..Outcome::default() },
                5,
                "error: 2 of 5 runs did not exit with 0:\n  exit status 9: sh 'a b' 1\n  signal 11: sh 'a b' 3\n\
                 1 of 5 runs not started\ninterrupted by signal 2",
                130,
            ),
        ] {
            assert_eq!(report(&outcome, count, &line), (text.to_owned(), status));
        }
    }

    #[test]
    fn they_run_in_order_or_all_at_once() {
        let folder = std::env::temp_dir().join(format!("hakuriver-run-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary directory can be written");
        let log = folder.join("log").display().to_string();
        let outcome = std::thread::spawn(move || {
            // Signals are blocked in this thread alone.
            let line = |number: u64| {
                let script = "echo $2 >>\"$1\"; exit $(($2 % 2))";
                ["sh", "-c", script, "sh", &log, &number.to_string()].map(str::to_owned).to_vec()
            };
            let one_by_one = run_all(5, 1, &line);
            let written = std::fs::read_to_string(&log).expect("they have written it");
            (one_by_one, written, run_all(20, 8, &line))
        });
        let (one_by_one, written, together) = outcome.join().expect("it does not panic");
        let bad =
            |count: u64| (0..count).filter(|number| number % 2 == 1).map(|number| (number, End::Exit(1))).collect();
        assert_eq!(one_by_one, Ok(Outcome { started: 5, bad: bad(5), ..Outcome::default() }));
        assert_eq!(written, "0\n1\n2\n3\n4\n");
        assert_eq!(together, Ok(Outcome { started: 20, bad: bad(20), ..Outcome::default() }));
        std::fs::remove_dir_all(folder).expect("it was made");
    }

    #[test]
    fn a_program_that_cannot_be_started_ends_it() {
        let outcome = std::thread::spawn(|| {
            run_all(1 << 40, 4, &|number| vec!["/no/such/program".to_owned(), number.to_string()])
        });
        let outcome = outcome.join().expect("it does not panic").expect("no fault of ours");
        assert_eq!((outcome.started, outcome.bad.len()), (0, 0));
        assert!(outcome.not_started.is_some_and(|why| why.contains("/no/such/program 0")));
    }
}
