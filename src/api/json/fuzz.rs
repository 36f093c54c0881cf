//! Any bytes as JSON: what the guard lets through is read by everything behind it, or refused by the field's name; and what was read
//! and is written is read as the same.

use nanoserde::{DeJson, SerJson};

use super::value::Value;
use super::{JsonFault, decode, encode, guard};
use crate::api::environment::{ContainerRow, CreateBody, PackAnswer, PackBody, ProgressLine, Tarballs};
use crate::api::node::{
    DesiredAnswer, Heartbeat, HeartbeatAnswer, Observed, ObservedAnswer, OutputHave, Register, Registered,
};
use crate::api::public::{
    ErrorBody, EventData, HealthHistory, HealthRow, Message, NodeRow, SubmitAnswer, TaskRecord, TaskRow, Version,
    VpsRow,
};
use crate::api::{submit, terminal};

/// A function that tries all of them, and a list for the test that looks for those that are missing.
macro_rules! bodies {
    ($($body:ty,)*) => {
        /// Every type that travels.
        pub(crate) fn every_type(bytes: &[u8]) {
            let is_valid = tree(bytes);
            assert_eq!(is_valid, !matches!(submit::decode(bytes), Err(JsonFault::Malformed(_))));
            $(wire::<$body>(bytes, is_valid);)*
        }

        /// As they are written above, and whether such a one, with something in it, is read from these bytes.
        #[cfg(test)]
        const BODIES: &[(&str, fn(&[u8]) -> bool)] =
            &[$((stringify!($body), |bytes| decode::<$body>(bytes).is_ok_and(|body| encode(&body).len() > 2))),*];
    };
}

// Each as it is a whole body, or a whole line of one; what is part of one of these is tried with it.
bodies! {
    Register,
    Registered,
    Heartbeat,
    HeartbeatAnswer,
    Observed,
    ObservedAnswer,
    OutputHave,
    DesiredAnswer,
    SubmitAnswer,
    TaskRecord,
    Vec<TaskRow>,
    Vec<VpsRow>,
    Vec<NodeRow>,
    Vec<HealthRow>,
    HealthHistory,
    EventData,
    Message,
    ErrorBody,
    Version,
    Vec<ContainerRow>,
    CreateBody,
    PackBody,
    PackAnswer,
    ProgressLine,
    Tarballs,
}

/// Read, written, read and written again: from then on it stays the same. Whether it was read.
pub(crate) fn wire<T: DeJson + SerJson>(bytes: &[u8], is_valid: bool) -> bool {
    match decode::<T>(bytes) {
        Ok(value) => {
            assert!(is_valid);
            let text = encode(&value);
            let again = decode::<T>(text.as_bytes()).unwrap_or_else(|fault| panic!("{text} was written: {fault}"));
            assert_eq!(encode(&again), text);
            true
        }
        Err(JsonFault::Malformed(why)) => {
            assert!(!is_valid, "the guard lets it through: {why}");
            false
        }
        Err(JsonFault::Field { message, .. }) => {
            assert!(is_valid && !message.is_empty());
            false
        }
    }
}

/// The text as a tree. Whether it is JSON.
pub(crate) fn tree(bytes: &[u8]) -> bool {
    let checked = guard::check(bytes).is_ok();
    match Value::parse(bytes) {
        Ok(value) => {
            assert!(checked);
            let mut text = String::new();
            print(&value, &mut text);
            assert_eq!(Value::parse(text.as_bytes()).as_ref(), Ok(&value), "{text}");
        }
        Err(fault) => assert!(!checked && matches!(fault, JsonFault::Malformed(_)), "{fault}"),
    }
    checked
}

fn print(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Int(number) => text.push_str(&number.to_string()),
        // With an exponent, so that it stays no whole number.
        Value::Float(number) => text.push_str(&format!("{number:e}")),
        Value::Text(plain) => text.push_str(&encode(plain)),
        Value::List(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                print(item, text);
            }
            text.push(']');
        }
        Value::Object(object) => {
            text.push('{');
            for (at, (name, item)) in object.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { "," });
                text.push_str(&encode(&name.to_owned()));
                text.push(':');
                print(item, text);
            }
            text.push('}');
        }
    }
}

