//! No web page of someone else can drive a Host, also not one on loopback, also not without a token.

use std::net::IpAddr;

use crate::net::http::Head;

/// Under which names this Host may be addressed where no token protects it.
#[derive(Clone, Debug)]
pub(in crate::host) struct SameSite {
    /// None: tokens are asked for, which a foreign page has not.
    names: Option<Vec<String>>,
}

impl SameSite {
    /// `names`: the machine's own, without ports.
    pub(in crate::host) fn new(token_asked_for: bool, names: Vec<String>) -> Self {
        Self { names: (!token_asked_for).then_some(names) }
    }

    /// # Errors
    /// Why the request is refused.
    pub(super) fn check(&self, head: &Head) -> Result<(), String> {
        let host = head.header("host").unwrap_or_default();
        if let Some(origin) = head.header("origin") {
            let ours = origin.strip_prefix("http://").is_some_and(|site| site.eq_ignore_ascii_case(host));
            if !ours {
                return Err("this request comes from a web page of another site (Origin), which is refused".to_owned());
            }
        }
        // A page whose name was pointed at this machine sends its own name here, and counts as the same site.
        let Some(names) = &self.names else { return Ok(()) };
        let name = without_port(host);
        let known = name.is_empty()
            || name.eq_ignore_ascii_case("localhost")
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || names.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        if known {
            Ok(())
        } else {
            Err("without tokens (auth.mode = \"none\") this Host answers to its address, its machine's name and network.host_reachable_address only".to_owned())
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Head {
        Head {
            method: "GET".into(),
            path: "/nodes".into(),
            query: Vec::new(),
            headers: headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            peer: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn foreign_pages_are_refused_and_programs_are_not() {
        let open = SameSite::new(false, vec!["lab-host".into()]);
        let guarded = SameSite::new(true, Vec::new());
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, bool, bool); 9] = [
            (&[("host", "127.0.0.1:8000")], true, true),
            (&[("host", "[::1]:8000")], true, true),
            (&[("host", "LAB-host:8000")], true, true),
            (&[], true, true),
            (&[("host", "evil.example:8000")], false, true),
            (&[("host", "evil.example:8000"), ("origin", "http://evil.example:8000")], false, true),
            (&[("host", "127.0.0.1:8000"), ("origin", "http://evil.example")], false, false),
            (&[("host", "127.0.0.1:8000"), ("origin", "null")], false, false),
            (&[("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")], true, true),
        ];
        for (headers, without_tokens, with_tokens) in cases {
            assert_eq!(open.check(&head(headers)).is_ok(), without_tokens, "{headers:?}");
            assert_eq!(guarded.check(&head(headers)).is_ok(), with_tokens, "{headers:?}");
        }
    }
}
