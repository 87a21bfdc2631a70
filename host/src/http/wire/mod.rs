//! Wire types: what clients send and get, with their schemas. A file for each
//! resource; what all of them use is here.

mod audit;
mod call;
mod event;
mod file;
mod grant;
mod key;
mod session;
mod task;
mod tool;
mod volume;

use bulkhead_core::limits::Limits;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{IntoParams, ToSchema};

pub use audit::{AuditPageBody, AuditQuery, TaskAuditQuery};
pub use call::{CallBody, FaultBody, NewCallBody, OutcomeBody, UsageBody, WaitQuery};
pub use event::EventBody;
pub use file::{
    AccessBody, ContentBody, DeletedBody, DirectoryBody, EntryBody, EntryPage, HistoryBody, MoveBody, NewUploadBody,
    PreviewBody, PurgedBody, PutContentBody, RestoreFileBody, TransferBody, TransferredBody, UploadBody, url_path,
};
pub use grant::{
    AnswerBody, AnswerGrantBody, CapabilityBody, ExplanationBody, GrantBody, GrantsBody, NewGrantBody, QuestionBody,
    RevokedBody, WorkspacePartBody,
};
pub use key::{KeyBody, WhoAmI};
pub use session::{NewSession, SessionBody};
pub use task::{ArchiveQuery, CeilingBody, LifecycleBody, NewTaskBody, SourceBody, TaskBody};
pub use tool::{ManifestBody, PinnedToolBody, ProgressBody, Rejection, ToolBody};
pub use volume::{RetiredBody, VolumeBody};

/// Most things on one page.
pub const MAX_PAGE: u32 = 200;

/// A page of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items<T> {
    /// The things.
    pub items: Vec<T>,
    /// Pass it as `before` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_before: Option<String>,
}

impl<T> Items<T> {
    /// A page of at most `limit` of the things that were fetched (one more than that, if there are).
    pub fn page<D>(mut fetched: Vec<D>, limit: u32, id: impl Fn(&D) -> String) -> Self
    where
        T: for<'a> From<&'a D>,
    {
        let more = fetched.len() > limit as usize;
        fetched.truncate(limit as usize);
        let next_before = if more { fetched.last().map(&id) } else { None };
        Self { items: fetched.iter().map(T::from).collect(), next_before }
    }

    /// All there is, or all that was asked for by number.
    pub fn all(items: impl Iterator<Item = T>) -> Self {
        Self { items: items.collect(), next_before: None }
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Only things made before the one with this id.
    pub before: Option<String>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
}

/// The schema of limits, made from their table.
pub fn limits_schema() -> RefOr<Schema> {
    let object = Limits::SPECS.iter().fold(ObjectBuilder::new(), |object, spec| {
        let field = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(0))
            .maximum(Some(spec.max as i64))
            .description(Some(format!("In {}; {} by default. {}", spec.unit, spec.default, spec.reason)));
        object.property(spec.name, field)
    });
    RefOr::T(Schema::Object(object.build()))
}
