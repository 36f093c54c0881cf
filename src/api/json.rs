//! The only door to nanoserde, which is unsafe on foreign bytes: it panics on some, loops for ever on others, and
//! wraps large integers. So every text is checked first ([`guard`]: RFC 8259, iterative, bounded depth, nothing trailing).

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod guard;
pub(crate) mod value;

use std::borrow::Cow;
use std::fmt;

use nanoserde::{DeJson, DeJsonErr, DeJsonErrReason, SerJson};

pub use value::{Object, Value};

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// Not JSON, or deeper than allowed: a 400.
    Malformed(String),
    /// JSON, but a field has the wrong type or is missing: a 422 that names the field.
    Field { field: String, message: String },
}

impl JsonFault {
    /// The HTTP status that tells it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Field { .. } => 422,
        }
    }
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(message) => write!(f, "the body is not valid JSON: {message}"),
            Self::Field { field, message } => write!(f, "field '{field}': {message}"),
        }
    }
}

/// Checks and decodes. Unknown fields are passed over; a missing Option is None.
///
/// # Errors
/// See [`JsonFault`].
pub fn decode<T: DeJson>(bytes: &[u8]) -> Result<T, JsonFault> {
    let text = plus_signs_removed(guard::check(bytes)?);
    T::deserialize_json(&text).map_err(|fault| field_fault(&text, &fault))
}

/// nanoserde does not know the sign in `1e+3` (which Python writes for large numbers): `1e03` is the same, and as long.
fn plus_signs_removed(text: &str) -> Cow<'_, str> {
    if !text.contains("e+") && !text.contains("E+") {
        return Cow::Borrowed(text);
    }
    let (mut in_string, mut is_escaped, mut before) = (false, false, ' ');
    let replaced = text.chars().map(|char| {
        let is_sign = !in_string && char == '+' && matches!(before, 'e' | 'E');
        if char == '"' && !is_escaped {
            in_string = !in_string;
        }
        is_escaped = in_string && char == '\\' && !is_escaped;
        before = char;
        if is_sign { '0' } else { char }
    });
    Cow::Owned(replaced.collect())
}

/// Encodes.
pub fn encode<T: SerJson>(value: &T) -> String {
    value.serialize_json()
}

/// nanoserde tells a place; a user needs the field.
fn field_fault(text: &str, fault: &DeJsonErr) -> JsonFault {
    let message = match &fault.msg {
        DeJsonErrReason::MissingKey(name) => {
            return JsonFault::Field { field: name.clone(), message: "it is missing".to_owned() };
        }
        DeJsonErrReason::UnexpectedToken(found, expected) => {
            format!("expected {}, found {}", expected.trim(), token_word(found))
        }
        DeJsonErrReason::OutOfRange(what) => format!("the number is out of range ({what})"),
        other => format!("cannot be read: {other:?}"),
    };
    let field = guard::key_before(text, fault.line, fault.col).unwrap_or("(body)").to_owned();
    JsonFault::Field { field, message }
}

