//! Any text against the grammars of this room. Each is held against a second reading of its own, written as the grammar is told and
//! not as the parser goes.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use super::cpuset::CpuSet;
use super::ids::{EnvName, NodeName, TaskId, TaskName};
use super::raw_text;
use super::size::Bytes;
use super::span::Combinations;
use super::spec::{EnvVar, Mount, UserId, parse_duration};
use super::ssh_key::PublicKey;
use super::target;
use super::text_stream::TextStream;

/// `HOST[:NUMA_ID][::GPU_ID[,GPU_ID…]]`
pub(crate) fn targets(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match target::parse(text) {
        Ok((target, gpus)) => {
            assert!(is_target(text), "{text:?} is no target");
            let ids: Vec<String> = gpus.iter().map(ToString::to_string).collect();
            let printed = if ids.is_empty() { target.to_string() } else { format!("{target}::{}", ids.join(",")) };
            assert_eq!(target::parse(&printed), Ok((target, gpus)), "{text:?} is printed as {printed:?}");
        }
        Err(fault) => {
            assert!(!is_target(text), "{text:?}: {fault}");
            assert_is_one_short_line(&fault.to_string());
        }
    }
}

/// The same by taking it apart from the right.
fn is_target(text: &str) -> bool {
    let is_number = |text: &str| {
        let significant = text.trim_start_matches('0');
        let is_small = significant.len() < 10 || significant.len() == 10 && significant <= "4294967295";
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && is_small
    };
    let (place, gpus) = match text.rsplit_once("::") {
        Some((place, gpus)) => (place, Some(gpus)),
        None => (text, None),
    };
    let are_gpus = gpus.is_none_or(|gpus| {
        let mut ids: Vec<&str> = gpus.split(',').collect();
        let are_numbers = ids.iter().all(|id| is_number(id));
        let count = ids.len();
        ids = ids.iter().map(|id| id.trim_start_matches('0')).collect();
        ids.sort_unstable();
        ids.dedup();
        are_numbers && ids.len() == count
    });
    let (host, numa) = match place.split_once(':') {
        Some((host, numa)) => (host, Some(numa)),
        None => (place, None),
    };
    let ends: Vec<u8> = host.bytes().take(1).chain(host.bytes().next_back()).collect();
    let is_host = (1..=253).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        && ends.iter().all(u8::is_ascii_alphanumeric);
    is_host && numa.is_none_or(is_number) && are_gpus
}

/// One word in every other grammar that users, nodes and files write: what is taken and printed again is taken as the same.
pub(crate) fn words(bytes: &[u8]) {
    // Any bytes come back from the text that stands for them, also when they were cut.
    let encoded = raw_text::encode(bytes);
    assert_eq!(raw_text::decode(&encoded), bytes);
    let mut stream = TextStream::default();
    let step = usize::from(bytes.first().copied().unwrap_or(0) % 5) + 1;
    let mut joined: String = bytes.chunks(step).map(|piece| stream.take(piece)).collect();
    joined.push_str(&stream.give_up());
    assert_eq!(raw_text::decode(&joined), bytes, "cut into pieces of {step}");

    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _any = raw_text::decode(text);
    let size: Option<Bytes> = comes_back(text);
    assert!(size.is_none_or(|size| size.0 > 0 && i64::try_from(size.0).is_ok()));
    let _id: Option<TaskId> = comes_back(text);
    let cpus: Option<CpuSet> = comes_back(text);
    assert!(cpus.is_none_or(|cpus| cpus.iter().all(|cpu| cpu <= CpuSet::MAX_ID)));
    let user: Option<UserId> = comes_back(text);
    assert!(user.is_none_or(|user| user.uid != u32::MAX && user.gid != Some(u32::MAX)));
    if let Some(mount) = comes_back::<Mount>(text) {
        for path in [&mount.host, &mount.container] {
            assert!(path.starts_with('/') && !path.contains("//") && !path.contains(['\0', '\n', ',', '"', ':']));
            assert!(!path.split('/').any(|part| matches!(part, ".." | ".")), "{path:?}");
        }
        assert!(mount.container != "/" && !format!("{}/", mount.container).starts_with("/.hakuriver/"), "{mount}");
    }
    // All of these become names of files, containers and images.
    for name in [
        comes_back::<NodeName>(text).map(|name| name.to_string()),
        comes_back::<TaskName>(text).map(|name| name.to_string()),
        comes_back::<EnvName>(text).map(|name| name.to_string()),
    ] {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!(name.is_none_or(|name| name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(is_plain)));
    }
    if let Ok(variable) = text.parse::<EnvVar>() {
        assert_eq!(text.split_once('='), Some((variable.name.as_str(), variable.value.as_str())));
        assert!(!variable.name.is_empty() && !variable.value.contains('\0'));
    }
    if let Ok(duration) = parse_duration(text) {
        assert!((1..=365 * 86_400).contains(&duration.as_secs()), "{text:?}");
        assert_eq!(parse_duration(&duration.as_secs().to_string()), Ok(duration));
    }
}

fn comes_back<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            assert_eq!(printed.parse().ok().as_ref(), Some(&value), "{text:?} is printed as {printed:?}");
            Some(value)
        }
        Err(fault) => {
            assert_is_one_short_line(&fault.to_string());
            None
        }
    }
}

/// A line of arguments, one on each line of the text.
pub(crate) fn spans(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let arguments: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let combinations = match Combinations::of(&arguments) {
        Ok(combinations) => combinations,
        Err(fault) => return assert_is_one_short_line(&fault.to_string()),
    };
    let count = combinations.count();
    let (first, last) = (combinations.get(0), combinations.get(count - 1));
    assert_eq!(combinations.get(count), None);
    let (Some(first), Some(last)) = (first, last) else { panic!("{count} combinations, and no first or last") };
    let is_span = |argument: &String| argument.starts_with("span:{") || argument.starts_with("span:[");
    for (at, argument) in arguments.iter().enumerate() {
        assert!(is_span(argument) || (first[at] == *argument && last[at] == *argument), "{argument:?} was changed");
        assert!(!is_span(argument) || !first[at].is_empty(), "{argument:?} stands for nothing");
    }
    if !arguments.iter().any(is_span) {
        assert_eq!(count, 1);
    }
    if count <= 64 {
        assert_eq!(combinations.iter().count() as u64, count);
    }
}

/// A text with public keys, and each of its lines alone.
pub(crate) fn ssh_keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let keys = match PublicKey::parse_all(text) {
        Ok(keys) => keys,
        Err(fault) => {
            assert_is_one_short_line(&fault.to_string());
            text.lines().filter_map(|line| PublicKey::parse(line).ok()).collect()
        }
    };
    assert!(keys.len() <= 64 || PublicKey::parse_all(text).is_err());
    for key in keys {
        // It becomes a line of authorized_keys and of known_hosts: nothing in it may be a second line, or an option.
        let line = key.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.starts_with(key.algorithm()) && line.len() <= 8_192 + 1_024, "{line:?}");
        assert_eq!(PublicKey::parse(&line), Ok(key));
    }
}

/// What a user or a log reads.
fn assert_is_one_short_line(text: &str) {
    assert!(text.len() < 2_000 && !text.contains(['\n', '\r', '\x1b', '\0']), "{text:?}");
}
