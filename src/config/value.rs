//! Values of the file, each read as one kind of thing; a fault names file, line, key and what was expected.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::ConfigFault;

/// The file: its text for line numbers, and its folder for relative paths.
pub(super) struct Document<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) home: Option<&'a Path>,
}

impl Document<'_> {
    /// `FILE:LINE: message`
    pub(super) fn fault(&self, at: usize, message: &str) -> ConfigFault {
        ConfigFault(self.at_line(at, message))
    }

    pub(super) fn at_line(&self, at: usize, message: &str) -> String {
        let at = at.min(self.text.len());
        let line = self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: {message}", self.file.display())
    }
}

/// One table of the file; absent tables are empty ones.
pub(super) struct Section<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) name: &'static str,
    pub(super) table: Option<&'a DeTable<'a>>,
}

/// A value that is in the file.
struct Found<'a> {
    value: &'a DeValue<'a>,
    at: usize,
    key: &'static str,
}

impl<'a> Section<'a> {
    fn find(&self, key: &'static str) -> Option<Found<'a>> {
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Found { value: value.get_ref(), at: value.span().start, key })
    }

    fn expected(&self, found: &Found<'_>, what: &str) -> ConfigFault {
        let kind = match found.value {
            DeValue::String(_) => "a string".to_owned(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.expected_not(found, what, &kind)
    }

    fn expected_not(&self, found: &Found<'_>, what: &str, kind: &str) -> ConfigFault {
        let message = format!("{}.{}: expected {what}, found {kind}", self.name, found.key);
        self.document.fault(found.at, &message)
    }

    /// The value as `read` makes it of the TOML value, or None where the key is not in the file.
    fn read<T>(
        &self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, ConfigFault> {
        let Some(found) = self.find(key) else { return Ok(None) };
        read(found.value).map(Some).ok_or_else(|| self.expected(&found, what))
    }

    /// As [`Section::read`], for strings: one that is refused is shown.
    fn read_text<T>(
        &self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigFault> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let text = found.value.as_str().ok_or_else(|| self.expected(&found, what))?;
        // A secret that was written wrongly is still a secret.
        let is_shown = !matches!(key, "token" | "node_token") && text.chars().count() <= 60;
        let shown = || if is_shown { format!("{text:?}") } else { "another".to_owned() };
        read(text).map(Some).ok_or_else(|| self.expected_not(&found, what, &shown()))
    }

    pub(super) fn port(&self, key: &'static str, default: u16) -> Result<u16, ConfigFault> {
        Ok(self.read(key, "a port (0 to 65535)", |value| integer(value)?.try_into().ok())?.unwrap_or(default))
    }

    pub(super) fn bool(&self, key: &'static str, default: bool) -> Result<bool, ConfigFault> {
        Ok(self.read(key, "true or false", DeValue::as_bool)?.unwrap_or(default))
    }

    pub(super) fn count(&self, key: &'static str, default: u32) -> Result<u32, ConfigFault> {
        let read = |value: &DeValue<'_>| integer(value)?.try_into().ok().filter(|count| *count > 0);
        Ok(self.read(key, "a whole number, at least 1", read)?.unwrap_or(default))
    }

    /// Seconds, with or without decimals: at least a tenth, at most a day.
    pub(super) fn seconds(&self, key: &'static str, default: u64) -> Result<Duration, ConfigFault> {
        let read = |value: &DeValue<'_>| {
            let seconds = match value {
                DeValue::Integer(_) => f64::from(u32::try_from(integer(value)?).ok()?),
                DeValue::Float(number) => number.as_str().parse::<f64>().ok()?,
                _ => return None,
            };
            (0.1..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
        };
        let what = "a number of seconds (0.1 to 86400)";
        Ok(self.read(key, what, read)?.unwrap_or(Duration::from_secs(default)))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>, ConfigFault> {
        self.read_text(key, "a string", |text| Some(text.to_owned()))
    }

    /// A string without blanks or control characters that is not empty.
    pub(super) fn word(&self, key: &'static str) -> Result<Option<String>, ConfigFault> {
        let is_word = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        self.read_text(key, "a string without blanks", |text| is_word(text).then(|| text.to_owned()))
    }

    /// A token, as it can be sent.
    pub(super) fn token(&self, key: &'static str) -> Result<Option<String>, ConfigFault> {
        let read = |text: &str| super::auth::is_token(text).then(|| text.to_owned());
        self.read_text(key, "a string of printable ASCII without blanks", read)
    }

    /// A string that `T` takes.
    pub(super) fn parsed<T: std::str::FromStr>(&self, key: &'static str, what: &str) -> Result<Option<T>, ConfigFault> {
        self.read_text(key, what, |text| text.parse().ok())
    }

    pub(super) fn ip(&self, key: &'static str) -> Result<Option<IpAddr>, ConfigFault> {
        self.parsed(key, "an IP address, such as \"192.168.1.20\"")
    }

    /// First and last port of a range.
    pub(super) fn ports(&self, key: &'static str, default: (u16, u16)) -> Result<(u16, u16), ConfigFault> {
        let read = |text: &str| {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
            (first > 0 && first <= last).then_some((first, last))
        };
        Ok(self.read_text(key, "two ports, first and last, such as \"30000-32767\"", read)?.unwrap_or(default))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ConfigFault> {
        let what = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        let read = |text: &str| choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        Ok(self.read_text(key, &what, read)?.unwrap_or(default))
    }

    /// A path, absolute: `~` is the home directory, a relative one starts at `base`. Empty is None.
    pub(super) fn path(&self, key: &'static str, base: &Path) -> Result<Option<PathBuf>, ConfigFault> {
        let Some(text) = self.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        match absolute(&text, base, self.document.home) {
            Some(path) => Ok(Some(path)),
            None => {
                let at = self.find(key).map_or(0, |found| found.at);
                let message = format!("{}.{key}: {text:?} needs HOME, which is not set", self.name);
                Err(self.document.fault(at, &message))
            }
        }
    }

    /// A list of strings, each of which `read` takes.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        what: &str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigFault> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let Some(array) = found.value.as_array() else { return Err(self.expected(&found, what)) };
        let items = array.iter().map(|item| {
            let found = Found { value: item.get_ref(), at: item.span().start, key };
            let text = found.value.as_str().ok_or_else(|| self.expected(&found, what))?;
            read(text).map_err(|fault| self.document.fault(found.at, &format!("{}.{key}: {fault}", self.name)))
        });
        items.collect::<Result<_, _>>().map(Some)
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `text` as an absolute path without `.` parts; None if it starts with `~` and there is no home.
pub(super) fn absolute(text: &str, base: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let path = match text.strip_prefix('~') {
        Some("") => home?.to_owned(),
        Some(rest) if rest.starts_with('/') => home?.join(rest.trim_start_matches('/')),
        _ => base.join(text),
    };
    Some(path.components().filter(|part| *part != Component::CurDir).collect())
}
