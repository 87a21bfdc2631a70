//! Who calls, and what they may do.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{TenantId, UserId};
use crate::key::KeyId;

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// One right of an API key or token.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Scope {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Scope {
            /// Every scope, in the order of the documentation.
            pub const ALL: &'static [Scope] = &[$(Scope::$variant),*];

            /// The text form.
            pub fn as_str(self) -> &'static str {
                match self { $(Scope::$variant => $text,)* }
            }
        }

        impl FromStr for Scope {
            type Err = UnknownScope;

            fn from_str(text: &str) -> Result<Self, UnknownScope> {
                match text {
                    $($text => Ok(Scope::$variant),)*
                    _ => Err(UnknownScope(text.to_owned())),
                }
            }
        }
    };
}

scopes! {
    /// List and read own sessions and tasks, their calls and events.
    TasksRead = "tasks:read";
    /// Create, archive and delete own sessions and tasks.
    TasksWrite = "tasks:write";
    /// Start and cancel calls in own tasks.
    CallsRun = "calls:run";
    /// Give and take back grants in own tasks, and answer what calls ask.
    /// Never for a model's key: it would answer for itself.
    GrantsWrite = "grants:write";
    /// Read files of own workspaces.
    FilesRead = "files:read";
    /// Change files of own workspaces.
    FilesWrite = "files:write";
    /// List and read the tools of the tenant and the operator.
    ToolsRead = "tools:read";
    /// Register and retire tools of the tenant.
    ToolsWrite = "tools:write";
    /// Register and retire the operator's tools, which every tenant sees.
    OperatorTools = "operator:tools";
    /// Read the server's metrics.
    MetricsRead = "metrics:read";
    /// Read and end what others of the tenant have, with a reason, on record.
    Admin = "admin";
    /// The same in every tenant.
    OperatorAdmin = "operator:admin";
}

impl Scope {
    /// Whether its absence is never let through, not even while a migration
    /// only watches: what it gives reaches past the caller's own things, or
    /// would let a model answer for its owner.
    pub fn is_always_enforced(self) -> bool {
        matches!(self, Self::Admin | Self::OperatorAdmin | Self::OperatorTools | Self::MetricsRead | Self::GrantsWrite)
    }
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope `{0}`; the scopes are {all}", all = Scopes::all())]
pub struct UnknownScope(pub String);

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes. As text: separated by spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u32);

impl Scopes {
    /// Every scope.
    pub fn all() -> Self {
        Scope::ALL.iter().copied().collect()
    }

    /// What a user of the API needs: nothing that concerns others.
    pub fn usual() -> Self {
        let others = [Scope::Admin, Scope::OperatorAdmin, Scope::OperatorTools];
        Scope::ALL.iter().copied().filter(|scope| !others.contains(scope)).collect()
    }

    /// Those that are in both.
    #[must_use]
    pub fn within(self, ceiling: Self) -> Self {
        Self(self.0 & ceiling.0)
    }

    /// Whether `scope` is in the set.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// The scopes of the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | (1 << scope as u32)))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

/// An authenticated caller: a user of a tenant, with scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant that every query is limited to.
    pub tenant: TenantId,
    /// The user who owns what this principal makes.
    pub user: UserId,
    /// What this key or token may do.
    pub scopes: Scopes,
    /// Why an administrator looks at what is another's, if that was said.
    pub reason: Option<Reason>,
    /// What it was recognised by.
    pub credential: Credential,
}

/// What a principal was recognised by: what lasts longer than a request ends with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nothing that can be lost.
    #[default]
    None,
    /// An API key: it may be revoked, or expire.
    Key(KeyId),
    /// A token, which is over then.
    Token {
        /// From when on it is refused.
        until: Timestamp,
        /// What its issuer calls it (`jti`, RFC 7519 §4.1.7), if that is a short word.
        id: Option<Arc<str>>,
    },
}

/// As it is stored with a ticket: `key:` and its id, `token:`, milliseconds, and if it has
/// one `:` and its id, or nothing.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Token { until, id: None } => write!(f, "token:{}", until.as_millis()),
            Self::Token { until, id: Some(id) } => write!(f, "token:{}:{id}", until.as_millis()),
        }
    }
}

