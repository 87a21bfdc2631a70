//! JSON of guests, kept as the text that it is. As a tree it costs the server
//! up to ninety times its bytes: each `{"":0}` of a list is a node of its own.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One JSON value, as text without white space between its tokens: on one line,
/// as an event needs it. Numbers, the order of members, and names that come twice
/// are as they were written. Copies share the text.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// The value of a text.
    ///
    /// # Errors
    /// If [`Json::check`] refuses it.
    pub fn parse(mut text: String) -> Result<Self, serde_json::Error> {
        Self::check(&text)?;
        let (mut quoted, mut escaped) = (false, false);
        text.retain(|character| {
            if quoted {
                quoted = escaped || character != '"';
                escaped = !escaped && character == '\\';
                return true;
            }
            quoted = character == '"';
            !matches!(character, ' ' | '\t' | '\n' | '\r')
        });
        Ok(Self(RawValue::from_string(text)?.into()))
    }

    /// Whether a text is one JSON value that readers can take: no deeper than 128,
    /// numbers within what a double holds, escapes that are characters. This takes no
    /// memory but for the longest string with escapes, while `RawValue` and
    /// `IgnoredAny` look at none of the three.
    ///
    /// # Errors
    /// If it is not, with the place.
    pub fn check(text: &str) -> Result<(), serde_json::Error> {
        serde_json::from_str::<Walked>(text).map(drop)
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// By the text: `1` and `1.0` are two.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// From `serde_json` alone, and not through what serde buffers: not within a type
/// that is flattened, untagged or tagged by a field of its own.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Box<str> = Box::<RawValue>::deserialize(deserializer)?.into();
        Self::parse(text.into()).map_err(D::Error::custom)
    }
}

/// A field that may be missing, where `null` is a value like any other.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

/// A value that was looked at and let go.
struct Walked;

impl<'de> Deserialize<'de> for Walked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Walked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_texts_are_refused_as_by_a_tree() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let (deep, too_deep) = (nested(127), nested(128));
        for good in ["null", " {\"a\" : [1, -2.5e3, true, \"\\ud83d\\ude00\"]}\n", "18446744073709551616", &deep] {
            assert!(serde_json::from_str::<serde_json::Value>(good).is_ok(), "{good}");
            assert!(Json::parse(good.into()).is_ok(), "{good}");
        }
        let bad = ["", "{", "{} {}", "[1,]", "01", "1e999", r#""\ud800""#, r#"{"\udc00":0}"#, "\"\n\"", "'a'"];
        for bad in bad.into_iter().chain([&*too_deep]) {
            assert!(serde_json::from_str::<serde_json::Value>(bad).is_err(), "{bad}");
            assert!(Json::parse(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_is_on_one_line_and_else_as_it_was() {
        let text = "\r\n{ \"b \\\" \\\\\" :\t1.0e2 ,\n\n\"a\": \"\\n: {\\u0041 é\" , \"a\":[ ]}\n";
        let json = Json::parse(text.into()).expect("it is JSON");
        assert_eq!(json.text(), r#"{"b \" \\":1.0e2,"a":"\n: {\u0041 é","a":[]}"#);
        assert_eq!(serde_json::to_string(&json).expect("serializes"), json.text());
        assert_eq!(serde_json::from_str::<Json>(text).expect("it is read"), json);
    }
}
