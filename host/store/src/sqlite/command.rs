//! The grouped commands: what nearly all writes are. A command is one row of
//! the view `command`; `procedures.sql` says what the row does.

use std::sync::Arc;

use bulkhead_core::event::NewEvent;
use bulkhead_core::ports::store::{Appended, StoreError};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, Row as _};
use tokio::sync::oneshot;

/// Texts over this many bytes are stored in `payloads`.
pub(super) const LARGE: usize = 4096;

pub(super) type Text = Option<Arc<str>>;

/// A command on its way, with who waits for it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) row: Row,
    pub(super) reply: oneshot::Sender<Result<Done, StoreError>>,
}

macro_rules! columns {
    ($($name:ident: $type:ty,)*) => {
        /// A row of the view `command`. What an operation does not use stays NULL.
        #[derive(Debug, Default)]
        pub(super) struct Row {
            $(pub(super) $name: $type,)*
        }

        const COLUMNS: &[&str] = &["size", "ord", $(stringify!($name),)*];

        impl Row {
            /// Binds the row as number `ord` of a batch of `size`.
            pub(super) fn bind(&self, size: usize, ord: usize, arguments: &mut SqliteArguments) -> Result<(), sqlx::Error> {
                arguments.add(size as i64).map_err(sqlx::Error::Encode)?;
                arguments.add(ord as i64).map_err(sqlx::Error::Encode)?;
                $(arguments.add(self.$name.clone()).map_err(sqlx::Error::Encode)?;)*
                Ok(())
            }
        }
    };
}

columns! {
    op: &'static str,
    task: Text,
    at: i64,
    events: Text,
    count: i64,
    bytes: i64,
    call: Text,
    tenant: Text,
    user: Text,
    state: Option<&'static str>,
    since: Option<i64>,
    limits: Text,
    grants: Text,
    body: Text,
    large: Option<bool>,
    tool_name: Text,
    tool: Text,
    tool_digest: Text,
    attempts: Option<i64>,
    operation: Option<&'static str>,
    key: Text,
    key_body: Text,
    key_expired: Option<i64>,
    session: Text,
    label: Text,
    source: Text,
    tool_set: Text,
    tools: Text,
    states: Text,
    failure: Text,
}

impl Row {
    /// A row for an operation on a task, with events to append.
    pub(super) fn new(op: &'static str, task: impl ToString, at: i64, events: &[NewEvent]) -> Self {
        let entries: Vec<_> = events
            .iter()
            .map(|event| (event.at.as_millis(), event.call, &event.kind, &*event.data, event.size()))
            .collect();
        Self {
            op,
            task: text(task),
            at,
            events: Some(json(&entries)),
            count: events.len() as i64,
            bytes: events.iter().map(|event| event.size() as i64).sum(),
            ..Self::default()
        }
    }

    /// Sets the text that may be large: arguments or outcome.
    pub(super) fn with_body(mut self, body: Arc<str>) -> Self {
        self.large = Some(body.len() > LARGE);
        self.body = Some(body);
        self
    }

    /// What the command makes, for an error that says it exists.
    pub(super) fn what(&self) -> &'static str {
        match self.op {
            "create" => "task",
            "accept" => "call",
            _ => "event",
        }
    }
}

/// The INSERT of `rows` commands, and the SELECT of what became of them. The
/// text depends on nothing else, so that SQLite prepares it once. Plain `?`
/// because a number would be looked up linearly; `?1` is the first row's `size`.
/// One row of answers for all, because each row would wake the writer.
pub(super) fn insert_text(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS.len()].join(","));
    format!(
        "INSERT INTO command ({}) VALUES {};
         SELECT json_group_array(json_array(ord, tag, detail, last_seq)) FROM result WHERE ord < ?1",
        COLUMNS.join(","),
        vec![row; rows].join(","),
    )
}

/// What a committed command did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// `done` if it took effect.
    pub(super) tag: Option<String>,
    /// More about it.
    pub(super) detail: Option<String>,
    last_seq: Option<i64>,
}

impl Done {
    /// From the row of answers, in the order of the batch.
    pub(super) fn all(answers: &SqliteRow, size: usize) -> Result<Vec<Self>, sqlx::Error> {
        type Answer = (usize, Option<String>, Option<String>, Option<i64>);
        let answers: Vec<Answer> =
            serde_json::from_str(answers.try_get(0)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let mut all: Vec<Self> = (0..size).map(|_| Self::default()).collect();
        for (ord, tag, detail, last_seq) in answers {
            if let Some(place) = all.get_mut(ord) {
                *place = Self { tag, detail, last_seq };
            }
        }
        Ok(all)
    }

    /// The numbers of `count` appended events; `None` if the command did not take effect.
    pub(super) fn appended(&self, count: usize) -> Option<Appended> {
        match (self.tag.as_deref(), self.last_seq) {
            (Some("done"), Some(last)) => {
                let last = last.unsigned_abs();
                Some(Appended { first: last + 1 - count as u64, last })
            }
            _ => None,
        }
    }
}

/// A value in its text form, as a shared text.
pub(super) fn text(value: impl ToString) -> Text {
    Some(value.to_string().into())
}

/// A value as JSON. Rows are made of plain strings, numbers and JSON values,
/// for which this can't fail.
pub(super) fn json(value: &impl serde::Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_default().into()
}
