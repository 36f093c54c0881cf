//! What `vps submit` and `task submit` share: from options to the request, and the request to the Host.

pub(super) mod request;

use std::time::{Duration, Instant};

use super::fault::Fault;
use super::host_api::{Host, decode};
use crate::api::json;
use crate::api::public::{SubmitAnswer, SubmitBody};
use crate::net::http_client::ClientFault;

/// How long a call that broke is repeated.
const REPEAT_FOR: Duration = Duration::from_secs(30);
/// One call: a Host that waits for its disk may take this long.
const CALL_TIME: Duration = Duration::from_secs(20);
/// Bytes of a request that may take a second more.
const BYTES_A_SECOND: usize = 256 << 10;
/// What the Host takes in one request, in bytes.
const LARGEST: usize = 16 << 20;

/// The Host's answer, understood and as it came.
pub(super) struct Answered {
    pub(super) answer: SubmitAnswer,
    pub(super) json: Vec<u8>,
}

/// Sends it, again if the connection broke: by its key the Host knows a repetition from a second submission. At least one task was
/// accepted then. `look` says where to look for what may have been accepted.
///
/// # Errors
/// See [`Fault`].
pub(super) fn send(host: &Host, mut body: SubmitBody, look: &str) -> Result<Answered, Fault> {
    const PATH: &str = "/submit";
    body.idempotency_key = Some(crate::sys::random::hex(16));
    let text = json::encode(&body);
    if text.len() > LARGEST {
        return Err(Fault::Usage(format!(
            "this submission has {} bytes, and the Host takes {LARGEST}: submit it in parts, or put what is long into a file",
            text.len()
        )));
    }
    let call_time = CALL_TIME + Duration::from_secs((text.len() / BYTES_A_SECOND) as u64);
    let begin = Instant::now();
    let (mut pause, mut may_have_acted) = (Duration::from_millis(200), false);
    loop {
        match host.client().call("POST", PATH, Some(&text), call_time) {
            Ok(answer) => {
                let json = host.success(answer)?;
                let answer: SubmitAnswer = decode(PATH, &json)?;
                if answer.task_ids.is_empty() {
                    return Err(Fault::Refused([refused(&answer), vec![answer.message]].concat().join("\n")));
                }
                return Ok(Answered { answer, json });
            }
            Err(fault) => {
                may_have_acted |= matches!(fault, ClientFault::Broken { .. });
                // A Host that was never there needs no second try; one that went away may be restarting.
                if !may_have_acted {
                    return Err(host.unreachable(&fault));
                }
                if begin.elapsed() + pause > REPEAT_FOR {
                    let hint = format!("whether this was accepted is not known: see '{look}' when the Host is back");
                    return Err(Fault::Unreachable(format!("{fault}\n{hint}")));
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// A line for each target that was refused.
pub(super) fn refused(answer: &SubmitAnswer) -> Vec<String> {
    answer.failed_targets.iter().map(|failed| format!("{}: {}", failed.target, failed.reason)).collect()
}
