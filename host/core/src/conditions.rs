//! Conditions of requests (RFC 9110, section 13), as far as entity tags say them.

/// An entity tag, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Whether it is a weak one.
    pub weak: bool,
    /// It, in its quotes.
    pub text: String,
}

/// The tags of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever is there.
    Any,
    /// One of these.
    These(Vec<Tag>),
}

impl Tags {
    /// This one, which is ours.
    pub fn one(text: String) -> Self {
        Self::These(vec![Tag { weak: false, text }])
    }
}

/// What must hold of what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`: it must be one of these, compared strongly.
    pub if_match: Option<Tags>,
    /// `If-None-Match`: it must be none of these, compared weakly.
    pub if_none_match: Option<Tags>,
}

impl Conditions {
    /// Only if nothing is there.
    pub fn absent() -> Self {
        Self { if_match: None, if_none_match: Some(Tags::Any) }
    }

    /// Whether `If-Match` holds of what is there, by its tag; none if nothing is.
    pub fn matches(&self, current: Option<&str>) -> bool {
        match (&self.if_match, current) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Tags::Any), Some(_)) => true,
            (Some(Tags::These(tags)), Some(current)) => tags.iter().any(|tag| !tag.weak && tag.text == current),
        }
    }

    /// Whether `If-None-Match` holds. All our tags are strong, so a weak one of the
    /// same text is one of ours that somebody on the way has weakened.
    pub fn is_news(&self, current: Option<&str>) -> bool {
        match (&self.if_none_match, current) {
            (None, _) | (Some(_), None) => true,
            (Some(Tags::Any), Some(_)) => false,
            (Some(Tags::These(tags)), Some(current)) => tags.iter().all(|tag| tag.text != current),
        }
    }

    /// Whether both hold.
    pub fn hold(&self, current: Option<&str>) -> bool {
        self.matches(current) && self.is_news(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_the_standard_says() {
        let tag = |weak, text: &str| Tag { weak, text: text.into() };
        let one = |weak| Some(Tags::These(vec![tag(false, "\"b\""), tag(weak, "\"a\"")]));
        let now = Some("\"a\"");
        let matching = |if_match| Conditions { if_match, if_none_match: None };
        assert!(Conditions::default().hold(None) && Conditions::default().hold(now));
        assert!(matching(one(false)).hold(now) && !matching(one(true)).hold(now));
        assert!(!matching(one(false)).hold(None) && !matching(one(false)).hold(Some("\"c\"")));
        assert!(matching(Some(Tags::Any)).hold(now) && !matching(Some(Tags::Any)).hold(None));
        let news = |if_none_match| Conditions { if_match: None, if_none_match };
        assert!(!news(one(false)).hold(now) && !news(one(true)).hold(now));
        assert!(news(one(false)).hold(None) && news(one(false)).hold(Some("\"c\"")));
        assert!(Conditions::absent().hold(None) && !Conditions::absent().hold(now));
    }
}
