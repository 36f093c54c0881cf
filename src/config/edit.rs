//! Setting a key in the text of a file, with its comments and its order kept. Pure.

use toml::de::DeTable;

use super::ConfigFault;

/// `text` with `section.key = value`, where `value` is a TOML value as it stands in a file.
///
/// The value is replaced where the key stands; else it takes the place of the line that shows it as a comment; else it is
/// added to its section.
///
/// # Errors
/// `text` is not TOML, or so unusual that the key cannot be set in it.
pub fn set(text: &str, section: &str, key: &str, value: &str) -> Result<String, ConfigFault> {
    let not_toml = |fault: toml::de::Error| ConfigFault(format!("this is not TOML: {}", fault.message()));
    let root = DeTable::parse(text).map_err(not_toml)?;
    let span = find(root.get_ref(), section).and_then(|(_, table)| {
        let (_, value) = table.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(value.span())
    });
    let edited = match span {
        Some(span) => format!("{}{value}{}", &text[..span.start], &text[span.end..]),
        None => insert(text, section, &format!("{key} = {value}"), key),
    };
    // Inline tables and dotted keys make places where a line cannot be added, and a line within a text of several lines sets nothing:
    // better to say so than to damage the file.
    let stands = |edited: &str| {
        let root = DeTable::parse(edited).ok()?;
        let (_, table) = find(root.get_ref(), section)?;
        let (_, found) = table.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(edited[found.span()] == *value)
    };
    if stands(&edited) == Some(true) {
        return Ok(edited);
    }
    Err(ConfigFault(format!("cannot set {section}.{key}: write it as a line of its own under [{section}]")))
}

fn find<'a, 'i>(
    root: &'a DeTable<'i>,
    section: &str,
) -> Option<(&'a toml::Spanned<std::borrow::Cow<'i, str>>, &'a toml::Spanned<toml::de::DeValue<'i>>)> {
    root.iter().find(|(name, _)| name.get_ref() == section)
}

/// Adds a line to a section, in the place of the comment that shows the key, else right after the header.
fn insert(text: &str, section: &str, line: &str, key: &str) -> String {
    let header = format!("[{section}]");
    let comment = format!("# {key} = ");
    let mut lines: Vec<&str> = text.lines().collect();
    let Some(start) = lines.iter().position(|line| line.trim() == header) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{gap}\n{header}\n{line}\n");
    };
    let end = lines[start + 1..].iter().position(|line| line.trim_start().starts_with('[')).map(|at| start + 1 + at);
    let end = end.unwrap_or(lines.len());
    match lines[start + 1..end].iter().position(|line| line.starts_with(&comment)) {
        Some(at) => lines[start + 1 + at] = line,
        None => lines.insert(start + 1, line),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_and_the_rest_stays() {
        for (text, expected) in [
            ("", "\n[network]\nhost_port = 1\n"),
            ("[network]\nhost_port = 8000 # why\n", "[network]\nhost_port = 1 # why\n"),
            ("network.host_port = 8000\n", "network.host_port = 1\n"),
            ("network = { host_port = 8000 }\n", "network = { host_port = 1 }\n"),
            ("[network]\n# The port\n# host_port = 8000\n[a]\n", "[network]\n# The port\nhost_port = 1\n[a]\n"),
            ("[network]\n\n[a]\n# host_port = 8000\n", "[network]\nhost_port = 1\n\n[a]\n# host_port = 8000\n"),
            ("[a]\nb = 1", "[a]\nb = 1\n\n[network]\nhost_port = 1\n"),
        ] {
            assert_eq!(set(text, "network", "host_port", "1").expect(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        assert!(set("network = {}\n", "network", "host_port", "1").is_err());
        assert!(set("[network", "network", "host_port", "1").is_err());
        // The first line that looks like the section's is none.
        assert!(set("x = \"\"\"\n[network]\n\"\"\"\n[network]\n", "network", "host_port", "1").is_err());
    }

    #[test]
    fn every_key_of_the_commented_file_can_be_set() {
        let text = crate::config::commented_default();
        for key in crate::config::keys::KEYS {
            let edited = set(&text, key.section, key.name, key.value).expect(key.name);
            assert!(edited.contains(&format!("\n{} = {}\n", key.name, key.value)), "{}", key.name);
            assert_eq!(edited.lines().count(), text.lines().count(), "{}", key.name);
        }
    }
}
