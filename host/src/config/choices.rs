//! What can be chosen by name.

use serde::{Deserialize, Serialize};

use super::keys::Kind;

macro_rules! choices {
    ($(#[doc = $about:literal])* $name:ident { $($(#[$attr:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$attr])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            pub(super) const KIND: Kind = Kind::Choice(&[$($text),*]);
        }
    };
}

choices! {
    /// Whether requests need an API key.
    Auth {
        /// Every request needs one.
        #[default]
        Required = "required",
        /// None does: everybody who reaches the port is the first user.
        Off = "off",
    }
}

choices! {
    /// Whether workers have users of their own.
    OwnUsers {
        /// Where a server that is root can give them.
        #[default]
        Auto = "auto",
        /// No.
        Off = "off",
    }
}

choices! {
    /// Whether control groups bound workers and compilers.
    Cgroup {
        /// Where the server may make them.
        #[default]
        Auto = "auto",
        /// No.
        Off = "off",
    }
}

choices! {
    /// Whether the kernel bounds workspaces.
    KernelQuota {
        /// Where it can.
        #[default]
        Auto = "auto",
        /// No.
        Off = "off",
        /// It must; else the server does not start.
        Required = "required",
    }
}

choices! {
    /// How far workers are kept apart, and what happens if a part of the wall around them is missing.
    Isolation {
        /// As `required`, and a worker belongs to one task.
        Strict = "strict",
        /// A worker belongs to one tenant; without a part of the wall the server does not start.
        #[default]
        Required = "required",
        /// Guests run behind what there is.
        BestEffort = "best-effort",
    }
}

choices! {
    /// When a commit counts as done.
    Synchronous {
        /// Once it is on the disk.
        #[default]
        Full = "full",
        /// Once the operating system has it.
        Off = "off",
    }
}

choices! {
    /// What a rule of the door does with what it refuses.
    Rule {
        /// It refuses.
        #[default]
        Enforce = "enforce",
        /// It lets it through and writes it down.
        Audit = "audit",
    }
}

/// What can't be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Always {
    /// The only one.
    #[default]
    #[serde(rename = "enforce")]
    Enforce,
}

choices! {
    /// How log lines look.
    LogFormat {
        /// For people.
        #[default]
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}
