use super::*;

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDbUCSOqU2vUfGasbSgcD9S01Y3H2SCXT2amK7+2pPU ann@lab";
const RSA_2048: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQClagTlAo82GhQNo/jIg3ovnMAVmHn9Vex4oieTP62zPc4/1rwsrvn8d5udHIHPpmYGSvKPC/W8JZ9OainJOHe+NEgwhTRozbkDGC5F+9G1eI23XLU9zFRkJuccJ9gVHlGytfqUaiMqWfUXWhqxgVfh8q7fkkrEkeeEg/xYW7rmbUue15JotuQN+q9Qrxt+ntE5yikeKFLFIgjDE6HprY3j2WZ7tYU5nwUjYQ0PCzK0y92xp9xqsG95XnFlLClGXpIiysqoaZJ0lXYr4hFQ7OzOR2uySQOLkHyy+pkbP9qccdkPHqlzXDpuQbKGEtVj9/Xk0GFWAT67/BQlo8ruIcmX rsa key";
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC+saSC8ZxQSjiQXzl1L4dn6UiuPu3ip5w+05czvekTtyjljrGitsfr3nLqp6VdjPg2U/GmfFDZxbFQbveBQfKEkeUx9+et4ZGxhUH2UjUFpANUzgZMgPyD5Il84ylKYXTdfzMt8pyS98q8O8yQuVa4e/WUVzj+t3E9fWUPiS4/5w== old";
const P256: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNJgaPhvUG+995Y97JGTgTc9ee1d7o8naSlUHR4KM5bNtBl0ueEq9K4AqCwoBLr2FM+kIv0tDatCk7+BMVhfbv4= e256";
const P384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBPD5YYn03yGKMtWpoPzWfDl8D5yGav7ZpdJ5wZiBfjVbYF3UN5Bx9JV0sempJnEDd3SRUKY6R8Kjzrhzr4rzgbTqSFS05ebabBzdWdQ4AFD/+gPdZPy40JlV8GhqDpl8Aw== e384";
const P521: &str = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBABXqwRpz3GVU/DqyLtDVyEp/JDoYyjZ9u41piayI0uoJqwmPTuW44xPFGep22JOEP4sFm5JfhSAv8d3nZuSeD/tKgD2XEED6yK1OxSAUyzspIqR6DqRK+UAx4UziktMClPPH+dBrToW3aq8pS3IGEqUNmSYzw53GLunjrR7jNNwFD9l2Q== e521";

/// A blob of these fields.
fn blob(fields: &[&[u8]]) -> Vec<u8> {
    let mut blob = Vec::new();
    for field in fields {
        blob.extend((field.len() as u32).to_be_bytes());
        blob.extend(*field);
    }
    blob
}

fn line(algorithm: &str, blob: &[u8]) -> String {
    format!("{algorithm} {}", STANDARD.encode(blob))
}

fn sk_ed25519() -> String {
    let name = "sk-ssh-ed25519@openssh.com";
    line(name, &blob(&[name.as_bytes(), &[7; 32], b"ssh:"]))
}

fn sk_ecdsa() -> String {
    let name = "sk-ecdsa-sha2-nistp256@openssh.com";
    let mut point = [9; 65];
    point[0] = 4;
    line(name, &blob(&[name.as_bytes(), b"nistp256", &point, b"ssh:"]))
}

/// The fault of a line; it is one sentence, and says that the key is not valid.
fn fault(text: &str) -> String {
    let fault = PublicKey::parse(text).expect_err(text).to_string();
    assert!(fault.starts_with("the public key is not valid: "), "{fault}");
    assert!(!fault.chars().any(char::is_control), "{fault:?}");
    fault
}

#[test]
fn keys_of_every_algorithm_parse_and_print_as_they_were() {
    let (sk_ed, sk_ec) = (sk_ed25519(), sk_ecdsa());
    for text in [ED25519, RSA_2048, RSA_1024, P256, P384, P521, &sk_ed, &sk_ec] {
        let key = PublicKey::parse(text).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(key.to_string(), text);
        assert_eq!(PublicKey::parse(&format!(" \t{text}\r\n")).as_ref(), Ok(&key));
        assert!(text.starts_with(key.algorithm()));
    }
}

/// The values are those that `ssh-keygen -l` of OpenSSH 9.2 printed for these keys.
#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    for (text, fingerprint) in [
        (ED25519, "SHA256:jWJ2tzxtg5G8hK7sc8IGue+WAgHhlDqwH62NiXCJSus"),
        (RSA_2048, "SHA256:iTKd//eEUOFI+ImB+tSe6MfAfIKnv1FDa8LBu1cDNYU"),
        (RSA_1024, "SHA256:bLt5TcWXkJ3OfKzjMRWsadShTPVnJy+Gi4oJhGbj30o"),
        (P256, "SHA256:grPwLgmAeQDUp0Ajj6gaIjOsJGwPkn5fyDLPtsroVWc"),
        (P384, "SHA256:g1SUnVPAlkGEtCKX6gSIcPl6z6JVQLOdwFAIZynlmd4"),
        (P521, "SHA256:DFDmxyejYXtU7we7hHD6l+gGYkIzDiBTVhyzNoAZnEw"),
    ] {
        assert_eq!(PublicKey::parse(text).expect(text).fingerprint(), fingerprint);
    }
}

