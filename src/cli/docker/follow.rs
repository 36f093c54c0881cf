//! A call that takes long: the Host tells how far it is, a line a step.

use std::io::{BufRead as _, BufReader, Read};
use std::time::Duration;

use crate::api::environment::ProgressLine;
use crate::api::json;
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::output::Progress;

/// The Host says something every fifteen seconds, if only that it lives.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a line at most.
const LONGEST: u64 = 1 << 20;

/// What the Host said in the end. What it says meanwhile is shown. `look` is the command that shows whether it was carried out.
pub(super) fn post(host: &Host, path: &str, body: &str, look: &str) -> Result<ProgressLine, Fault> {
    let path = format!("{path}?progress=1");
    let answer = host.client().post_stream(&path, body, SILENCE);
    let (status, stream) = answer.map_err(|fault| host.unanswered(&fault, look))?;
    if status != 200 {
        let mut body = Vec::new();
        let _cut = stream.take(LONGEST).read_to_end(&mut body);
        host.success(crate::net::http_client::Answer { status, body })?;
        return Err(Fault::Refused(format!("the Host's answer to {path} is not understood (HTTP status {status})")));
    }
    read(stream, &mut Progress::default())
}

fn read(stream: impl Read, progress: &mut Progress) -> Result<ProgressLine, Fault> {
    let mut stream = BufReader::new(stream);
    let broken = |reason: &str| {
        let text = format!(
            "the connection to the Host broke ({reason}); what was begun there goes on, unless the Host has ended"
        );
        Fault::Refused(text)
    };
    loop {
        let mut text = Vec::new();
        let read = (&mut stream).take(LONGEST).read_until(b'\n', &mut text);
        match read {
            Ok(0) => return Err(broken("it ended too early")),
            Err(fault) => return Err(broken(&fault.to_string())),
            Ok(_) if text.trim_ascii().is_empty() => continue,
            Ok(_) => {}
        }
        let line: ProgressLine =
            json::decode(&text).map_err(|fault| broken(&format!("it said what is not understood: {fault}")))?;
        match (&line.progress, line.status) {
            (Some(step), _) => progress.show(step),
            (None, Some(200..=299)) => return Ok(line),
            (None, _) => {
                return Err(Fault::Refused(line.detail.unwrap_or_else(|| "the Host gave no reason".to_owned())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_answer() {
        let read = |text: &str| read(text.as_bytes(), &mut Progress::default());
        let step = r#"{"progress":"saving (1%)","status":null,"message":null,"tarball_path":null,"detail":null}"#;
        let done =
            read(&format!("{step}\n\n{{\"status\":200,\"message\":\"m\",\"tarball_path\":\"/t\"}}\n")).expect("done");
        assert_eq!((done.message.as_deref(), done.tarball_path.as_deref()), (Some("m"), Some("/t")));
        let refused = read("{\"status\":404,\"detail\":\"no such thing\"}\n").expect_err("refused");
        assert_eq!(refused, Fault::Refused("no such thing".to_owned()));
        for cut in [step, "", "{\"progress\":\"a"] {
            let Err(Fault::Refused(text)) = read(cut) else { panic!("{cut}") };
            assert!(text.contains("goes on"), "{cut}: {text}");
        }
    }
}