fn token_word(token: &nanoserde::DeJsonTok) -> &'static str {
    use nanoserde::DeJsonTok as Tok;
    match token {
        Tok::Str => "a string",
        Tok::U64(_) | Tok::I64(_) => "a whole number",
        Tok::F64(_) => "a number with a fraction or exponent",
        Tok::Bool(_) => "true or false",
        Tok::Null => "null",
        Tok::CurlyOpen => "an object",
        Tok::BlockOpen => "a list",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node::{Heartbeat, Observed, Register, Usage};
    use crate::api::public::Message;

    fn field(text: &str) -> String {
        match decode::<Observed>(text.as_bytes()) {
            Err(JsonFault::Field { field, .. }) => field,
            other => panic!("{text} gave {other:?}"),
        }
    }

    #[test]
    fn what_makes_nanoserde_panic_or_loop_is_refused_before_it() {
        for text in [
            "{\"x\":}",
            "{\"x\":[",
            "{\"x\":",
            "{",
            "[",
            "",
            " ",
            "{\"session\":\"a\",}",
            "{'a':1}",
            "{\"a\":1}x",
            "/* */{}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":nul}",
            "\u{feff}{}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\0\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":99999999999999999999}",
            "{\"a\":9223372036854775808}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
        ] {
            assert!(matches!(decode::<Observed>(text.as_bytes()), Err(JsonFault::Malformed(_))), "{text}");
        }
        let deep = "[".repeat(10_000);
        assert!(matches!(decode::<Observed>(deep.as_bytes()), Err(JsonFault::Malformed(_))));
        assert!(matches!(decode::<Observed>(b"{\"a\":\"\xff\"}"), Err(JsonFault::Malformed(_))));
    }

    #[test]
    fn wrong_types_name_their_field() {
        assert_eq!(field(r#"{"session":5,"complete":true,"tasks":[]}"#), "session");
        assert_eq!(field(r#"{"session":"s","complete":"yes","tasks":[]}"#), "complete");
        assert_eq!(field(r#"{"session":"s","tasks":[]}"#), "complete");
        let task = |attempt: &str, port: &str| {
            format!(
                r#"{{"session":"s","complete":true,"tasks":[{{"task_id":"1","attempt":{attempt},"rev":1,"state":"running","ssh_port":{port}}}]}}"#
            )
        };
        for bad in ["-1", "1.5", "1e3", "\"1\"", "4294967296", "null", "[]", "{}", "true"] {
            assert_eq!(field(&task(bad, "1")), "attempt", "{bad}");
        }
        assert_eq!(field(&task("1", "65536")), "ssh_port");
        assert!(decode::<Observed>(task("1", "null").as_bytes()).is_ok());
    }

    #[test]
    fn unknown_fields_are_passed_over_and_missing_options_are_none() {
        let text = r#"{"x":{"y":[1,{"z":null}],"w":-1.5e-3},"hostname":"n","instance":"i","machine_id":"m","boot_id":"b",
            "version":"1","inventory":{"cpus":"0","memory_bytes":1,"siblings":[],"numa":[],"gpus":[],"more":[]}}"#;
        let register: Register = decode(text.as_bytes()).expect("it is whole");
        assert_eq!((register.hostname.as_str(), register.address), ("n", None));
    }

    #[test]
    fn numbers_of_every_form_are_taken() {
        for (text, expected) in [("1e+3", 1000.0), ("1E+3", 1000.0), ("1e3", 1000.0), ("2.5e-1", 0.25), ("-0", 0.0)] {
            let usage: Usage = decode(format!(r#"{{"e+1":"e+1","cpu_percent":{text}}}"#).as_bytes())
                .unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(usage.cpu_percent, Some(expected), "{text}");
        }
        // Also where nobody reads it.
        let message: Message = decode(br#"{"x":[1e+16],"message":"1e+3 \" 1e+3"}"#).expect("valid");
        assert_eq!(message.message, "1e+3 \" 1e+3");
    }

    #[test]
    fn more_values_than_any_request_has_are_refused() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(guard::check(list((4 << 20) - 1).as_bytes()).is_ok());
        let fault = guard::check(list(4 << 20).as_bytes()).expect_err("too many").to_string();
        assert!(fault.contains("more than 4194304 values"), "{fault}");
    }

    #[test]
    fn many_keys_cost_no_more_than_their_bytes() {
        let object = format!("{{{}}}", (0..4_000).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(","));
        let list = format!("[{}]", vec![object; 200].join(","));
        let started = std::time::Instant::now();
        guard::check(list.as_bytes()).expect("valid");
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }

    /// Each field of a real body in turn gets each wrong type: what is refused, and with it the field's name.
    #[test]
    fn every_field_of_real_bodies_is_named_in_every_layout() {
        let good = r#"{"session":"é😀","usage":{"cpu_percent":1.5,"memory_used_bytes":5},"gpu_info":[{"gpu_id":0,"name":"n",
            "driver_version":"","pci_bus_id":"","gpu_utilization":-1,"graphics_clock_mhz":1,"mem_utilization":1,
            "mem_clock_mhz":1,"memory_total_mib":1,"memory_used_mib":1,"memory_free_mib":1,"temperature":1,"fan_speed":1,
            "power_usage_mw":1,"power_limit_mw":1}],"conditions":{"docker":true,"systemd":true,"memory_limit":true,
            "freezer":false}}"#;
        decode::<Heartbeat>(good.as_bytes()).expect("valid");
        let wrong: [(&str, &str, &[&str]); 10] = [
            (r#""session":"é😀""#, "session", &["5", "null", "[]", "{}", "true", "-1", "1.5"]),
            (r#""cpu_percent":1.5"#, "cpu_percent", &["\"5\"", "[]", "{}", "true", "[{\"x\":1}]"]),
            (r#""memory_used_bytes":5"#, "memory_used_bytes", &["-1", "1.5", "1e3", "\"5\"", "[5]", "{}", "false"]),
            (r#""gpu_id":0"#, "gpu_id", &["-1", "4294967296", "1.0", "\"0\"", "null", "[0]", "{\"y\":0}"]),
            (r#""gpu_utilization":-1"#, "gpu_utilization", &["1.5", "1e3", "\"-1\"", "null", "true"]),
            (r#""power_limit_mw":1"#, "power_limit_mw", &["1.5", "\"1\"", "null", "{}"]),
            (r#""docker":true"#, "docker", &["1", "\"true\"", "null", "[]", "0.5"]),
            (r#""freezer":false"#, "freezer", &["0", "\"\"", "null", "{}"]),
            (r#""usage":{"cpu_percent":1.5,"memory_used_bytes":5}"#, "usage", &["5", "null", "[]", "\"x\"", "true"]),
            (r#""driver_version":"""#, "driver_version", &["5", "null", "[\"a\"]", "1e400".split_at(3).0]),
        ];
        for (part, name, values) in wrong {
            assert!(good.contains(part), "{part}");
            for value in values {
                let plain = good.replacen(part, &format!("\"{name}\":{value}"), 1);
                let spread = plain.replace(':', " :\r\n\t ").replace(',', "\n ,\n");
                let dense = plain.replace(['\n', ' '], "");
                for text in [plain, spread, dense] {
                    match decode::<Heartbeat>(text.as_bytes()) {
                        Err(JsonFault::Field { field, .. }) => assert_eq!(field, name, "{text}"),
                        other => panic!("{text} gave {other:?}"),
                    }
                }
            }
        }
    }

    /// Bytes of real bodies changed at random (the same ones in each run): nothing panics or hangs, and what the guard lets
    /// through, every reader behind it can read or refuses by name.
    #[test]
    fn broken_bodies_are_refused_and_do_no_harm() {
        let seeds: [&[u8]; 3] = [
            br#"{"session":"s\"\u00e9","complete":true,"tasks":[{"task_id":"1","attempt":1,"rev":-2,"state":"x","y":[{}]}]}"#,
            br#"{"session":"s","usage":{"cpu_percent":1.5e+1,"max_temp":null},"gpu_info":[],"conditions":{"docker":false}}"#,
            br#"{"task_type":"vps","env_vars":{"A":"\ud83d\ude00"},"required_gpus":[[0,1],null],"targets":["a:0"],"x":-0.5}"#,
        ];
        let pieces: [&[u8]; 16] = [
            b"{", b"}", b"[", b"]", b",", b":", b"\"", b"\\", b"\\u", b"null", b"-", b"1e+", b"/*", b"\0", b"\xff",
            b" ",
        ];
        let mut state = 7_u64;
        let mut random = |below: usize| {
            // The generator of Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..30_000 {
            let mut bytes = seeds[random(seeds.len())].to_vec();
            for _ in 0..=random(3) {
                let (at, piece) = (random(bytes.len()), pieces[random(pieces.len())]);
                match random(4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => drop(bytes.splice(at..at, piece.iter().copied())),
                    2 => drop(bytes.remove(at.min(bytes.len() - 2))),
                    _ => bytes[at] = piece[0],
                }
                if bytes.len() < 2 {
                    bytes.extend_from_slice(b"{}");
                }
            }
            let valid = guard::check(&bytes).is_ok();
            for malformed in [
                matches!(Value::parse(&bytes), Err(JsonFault::Malformed(_))),
                matches!(crate::api::submit::decode(&bytes), Err(JsonFault::Malformed(_))),
                matches!(decode::<Observed>(&bytes), Err(JsonFault::Malformed(_))),
                matches!(decode::<Heartbeat>(&bytes), Err(JsonFault::Malformed(_))),
            ] {
                assert_eq!(malformed, !valid, "{}", String::from_utf8_lossy(&bytes));
            }
            if valid { taken += 1 } else { refused += 1 }
        }
        assert!(taken > 1_000 && refused > 10_000, "{taken} valid and {refused} broken: the test tries too little");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut heartbeat = Heartbeat { session: "a\"\\\n\t\u{1}\u{7f}é😀".to_owned(), ..Heartbeat::default() };
        heartbeat.usage.cpu_percent = Some(12.5);
        heartbeat.usage.memory_used_bytes = Some(1 << 40);
        let text = encode(&heartbeat);
        let back: Heartbeat = decode(text.as_bytes()).expect(&text);
        assert_eq!((back.session, back.usage.cpu_percent), (heartbeat.session, Some(12.5)));
        assert_eq!(back.usage.memory_total_bytes, None);
    }
}