#[test]
fn a_summary_shows_type_comment_and_fingerprint_but_not_the_key() {
    let key = PublicKey::parse(ED25519).expect("a key");
    assert_eq!(key.summary(), "ssh-ed25519 ann@lab SHA256:jWJ2tzxtg5G8hK7sc8IGue+WAgHhlDqwH62NiXCJSus");
    let bare = PublicKey::parse(ED25519.trim_end_matches(" ann@lab")).expect("a key");
    assert_eq!(bare.summary(), "ssh-ed25519 SHA256:jWJ2tzxtg5G8hK7sc8IGue+WAgHhlDqwH62NiXCJSus");
}

#[test]
fn a_comment_is_kept_as_it_is_if_it_can_be_printed() {
    let (algorithm, rest) = ED25519.split_once(' ').expect("a blank");
    let (data, _) = rest.split_once(' ').expect("a blank");
    for (comment, kept) in [
        ("", ""),
        ("   ", ""),
        ("a", "a"),
        ("  a  b ", "a  b"),
        ("'; touch /pwned; '", "'; touch /pwned; '"),
        ("$(id) `id` \"x\" \\ # größe", "$(id) `id` \"x\" \\ # größe"),
    ] {
        let key = PublicKey::parse(&format!("{algorithm} \t {data} {comment}")).expect(comment);
        assert_eq!(key.comment(), kept);
    }
    let long = "a".repeat(1_025);
    for bad in ["a\tb", "a\u{1b}[31mb", "a\0b", "a\u{7f}", "a\u{85}b", "a\u{202e}b", "a\u{2028}b", "a\u{200b}b", &long]
    {
        let fault = fault(&format!("{algorithm} {data} {bad}"));
        assert!(fault.contains("comment"), "{fault}");
    }
}

#[test]
fn more_than_one_line_is_no_line() {
    assert!(fault(&format!("{ED25519}\n{P256}")).contains("more than one line"));
    assert!(fault(&format!("{ED25519}\rcommand=\"x\" {P256}")).contains("more than one line"));
}

#[test]
fn options_before_the_key_are_refused_and_the_sentence_says_so() {
    for options in [
        "command=\"touch /pwned\"",
        "no-pty",
        "from=\"*\",command=\"ssh-rsa AAAA\"",
        "restrict",
        "environment=\"A=b\"",
        "cert-authority",
    ] {
        let fault = fault(&format!("{options} {ED25519}"));
        assert!(fault.contains("options before the key"), "{fault}");
    }
}

#[test]
fn private_keys_are_recognised() {
    for text in [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "PuTTY-User-Key-File-3: ssh-ed25519",
    ] {
        assert!(fault(text).contains("PRIVATE key"));
        let fault = PublicKey::parse_all(text).expect_err(text).to_string();
        assert!(fault.contains("line 1") && fault.contains("PRIVATE key") && fault.contains(".pub"), "{fault}");
        assert!(!fault.contains("b3Blb"), "{fault}");
    }
}

#[test]
fn other_texts_are_refused_with_the_reason() {
    let (algorithm, rest) = ED25519.split_once(' ').expect("a blank");
    let (data, _) = rest.split_once(' ').expect("a blank");
    let table: Vec<(String, &str)> = vec![
        (String::new(), "empty"),
        ("   ".to_owned(), "empty"),
        ("hello".to_owned(), "no known type"),
        ("SSH-ED25519 AAAA".to_owned(), "no known type"),
        (format!("ssh-dss {data}"), "DSA"),
        (format!("ssh-ed25519-cert-v01@openssh.com {data}"), "certificate"),
        ("---- BEGIN SSH2 PUBLIC KEY ----".to_owned(), "ssh-keygen -i"),
        (algorithm.to_owned(), "is missing"),
        (format!("{algorithm} "), "is missing"),
        (format!("{algorithm} not-base64!"), "not base64"),
        (format!("{algorithm} {}", &data[..data.len() - 1]), "not base64"),
        (format!("{algorithm} {}", &data[..data.len() - 4]), "cut short"),
        (format!("{algorithm} AAAA"), "cut short"),
        (format!("ssh-rsa {data}"), "inside it is \"ssh-ed25519\""),
        (format!("{algorithm} {}", "A".repeat(10_000)), "longer than"),
    ];
    for (text, what) in table {
        let fault = fault(&text);
        assert!(fault.contains(what), "{text:?}: {fault}");
    }
}

