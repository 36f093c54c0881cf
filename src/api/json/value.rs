//! A checked text as a tree, for requests whose fields may take more than one form.

use super::JsonFault;
use super::guard;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// With a fraction or an exponent.
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Object(Object),
}

/// An object's fields in the order given, with getters that name the field in their error.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Object(Vec<(String, Value)>);

impl Value {
    /// Checks and parses.
    ///
    /// # Errors
    /// [`JsonFault::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonFault> {
        let text = guard::check(bytes)?;
        let mut parser = Parser { rest: text.trim_start() };
        Ok(parser.value())
    }

    /// What it is, for an error message.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number with a fraction or exponent",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The object it is.
    ///
    /// # Errors
    /// [`JsonFault::Field`]
    pub fn into_object(self, field: &str) -> Result<Object, JsonFault> {
        match self {
            Self::Object(object) => Ok(object),
            other => Err(wrong(field, "an object", &other)),
        }
    }
}

/// `field 'x': expected …, found …`
pub(crate) fn wrong(field: &str, expected: &str, found: &Value) -> JsonFault {
    JsonFault::Field { field: field.to_owned(), message: format!("expected {expected}, found {}", found.word()) }
}

impl Object {
    /// Takes the field's value out; None where it is absent or null. Nothing is copied: a list may hold millions.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        let (_, value) = self.0.iter_mut().find(|(name, _)| name == field)?;
        Some(std::mem::replace(value, Value::Null)).filter(|value| *value != Value::Null)
    }

    /// The fields in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A text.
    ///
    /// # Errors
    /// [`JsonFault::Field`], as for all of these getters.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, JsonFault> {
        self.take(field).map(|value| text(field, value)).transpose()
    }

    /// A whole number from 0 to `most`.
    pub fn number(&mut self, field: &str, most: u64) -> Result<Option<u64>, JsonFault> {
        self.take(field).map(|value| number(field, value, most)).transpose()
    }

    /// `true` or `false`; absent is false.
    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, JsonFault> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(field, "true or false", &other)),
        }
    }

    /// A list, each item through `item`.
    pub fn list<T>(
        &mut self,
        field: &str,
        item: impl Fn(&str, Value) -> Result<T, JsonFault>,
    ) -> Result<Option<Vec<T>>, JsonFault> {
        self.take(field).map(|value| list(field, value, item)).transpose()
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A text; the field is for the error.
pub(crate) fn text(field: &str, value: Value) -> Result<String, JsonFault> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong(field, "a string", &other)),
    }
}

/// A whole number from 0 to `most`.
pub(crate) fn number(field: &str, value: Value, most: u64) -> Result<u64, JsonFault> {
    match value {
        Value::Int(number) => match u64::try_from(number) {
            Ok(number) if number <= most => Ok(number),
            _ => Err(JsonFault::Field {
                field: field.to_owned(),
                message: format!("expected a whole number from 0 to {most}, found {number}"),
            }),
        },
        other => Err(wrong(field, &format!("a whole number from 0 to {most}"), &other)),
    }
}

/// A list, each item through `item`.
pub(crate) fn list<T>(
    field: &str,
    value: Value,
    item: impl Fn(&str, Value) -> Result<T, JsonFault>,
) -> Result<Vec<T>, JsonFault> {
    match value {
        Value::List(items) => {
            let read = |(index, value)| item(field, value).map_err(|fault| within(field, index, fault));
            items.into_iter().enumerate().map(read).collect()
        }
        other => Err(wrong(field, "a list", &other)),
    }
}

/// The place in a list is put into words only for a fault: there may be millions.
fn within(list: &str, index: usize, fault: JsonFault) -> JsonFault {
    match fault {
        JsonFault::Field { field, message } => {
            let rest = field.strip_prefix(list).unwrap_or_default();
            JsonFault::Field { field: format!("{list}[{index}]{rest}"), message }
        }
        malformed @ JsonFault::Malformed(_) => malformed,
    }
}