/// A terminal's messages, both ways.
pub(crate) fn terminal(text: &str) {
    if let Ok(Some(frame)) = terminal::ToShell::decode(text) {
        let again = match &frame {
            terminal::ToShell::Input(bytes) => terminal::ToShell::input(&crate::domain::raw_text::encode(bytes)),
            terminal::ToShell::Resize(size) => {
                assert!(size.rows > 0 && size.cols > 0);
                terminal::ToShell::resize(*size)
            }
        };
        assert_eq!(terminal::ToShell::decode(&again), Ok(Some(frame)));
    }
    if let Ok(Some(frame)) = terminal::FromShell::decode(text) {
        let again = match &frame {
            terminal::FromShell::Output(bytes) => terminal::FromShell::output(&crate::domain::raw_text::encode(bytes)),
            terminal::FromShell::Error(why) => terminal::FromShell::error(why),
        };
        assert_eq!(terminal::FromShell::decode(&again), Ok(Some(frame)));
    }
    if let Some(code) = terminal::exit_code(text) {
        assert!(terminal::exit_code(&terminal::exit_reason(code.into())) == Some(code));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Tried elsewhere: by [`terminal`], through the functions that alone know of it.
    const ELSEWHERE: [&str; 1] = ["Incoming"];

    fn words(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn files(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = fs::read_dir(&folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
        entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file()).collect()
    }

    /// The types of `src/api` that can be decoded and the names that such a type is given, each with the words of its body.
    fn declared() -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
        let (mut decoded, mut bodies) = (BTreeSet::new(), BTreeMap::new());
        for path in files("src/api") {
            let text = fs::read_to_string(&path).expect("readable");
            let mut derives = false;
            for (at, line) in
                text.match_indices('\n').map(|(at, _)| (at + 1, text[at + 1..].lines().next().unwrap_or("")))
            {
                if line.starts_with("#[derive(") {
                    derives = words(line).contains("DeJson");
                }
                let line = line.trim_start_matches("pub ");
                let Some((kind, rest)) =
                    line.split_once(' ').filter(|(kind, _)| ["struct", "enum", "type"].contains(kind))
                else {
                    continue;
                };
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                let end = if kind == "type" { ";" } else { "\n}" };
                let body = text[at..].split(end).next().unwrap_or_default();
                if kind != "type" && std::mem::take(&mut derives) {
                    decoded.insert(name.clone());
                }
                let code = body.lines().filter(|line| !line.trim_start().starts_with("//"));
                bodies.insert(name, code.flat_map(words).collect());
            }
        }
        (decoded, bodies)
    }

    #[test]
    fn every_type_that_can_be_decoded_is_tried() {
        let (decoded, bodies) = declared();
        assert!(decoded.len() > 40, "the declarations were not found: {decoded:?}");
        let mut tried: BTreeSet<String> = BODIES.iter().flat_map(|(name, _)| words(name)).collect();
        let mut open: Vec<String> = tried.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let parts = bodies.get(&name).into_iter().flatten().filter(|part| bodies.contains_key(*part));
            open.extend(parts.filter(|part| tried.insert((*part).clone())).cloned().collect::<Vec<_>>());
        }
        tried.extend(ELSEWHERE.map(str::to_owned));
        let missing: Vec<&String> = decoded.difference(&tried).collect();
        assert!(missing.is_empty(), "add these to the list, with an input in fuzz/corpus/json: {missing:?}");
    }

    #[test]
    fn every_type_has_an_input_to_begin_with() {
        let inputs: Vec<Vec<u8>> =
            files("fuzz/corpus/json").iter().map(|path| fs::read(path).expect("readable")).collect();
        let is_there = |reads: &fn(&[u8]) -> bool| inputs.iter().any(|bytes| reads(bytes));
        let missing: Vec<&str> = BODIES.iter().filter(|(_, reads)| !is_there(reads)).map(|(name, _)| *name).collect();
        assert!(missing.is_empty(), "no input in fuzz/corpus/json is one of {missing:?}");
    }
}
