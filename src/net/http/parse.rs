//! The head of a request, from bytes. Pure.

use std::net::SocketAddr;

use super::Head;

/// The longest head: request line and headers.
pub(super) const LONGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 100;

/// What the bytes at hand are.
#[derive(Debug)]
pub(super) enum Parsed {
    /// No whole head yet.
    Partial,
    Whole(Box<Whole>),
    /// Refused: the status and the reason. The connection closes after it.
    Refused(u16, &'static str),
}

/// A whole head, and what it says about the connection.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) head: Head,
    /// Bytes of the head.
    pub(super) length: usize,
    pub(super) content_length: u64,
    pub(super) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub(super) expects_continue: bool,
    /// `HEAD`: as GET, without the body.
    pub(super) no_body: bool,
    /// HTTP/1.0 knows no chunks.
    pub(super) old: bool,
}

/// Parses what stands at the beginning of `bytes`.
pub(super) fn head(bytes: &[u8], peer: SocketAddr) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST_HEAD => return Parsed::Partial,
        Ok(_) => return Parsed::Refused(431, "the request's head is longer than 16 KiB"),
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431, "the request has more than 100 headers"),
        Err(_) => return Parsed::Refused(400, "this is not an HTTP/1.1 request"),
    };
    let old = request.version == Some(0);
    let mut whole = Whole {
        head: Head { method: String::new(), path: String::new(), query: Vec::new(), headers: Vec::new(), peer },
        length,
        content_length: 0,
        keep_alive: false,
        expects_continue: false,
        no_body: false,
        old,
    };
    let mut has_length = false;
    let (mut closes, mut stays) = (false, false);
    for header in request.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let Ok(value) = std::str::from_utf8(header.value) else {
            return Parsed::Refused(400, "a header is not valid UTF-8");
        };
        match name.as_str() {
            // Two ways to say where a body ends are how one request is made to look like two.
            "transfer-encoding" => {
                return Parsed::Refused(400, "Transfer-Encoding is not taken in requests: send a Content-Length");
            }
            "content-length" if has_length => {
                return Parsed::Refused(400, "the request has two Content-Length headers");
            }
            "content-length" => {
                has_length = true;
                match value.parse() {
                    Ok(length) if value.bytes().all(|byte| byte.is_ascii_digit()) => whole.content_length = length,
                    _ => return Parsed::Refused(400, "the Content-Length is not a number"),
                }
            }
            "connection" => {
                for option in value.split(',').map(str::trim) {
                    closes |= option.eq_ignore_ascii_case("close");
                    stays |= option.eq_ignore_ascii_case("keep-alive");
                }
            }
            "expect" if value.eq_ignore_ascii_case("100-continue") => whole.expects_continue = true,
            _ => {}
        }
        whole.head.headers.push((name, value.to_owned()));
    }
    whole.keep_alive = !closes && (stays || !old);
    let method = request.method.unwrap_or_default();
    whole.no_body = method == "HEAD";
    whole.head.method = if whole.no_body { "GET".to_owned() } else { method.to_owned() };
    let (path, query) = split_target(request.path.unwrap_or_default());
    let Some(path) = decode(path, false).filter(|path| path.starts_with('/') || path == "*") else {
        return Parsed::Refused(400, "the request's path is not valid");
    };
    whole.head.path = path;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name, true), decode(value, true)) {
            (Some(name), Some(value)) => whole.head.query.push((name, value)),
            _ => return Parsed::Refused(400, "the request's query is not valid"),
        }
    }
    Parsed::Whole(Box::new(whole))
}

/// Path and query of a request target, which may be absolute (`http://host/path`).
fn split_target(target: &str) -> (&str, &str) {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split_once('?').unwrap_or((path, ""))
}

/// Percent-decodes; None if it is malformed, not UTF-8 or has control characters.
fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parsed {
        head(text.as_bytes(), SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn whole(text: &str) -> Whole {
        match parse(text) {
            Parsed::Whole(whole) => *whole,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn a_request_is_taken_apart() {
        let w = whole("PUT /a%20b/c?x=1&y=a+b%2Bc&z HTTP/1.1\r\nHost: h\r\nX-Y: v\r\nContent-Length: 12\r\n\r\n");
        assert_eq!((w.head.method.as_str(), w.head.path.as_str()), ("PUT", "/a b/c"));
        assert_eq!((w.head.query("x"), w.head.query("y"), w.head.query("z")), (Some("1"), Some("a b+c"), Some("")));
        assert_eq!((w.head.header("x-y"), w.content_length, w.keep_alive), (Some("v"), 12, true));
    }

    #[test]
    fn connections_stay_or_close_as_the_version_and_header_say() {
        assert!(whole("GET / HTTP/1.1\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(whole("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
        // The header is a list: libwww-perl sends this.
        assert!(!whole("GET / HTTP/1.1\r\nConnection: TE, close\r\n\r\n").keep_alive);
        assert!(whole("GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    }

    #[test]
    fn what_could_hide_a_second_request_is_refused() {
        for (text, status) in [
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
            ("GET /%zz HTTP/1.1\r\n\r\n", 400),
            ("GET /%00 HTTP/1.1\r\n\r\n", 400),
            ("GET /a?b=%ff HTTP/1.1\r\n\r\n", 400),
            ("nonsense\r\n\r\n", 400),
        ] {
            assert!(matches!(parse(text), Parsed::Refused(s, _) if s == status), "{text:?} gave {:?}", parse(text));
        }
    }

    #[test]
    fn heads_are_bounded() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(LONGEST_HEAD));
        assert!(matches!(parse(&long), Parsed::Refused(431, _)));
        assert!(matches!(parse(&long[..LONGEST_HEAD - 1]), Parsed::Partial));
        assert!(matches!(parse(&long[..LONGEST_HEAD]), Parsed::Refused(431, _)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
        assert!(matches!(parse(&many), Parsed::Refused(431, _)));
        assert!(matches!(parse("GET / HT"), Parsed::Partial));
    }
}
