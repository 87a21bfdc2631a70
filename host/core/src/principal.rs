//! Who calls, and what they may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{TenantId, UserId};

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// One right of an API key.
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
    /// What this key may do.
    pub scopes: Scopes,
}

impl Principal {
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
}
