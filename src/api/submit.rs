//! The body of `POST /submit` as the Host understands it: lenient as to form (absent and null are the default), strict as
//! to type. What the texts mean is for the domain to say.

use super::json::{JsonFault, Value, value};

/// What was asked for, not yet parsed into the domain's types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubmitRequest {
    /// `command` (the default) or `vps`, or whatever else stood there.
    pub task_type: String,
    /// The program; for a VPS the public keys, one a line.
    pub command: String,
    pub arguments: Vec<String>,
    /// In the order given.
    pub env_vars: Vec<(String, String)>,
    pub required_cores: Option<u32>,
    pub required_memory_bytes: Option<u64>,
    /// One list a target.
    pub required_gpus: Vec<Vec<u32>>,
    /// Empty = the Host chooses.
    pub targets: Vec<String>,
    pub container_name: Option<String>,
    pub privileged: Option<bool>,
    pub additional_mounts: Option<Vec<String>>,
    pub name: Option<String>,
    pub gpu_count: Option<u32>,
    pub immediate: bool,
    pub queue: bool,
    pub max_wait_seconds: Option<u64>,
    pub time_limit_seconds: Option<u64>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    /// One task each.
    pub argument_sets: Option<Vec<Vec<String>>>,
    pub idempotency_key: Option<String>,
}

/// Decodes the body.
///
/// # Errors
/// Malformed JSON (400), or a field of the wrong type (422 with its name).
pub fn decode(body: &[u8]) -> Result<SubmitRequest, JsonFault> {
    let mut object = Value::parse(body)?.into_object("(body)")?;
    let small = u64::from(u32::MAX);
    let size = i64::MAX as u64;
    let env_vars = match object.take("env_vars") {
        None => Vec::new(),
        Some(value) => {
            let pair = |(name, value)| {
                let value = value::text(&format!("env_vars.{name}"), value)?;
                Ok((name, value))
            };
            value.into_object("env_vars")?.into_iter().map(pair).collect::<Result<_, JsonFault>>()?
        }
    };
    let texts = |field: &str, item: Value| value::list(field, item, value::text);
    let gpu = |field: &str, item: Value| value::number(field, item, small).map(narrow);
    // 0.3 sends null for a target without GPUs.
    let gpus = |field: &str, item: Value| match item {
        Value::Null => Ok(Vec::new()),
        item => value::list(field, item, gpu),
    };
    Ok(SubmitRequest {
        task_type: object.text("task_type")?.unwrap_or_else(|| "command".to_owned()),
        command: object.text("command")?.unwrap_or_default(),
        arguments: object.list("arguments", value::text)?.unwrap_or_default(),
        env_vars,
        required_cores: object.number("required_cores", small)?.map(narrow),
        required_memory_bytes: object.number("required_memory_bytes", size)?,
        required_gpus: object.list("required_gpus", gpus)?.unwrap_or_default(),
        targets: object.list("targets", value::text)?.unwrap_or_default(),
        container_name: object.text("container_name")?,
        privileged: object.flag("privileged")?,
        additional_mounts: object.list("additional_mounts", value::text)?,
        name: object.text("name")?,
        gpu_count: object.number("gpu_count", small)?.map(narrow),
        immediate: object.flag("immediate")?.unwrap_or(false),
        queue: object.flag("queue")?.unwrap_or(false),
        max_wait_seconds: object.number("max_wait_seconds", size)?,
        time_limit_seconds: object.number("time_limit_seconds", size)?,
        workdir: object.text("workdir")?,
        user: object.text("user")?,
        argument_sets: object.list("argument_sets", texts)?,
        idempotency_key: object.text("idempotency_key")?,
    })
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).expect("bounded by the getter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_unknown_fields_are_taken() {
        let request = decode(
            br#"{"task_type":"vps","command":"ssh-ed25519 A","targets":null,"required_gpus":[null,[0,1]],"x":1}"#,
        )
        .expect("valid");
        assert_eq!(request.task_type, "vps");
        assert_eq!(request.required_gpus, vec![vec![], vec![0, 1]]);
        assert_eq!((request.targets.len(), request.required_cores), (0, None));
        assert_eq!(decode(b"{}").expect("valid").task_type, "command");
    }

    #[test]
    fn wrong_types_are_422_and_name_the_field() {
        for (body, field) in [
            (r#"{"required_cores":"4"}"#, "required_cores"),
            (r#"{"required_cores":-1}"#, "required_cores"),
            (r#"{"required_cores":1.5}"#, "required_cores"),
            (r#"{"targets":"node1"}"#, "targets"),
            (r#"{"targets":["a",5]}"#, "targets[1]"),
            (r#"{"env_vars":{"A":1}}"#, "env_vars.A"),
            (r#"{"env_vars":[]}"#, "env_vars"),
            (r#"{"privileged":"yes"}"#, "privileged"),
            (r#"{"required_gpus":[0]}"#, "required_gpus[0]"),
            (r#"[]"#, "(body)"),
        ] {
            match decode(body.as_bytes()) {
                Err(JsonFault::Field { field: found, .. }) => assert_eq!(found, field, "{body}"),
                other => panic!("{body} gave {other:?}"),
            }
        }
    }
}
