//! The only door to nanoserde, which is unsafe on foreign bytes: it panics on some, loops for ever on others, and
//! wraps large integers. So every text is checked first (RFC 8259, iterative, bounded depth, nothing trailing).

use nanoserde::{DeJson, SerJson};

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// Not JSON, or deeper or larger than allowed: a 400.
    Malformed(String),
    /// JSON, but a field has the wrong type or is missing: a 422 that names the field.
    Field { field: String, message: String },
}

impl std::fmt::Display for JsonFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(message) => write!(f, "the body is not valid JSON: {message}"),
            Self::Field { field, message } => write!(f, "field '{field}': {message}"),
        }
    }
}

/// Checks and decodes.
///
/// # Errors
/// See [`JsonFault`].
pub fn decode<T: DeJson>(_text: &[u8]) -> Result<T, JsonFault> {
    unimplemented!("api")
}

/// Encodes.
pub fn encode<T: SerJson>(value: &T) -> String {
    value.serialize_json()
}
