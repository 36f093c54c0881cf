//! Any bytes as JSON: what the guard lets through is read by everything behind it, or refused by the field's name; and what was read
//! and is written is read as the same.

use nanoserde::{DeJson, SerJson};

use super::value::Value;
use super::{JsonFault, decode, encode, guard};
use crate::api::environment::{ContainerRow, CreateBody, PackAnswer, PackBody, ProgressLine, Tarballs};
use crate::api::node::{
    DesiredAnswer, Heartbeat, HeartbeatAnswer, Observed, ObservedAnswer, OutputHave, Register, Registered,
};
use crate::api::public::{ErrorBody, EventData, Message, NodeRow, TaskRecord, Version};
use crate::api::{submit, terminal};

/// Every type that travels.
pub(crate) fn every_type(bytes: &[u8]) {
    let is_valid = tree(bytes);
    assert_eq!(is_valid, !matches!(submit::decode(bytes), Err(JsonFault::Malformed(_))));
    wire::<Register>(bytes, is_valid);
    wire::<Registered>(bytes, is_valid);
    wire::<Heartbeat>(bytes, is_valid);
    wire::<HeartbeatAnswer>(bytes, is_valid);
    wire::<Observed>(bytes, is_valid);
    wire::<ObservedAnswer>(bytes, is_valid);
    wire::<OutputHave>(bytes, is_valid);
    wire::<DesiredAnswer>(bytes, is_valid);
    wire::<TaskRecord>(bytes, is_valid);
    wire::<Vec<NodeRow>>(bytes, is_valid);
    wire::<EventData>(bytes, is_valid);
    wire::<Message>(bytes, is_valid);
    wire::<ErrorBody>(bytes, is_valid);
    wire::<Version>(bytes, is_valid);
    wire::<Vec<ContainerRow>>(bytes, is_valid);
    wire::<CreateBody>(bytes, is_valid);
    wire::<PackBody>(bytes, is_valid);
    wire::<PackAnswer>(bytes, is_valid);
    wire::<ProgressLine>(bytes, is_valid);
    wire::<Tarballs>(bytes, is_valid);
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