/// Parses what [`guard::check`] has let through: so it cannot fail, and its recursion is bounded.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self) -> Value {
        let value = match self.rest.as_bytes()[0] {
            b'{' => Value::Object(self.object()),
            b'[' => {
                let mut items = Vec::new();
                self.skip(1);
                while !self.rest.starts_with(']') {
                    items.push(self.value());
                    self.comma();
                }
                self.skip(1);
                Value::List(items)
            }
            b'"' => Value::Text(self.string()),
            b't' => {
                self.skip(4);
                Value::Bool(true)
            }
            b'f' => {
                self.skip(5);
                Value::Bool(false)
            }
            b'n' => {
                self.skip(4);
                Value::Null
            }
            _ => self.number(),
        };
        self.rest = self.rest.trim_start();
        value
    }

    fn object(&mut self) -> Object {
        let mut fields = Vec::new();
        self.skip(1);
        while !self.rest.starts_with('}') {
            let name = self.string();
            self.rest = self.rest.trim_start();
            self.skip(1);
            let value = self.value();
            fields.push((name, value));
            self.comma();
        }
        self.skip(1);
        Object(fields)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest[bytes..].trim_start();
    }

    fn comma(&mut self) {
        if self.rest.starts_with(',') {
            self.skip(1);
        }
    }

    fn number(&mut self) -> Value {
        let end =
            self.rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        match text.parse::<i64>() {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Float(text.parse().expect("checked by the guard")),
        }
    }

    fn string(&mut self) -> String {
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next().expect("the guard has seen its end") {
                '"' => break,
                '\\' => text.push(match chars.next().expect("the guard has seen what follows") {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'u' => unicode(&mut chars),
                    plain => plain,
                }),
                plain => text.push(plain),
            }
        }
        self.rest = chars.as_str();
        text
    }
}

/// The text of a string in double quotes, which the guard has let through.
pub(super) fn unescaped(quoted: &str) -> String {
    Parser { rest: quoted }.string()
}

fn unicode(chars: &mut std::str::Chars<'_>) -> char {
    let first = unit(chars);
    let code = if (0xd800..0xdc00).contains(&first) {
        // The second half follows, as another `\uXXXX`.
        chars.nth(1);
        0x10000 + ((first - 0xd800) << 10) + (unit(chars) - 0xdc00)
    } else {
        first
    };
    char::from_u32(code).expect("checked by the guard")
}

/// Four hexadecimal digits.
fn unit(chars: &mut std::str::Chars<'_>) -> u32 {
    chars.by_ref().take(4).fold(0, |sum, char| sum * 16 + char.to_digit(16).expect("checked by the guard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let text = r#" { "a" : [ 1 , -2.5, "x\n\u00e9\ud83d\ude00\/" , null, true , [ ] , { } ] , "b":false } "#;
        let mut object = Value::parse(text.as_bytes()).and_then(|v| v.into_object("body")).expect("valid");
        let Some(Value::List(items)) = object.take("a") else { panic!("a list") };
        assert_eq!(items[0], Value::Int(1));
        assert_eq!(items[1], Value::Float(-2.5));
        assert_eq!(items[2], Value::Text("x\né😀/".to_owned()));
        assert_eq!(items[5], Value::List(Vec::new()));
        assert_eq!(object.flag("b"), Ok(Some(false)));
        assert_eq!(object.flag("c"), Ok(None));
    }

    #[test]
    fn getters_name_the_field() {
        let text = r#"{"cores":"4","gpus":[[0],["x"]],"n":-1}"#;
        let mut object = Value::parse(text.as_bytes()).and_then(|v| v.into_object("body")).expect("valid");
        let message = |fault: JsonFault| fault.to_string();
        assert_eq!(
            object.number("cores", 10).map_err(message),
            Err("field 'cores': expected a whole number from 0 to 10, found a string".to_owned())
        );
        assert!(object.number("n", 10).map_err(message).expect_err("negative").contains("found -1"));
        let gpus = object.list("gpus", |field, value| list(field, value, |field, value| number(field, value, 9)));
        assert!(message(gpus.expect_err("a string")).contains("'gpus[1][0]'"));
    }
}
