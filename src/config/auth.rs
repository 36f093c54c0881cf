//! Where the tokens are found.

use std::path::Path;

use super::{Auth, AuthMode, ConfigFault};

/// Whose token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// Clients.
    User,
    /// Runners.
    Node,
}

/// The variable that goes before the file of a user's token.
pub const TOKEN_VARIABLE: &str = "HAKURIVER_TOKEN";
/// The same for a Runner.
pub const NODE_TOKEN_VARIABLE: &str = "HAKURIVER_NODE_TOKEN";

impl Auth {
    /// The token to send: from the environment, else from the configuration, else from the token's file. None in mode "none".
    ///
    /// # Errors
    /// There is none: the message names every place that was tried.
    pub fn token(&self, bearer: Bearer) -> Result<Option<String>, ConfigFault> {
        if self.mode == AuthMode::None {
            return Ok(None);
        }
        let (variable, key, text, file) = self.places(bearer);
        if let Some(token) = in_environment(variable) {
            return match token.into_string() {
                Ok(token) if is_token(&token) => Ok(Some(token)),
                // What is no token may be another secret: it is not shown.
                Ok(_) | Err(_) => {
                    Err(ConfigFault(format!("{variable} holds no token: expected printable ASCII without blanks")))
                }
            };
        }
        if let Some(token) = text {
            return Ok(Some(token.clone()));
        }
        let (name, option) = match bearer {
            Bearer::User => ("token", ""),
            Bearer::Node => ("node-token", "--token-file, "),
        };
        read_token_file(file).map(Some).map_err(|fault| {
            ConfigFault(format!(
                "{fault}\ncopy the file '{name}' from the Host's state directory, or give the token in \
                 {option}{variable}, {key} or {key}_file"
            ))
        })
    }

    /// Where the user's token comes from, in words.
    pub fn source(&self) -> String {
        let (variable, key, text, file) = self.places(Bearer::User);
        if in_environment(variable).is_some() {
            variable.to_owned()
        } else if text.is_some() {
            key.to_owned()
        } else {
            file.display().to_string()
        }
    }

    fn places(&self, bearer: Bearer) -> (&'static str, &'static str, Option<&String>, &Path) {
        match bearer {
            Bearer::User => (TOKEN_VARIABLE, "auth.token", self.token.as_ref(), &self.token_file),
            Bearer::Node => (NODE_TOKEN_VARIABLE, "auth.node_token", self.node_token.as_ref(), &self.node_token_file),
        }
    }
}

fn in_environment(variable: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// What can go into a header and a line of the tunnel's hello.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The token in a file: its text, without the line's end.
///
/// # Errors
/// The file cannot be read, or there is no token in it.
pub fn read_token_file(file: &Path) -> Result<String, ConfigFault> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|fault| ConfigFault(format!("cannot read the token file {shown}: {fault}")))?;
    let token = text.trim();
    if !is_token(token) {
        return Err(ConfigFault(format!("the token file {shown} does not hold one token on one line")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_searched_in_its_order() {
        let mut auth = crate::config::defaults(Path::new("/nonexistent-hakuriver")).auth;
        let fault = auth.token(Bearer::User).expect_err("there is no such file").to_string();
        for place in ["/nonexistent-hakuriver/token", "HAKURIVER_TOKEN", "auth.token or auth.token_file"] {
            assert!(fault.contains(place), "{place}: {fault}");
        }
        let fault = auth.token(Bearer::Node).expect_err("there is no such file").to_string();
        assert!(fault.contains("/nonexistent-hakuriver/node-token"), "{fault}");
        auth.token = Some("abc".into());
        assert_eq!(auth.token(Bearer::User), Ok(Some("abc".into())));
        auth.mode = AuthMode::None;
        assert_eq!(auth.token(Bearer::User), Ok(None));
    }

    #[test]
    fn a_file_without_one_token_is_refused() {
        let file = std::env::temp_dir().join(format!("hakuriver-token-{}", std::process::id()));
        for (text, expected) in
            [("abc\n", Some("abc")), ("abc", Some("abc")), ("", None), ("\n", None), ("a b\n", None), ("ä\n", None)]
        {
            std::fs::write(&file, text).expect("the temporary directory can be written");
            assert_eq!(read_token_file(&file).ok().as_deref(), expected, "{text:?}");
        }
        std::fs::remove_file(&file).expect("it was just written");
    }
}
