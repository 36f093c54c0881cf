use super::*;

/// A role for tests
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Role {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    Add(Add),
    Pass(Pass),
}

/// Adds something
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add", help_triggers("-h", "--help"))]
struct Add {
    /// some text
    #[argh(option)]
    text: Option<String>,
    /// a number
    #[argh(option)]
    number: Option<u32>,
    /// really
    #[argh(switch)]
    really: bool,
    /// what to add
    #[argh(positional, arg_name = "WHAT")]
    what: String,
}

/// Passes things on
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "pass", help_triggers("-h", "--help"))]
struct Pass {
    /// really
    #[argh(switch)]
    really: bool,
    /// a variable
    #[argh(option)]
    env: Vec<String>,
    /// the rest
    #[argh(positional, greedy, arg_name = "REST")]
    rest: Vec<String>,
}

fn read(line: &str) -> Result<(Role, Option<PathBuf>), Exit> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse::<Role>(&["hakuriver", "x"], &args)
}

fn add(text: Option<&str>, number: Option<u32>, really: bool, what: &str) -> Verb {
    Verb::Add(Add { text: text.map(str::to_owned), number, really, what: what.to_owned() })
}

fn pass(really: bool, rest: &str) -> Verb {
    Verb::Pass(Pass { really, env: Vec::new(), rest: rest.split_whitespace().map(str::to_owned).collect() })
}

#[test]
fn lines_that_are_taken() {
    for (line, verb, config) in [
        ("add a", add(None, None, false, "a"), None),
        ("add --text=b a", add(Some("b"), None, false, "a"), None),
        ("add a --text b=c --really", add(Some("b=c"), None, true, "a"), None),
        ("add a --text=--really", add(Some("--really"), None, false, "a"), None),
        ("add a --text --number", add(Some("--number"), None, false, "a"), None),
        ("add a --text --x=y", add(Some("--x=y"), None, false, "a"), None),
        ("add a --text=", add(Some(""), None, false, "a"), None),
        ("add --number 3 -- --a=b", add(None, Some(3), false, "--a=b"), None),
        ("--config c add help", add(None, None, false, "help"), Some("c")),
        ("add --config=c a", add(None, None, false, "a"), Some("c")),
        ("add a --config c", add(None, None, false, "a"), Some("c")),
        ("pass --really a --config c --help", pass(true, "a --config c --help"), None),
        ("pass --config=c a -- -v --x=y", pass(false, "a -- -v --x=y"), Some("c")),
        ("pass a=b", pass(false, "a=b"), None),
        ("pass -- a --help -- -h", pass(false, "a --help -- -h"), None),
        ("pass --really -- --help", pass(true, "--help"), None),
        ("pass", pass(false, ""), None),
    ] {
        assert_eq!(read(line), Ok((Role { verb }, config.map(PathBuf::from))), "{line}");
    }
}

#[test]
fn lines_that_are_refused_with_what_would_be_right() {
    for (line, expected) in [
        ("", "'hakuriver x' needs a command (add, pass); see 'hakuriver x --help'"),
        ("sub a", "unknown command 'sub' (known: add, pass); see 'hakuriver x --help'"),
        ("help", "unknown command 'help' (known: add, pass); see 'hakuriver x --help'"),
        ("add", "missing: WHAT; see 'hakuriver x add --help'"),
        ("add a b", "unexpected argument 'b'; see 'hakuriver x add --help'"),
        ("add a --really=yes", "option '--really' takes no value; see 'hakuriver x add --help'"),
        (
            "add a --nunber 1",
            "unknown option '--nunber' (known: --help, --text, --number, --really, --config); see 'hakuriver x add --help'",
        ),
        (
            "add a -z",
            "unknown option '-z' (known: --help, --text, --number, --really, --config); see 'hakuriver x add --help'",
        ),
        ("add a --number", "no value for option '--number'; see 'hakuriver x add --help'"),
        (
            "add a --number -1",
            "option '--number' with value '-1': invalid digit found in string; see 'hakuriver x add --help'",
        ),
        (
            "add a --number 1 --number 2",
            "option '--number' with value '2': duplicate values provided; see 'hakuriver x add --help'",
        ),
        ("add a --config", "option '--config' needs a path; see 'hakuriver x add --help'"),
        ("--config a add a --config b", "option '--config' is given twice; see 'hakuriver x add --help'"),
    ] {
        assert_eq!(read(line), Err(Exit::Usage(expected.to_owned())), "{line}");
    }
}

#[test]
fn bytes_that_are_no_text_are_for_the_rest_of_a_line_and_for_environments() {
    let raw = raw_text::encode(b"\xff").into_owned();
    for (line, is_taken) in [
        ("pass RAW", true),
        ("pass a RAW --config RAW", true),
        ("pass -- RAW", true),
        ("pass --env RAW a", true),
        ("pass --env=RAW a", true),
        ("pass --config RAW a", false),
        ("pass --config=RAW a", false),
        ("pass --RAW a", false),
        ("RAW a", false),
        ("add RAW", false),
        ("add --text RAW a", false),
        ("add --text=RAW a", false),
    ] {
        match read(&line.replace("RAW", &raw)) {
            Ok(_) => assert!(is_taken, "{line}"),
            Err(Exit::Usage(text)) => {
                assert!(!is_taken && text.contains("is not valid UTF-8: "), "{line}: {text}");
            }
            Err(Exit::Help(_)) => panic!("{line} is no help"),
        }
    }
}

#[test]
fn help_is_help_wherever_it_stands() {
    for (line, expected) in [
        ("--help", "Usage: hakuriver x <command>"),
        ("-h", "Usage: hakuriver x <command>"),
        ("--help add", "Usage: hakuriver x add"),
        ("add --help", "Usage: hakuriver x add"),
        ("add --help --number 1 a", "Usage: hakuriver x add"),
        ("add a -h", "Usage: hakuriver x add"),
    ] {
        let Err(Exit::Help(help)) = read(line) else { panic!("{line} is no help") };
        assert!(help.starts_with(expected), "{line}: {help}");
        assert!(help.contains("\n  --config          path of the configuration file\n  -h, --help "), "{help}");
    }
}

#[test]
fn paragraphs_are_wrapped_and_examples_are_not() {
    let long = format!("{}end", "word ".repeat(30));
    let text = wrapped(&format!("{long}\n\n  {long}\n"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].len() <= 100 && lines[0].ends_with("word") && lines[1].ends_with("end"), "{text}");
    assert_eq!((lines[2], lines[3].trim_start()), ("", long.as_str()));
}
