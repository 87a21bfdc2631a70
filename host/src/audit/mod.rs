//! The audit log's heads, signed by a key that is not in the database, and kept in
//! files that should not be on its disk: what shows that a chain was cut off or made
//! anew by who can write to the database.

pub mod export;
pub mod heads;
mod key;

pub use heads::{BadHeads, Signed};
pub use key::{BadPublicKey, HeadKey, KeyFileError, PublicKey};