#[test]
fn the_structure_inside_is_checked_to_its_end() {
    let modulus = |bytes: usize| {
        let mut number = vec![0xff; bytes];
        number.insert(0, 0);
        number
    };
    let point = |bytes: usize, form: u8| {
        let mut point = vec![9; bytes];
        point[0] = form;
        point
    };
    let sk = "sk-ssh-ed25519@openssh.com";
    let mut huge = blob(&[b"ssh-ed25519"]);
    huge.extend([0xff, 0xff, 0xff, 0xff, 1]);
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("ssh-ed25519", blob(&[b"ssh-ed25519"]), "cut short"),
        ("ssh-ed25519", huge, "cut short"),
        ("ssh-ed25519", blob(&[b"ssh-ed25519", &[1; 31]]), "31 bytes"),
        ("ssh-ed25519", blob(&[b"ssh-ed25519", &[1; 33]]), "33 bytes"),
        ("ssh-ed25519", blob(&[b"ssh-ed25519", &[1; 32], b""]), "follows"),
        ("ssh-ed25519", blob(&[b"ssh-ed25519\0", &[1; 32]]), "inside it is"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1, 0, 1]]), "cut short"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1, 0, 1], &modulus(96)]), "768 bits"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1, 0, 1], &modulus(2049)]), "16392 bits"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1, 0, 1], &modulus(256)[1..]]), "not positive"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1, 0, 1], &[&[0], modulus(256).as_slice()].concat()]), "shortest"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[], &modulus(256)]), "not positive"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[0], &modulus(256)]), "not positive"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[1], &modulus(256)]), "make no key"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[2], &modulus(256)]), "make no key"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &modulus(256), &modulus(256)]), "make no key"),
        ("ssh-rsa", blob(&[b"ssh-rsa", &[3], &modulus(256), &[1]]), "follows"),
        ("ecdsa-sha2-nistp256", blob(&[b"ecdsa-sha2-nistp256", b"nistp384", &point(65, 4)]), "curve"),
        ("ecdsa-sha2-nistp256", blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &point(97, 4)]), "point"),
        ("ecdsa-sha2-nistp256", blob(&[b"ecdsa-sha2-nistp256", b"nistp256", &point(65, 2)]), "point"),
        ("ecdsa-sha2-nistp256", blob(&[b"ecdsa-sha2-nistp256", b"nistp256", b""]), "point"),
        ("ecdsa-sha2-nistp384", blob(&[b"ecdsa-sha2-nistp384", b"nistp384", &point(97, 4), b"x"]), "follows"),
        (sk, blob(&[sk.as_bytes(), &[1; 32]]), "cut short"),
        (sk, blob(&[sk.as_bytes(), &[1; 32], b""]), "application"),
        (sk, blob(&[sk.as_bytes(), &[1; 32], b"ssh:\n"]), "application"),
        (sk, blob(&[sk.as_bytes(), &[1; 32], b"ssh:", b""]), "follows"),
    ];
    for (algorithm, blob, what) in table {
        let fault = fault(&line(algorithm, &blob));
        assert!(fault.contains(what), "{algorithm} {what}: {fault}");
    }
}

#[test]
fn every_prefix_of_a_key_is_refused() {
    for text in [ED25519, RSA_1024, P256] {
        let blob = PublicKey::parse(text).expect(text).blob;
        for end in 0..blob.len() {
            let (algorithm, _) = text.split_once(' ').expect("a blank");
            fault(&format!("{algorithm} {}", STANDARD.encode(&blob[..end])).replace(" =", " "));
        }
    }
}

#[test]
fn a_text_of_several_keys() {
    let text = format!("\u{feff}# mine\r\n\r\n{ED25519}\r\n  # laptop\n{P256}\n\n");
    let keys = PublicKey::parse_all(&text).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(keys.iter().map(PublicKey::to_string).collect::<Vec<_>>(), [ED25519, P256]);

    let fault = PublicKey::parse_all(&format!("{ED25519}\n\n# x\nssh-foo AAAA")).expect_err("line 4").to_string();
    assert!(fault.contains("line 4") && fault.contains("ssh-foo"), "{fault}");
    for none in ["", "\n\n", "# only a comment\n"] {
        assert!(PublicKey::parse_all(none).expect_err(none).to_string().contains("no public key"));
    }
    let many = |n: usize| format!("{ED25519}\n").repeat(n);
    assert_eq!(PublicKey::parse_all(&many(64)).map(|keys| keys.len()), Ok(64));
    assert!(PublicKey::parse_all(&many(65)).expect_err("65").to_string().contains("more than 64"));
}