/// Who did something, as the audit log names it beside the user: `key:` and the id of the
/// key that was used, or `token:` and what its issuer calls it. None: the host did it by
/// itself, or nobody needs to say who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By(pub Option<Arc<str>>);

impl By {
    /// Nobody but the host.
    pub const HOST: Self = Self(None);
}

impl From<&Principal> for By {
    fn from(principal: &Principal) -> Self {
        match &principal.credential {
            Credential::None => Self::HOST,
            Credential::Key(id) => Self(Some(format!("key:{id}").into())),
            Credential::Token { id, .. } => Self(Some(format!("token:{}", id.as_deref().unwrap_or_default()).into())),
        }
    }
}

/// A text that is no stored credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no credential")]
pub struct NoCredential;

impl FromStr for Credential {
    type Err = NoCredential;

    fn from_str(text: &str) -> Result<Self, NoCredential> {
        if let Some(id) = text.strip_prefix("key:") {
            return KeyId::parse(id).map(Self::Key).map_err(|_| NoCredential);
        }
        match text.strip_prefix("token:") {
            Some(token) => {
                let (millis, id) =
                    token.split_once(':').map_or((token, None), |(millis, id)| (millis, Some(id.into())));
                let until = millis.parse().map(Timestamp::from_millis).map_err(|_| NoCredential)?;
                Ok(Self::Token { until, id })
            }
            None if text.is_empty() => Ok(Self::None),
            None => Err(NoCredential),
        }
    }
}

/// Why an administrator reaches for another's thing: 1 to 512 printable ASCII
/// characters, not only spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Arc<str>);

impl Reason {
    /// Longest reason, in bytes.
    pub const MAX: usize = 512;

    /// From the bytes that were sent; none if they are no reason.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?.trim_ascii();
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        (printable && (1..=Self::MAX).contains(&text.len())).then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Principal {
    /// An owner with scopes, who gave no reason, and by whose credential.
    pub fn new(owner: Owner, scopes: Scopes, credential: Credential) -> Self {
        Self { tenant: owner.tenant, user: owner.user, scopes, reason: None, credential }
    }

    /// Tenant and user: what a row's ownership is compared with.
    pub fn owner(&self) -> Owner {
        Owner { tenant: self.tenant, user: self.user }
    }
}

/// Whose a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// The user of the tenant.
    pub user: UserId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip() {
        let all = Scopes::all();
        assert_eq!(all.to_string().parse(), Ok(all));
        let two: Scopes = "calls:run files:read".parse().expect("two known scopes");
        assert!(two.contains(Scope::CallsRun) && !two.contains(Scope::FilesWrite));
        assert!("calls:run root".parse::<Scopes>().is_err());
    }

    #[test]
    fn credentials_round_trip() {
        let key = Credential::Key(KeyId::parse("0123456789ab").expect("an id"));
        let token = |id: Option<&str>| Credential::Token { until: Timestamp::from_millis(7), id: id.map(Into::into) };
        for credential in [Credential::None, key, token(None), token(Some("a:b"))] {
            assert_eq!(credential.to_string().parse(), Ok(credential));
        }
        for bad in ["key:", "key:x y", "token:", "token:x", "other"] {
            assert_eq!(bad.parse::<Credential>(), Err(NoCredential), "{bad}");
        }
    }

    #[test]
    fn the_usual_scopes_concern_nobody_else() {
        let usual = Scopes::usual();
        assert!(usual.contains(Scope::CallsRun) && usual.within(two_of_others()) == Scopes::default());
        assert_eq!(Scopes::all().within(usual), usual);
    }

    fn two_of_others() -> Scopes {
        [Scope::Admin, Scope::OperatorTools].into_iter().collect()
    }

    #[test]
    fn a_reason_is_a_line_that_people_can_read() {
        assert_eq!(Reason::parse(b" ticket 4711 ").expect("a reason").as_str(), "ticket 4711");
        assert!(Reason::parse(&[b'x'; 512]).is_some());
        for bad in [&b""[..], b"   ", b"a\tb", b"a\nb", b"\x7f", "f\u{fc}r".as_bytes(), &[b'x'; 513]] {
            assert!(Reason::parse(bad).is_none(), "{bad:?}");
        }
    }
}
