//! What is sent to the server, made so that it can be sent again; and what it
//! answers.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::audit::chain::Chain;
use bulkhead_core::ports::store::StoreError;
use sqlx::encode::Encode;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, Decode, FromRow, Postgres, Row as _, Type};

/// A text with its arguments. It is prepared once in each connection.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) text: &'static str,
    pub(super) arguments: PgArguments,
    /// What could not be encoded.
    pub(super) broken: Option<String>,
}

impl Statement {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, arguments: PgArguments::default(), broken: None }
    }

    /// The next argument.
    pub(super) fn bind<T>(mut self, value: T) -> Self
    where
        T: for<'t> Encode<'t, Postgres> + Type<Postgres>,
    {
        if let Err(error) = self.arguments.add(value) {
            self.broken = Some(error.to_string());
        }
        self
    }

    /// The next argument: a text of a person or a program, which may have what this
    /// engine's texts can't: a NUL.
    pub(super) fn bind_text(self, text: &str) -> Self {
        self.bind(text.replace('\0', "\u{fffd}"))
    }

    /// The next argument: the id or digest of something, as text.
    pub(super) fn bind_id(self, id: impl ToString) -> Self {
        self.bind(id.to_string())
    }
}

/// What an operation is made of: one statement, or some in a transaction.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) statements: Vec<Statement>,
    /// What it makes, for an error that says it exists.
    pub(super) what: &'static str,
    pub(super) again: Again,
    /// The chain of the audit log that it appends to.
    pub(super) chain: Option<Chain>,
}

/// Whether it may be sent again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It changes nothing.
    Reads,
    /// Done twice it is as if done once, or the second finds what the first did.
    Harmless,
    /// Each time does something.
    Never,
}

impl Work {
    /// A read.
    pub(super) fn read(statement: Statement) -> Self {
        Self { statements: vec![statement], what: "row", again: Again::Reads, chain: None }
    }

    /// A write that may be sent again.
    pub(super) fn write(what: &'static str, statement: Statement) -> Self {
        Self { statements: vec![statement], what, again: Again::Harmless, chain: None }
    }

    /// A write that must not.
    pub(super) fn once(what: &'static str, statement: Statement) -> Self {
        Self { statements: vec![statement], what, again: Again::Never, chain: None }
    }

    /// Says that it appends this record: it waits for its turn at the chain.
    pub(super) fn recording(mut self, record: &NewAudit) -> Self {
        self.chain = Some(record.chain);
        self
    }
}

/// What the server answered to the last statement.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<PgRow>,
    pub(super) affected: u64,
    /// An earlier try, whose answer was lost, may have been done already.
    pub(super) maybe_second: bool,
}

impl Answer {
    /// The first row's column.
    pub(super) fn get<'r, T>(&'r self, column: &str) -> Result<Option<T>, StoreError>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        self.rows.first().map(|row| row.try_get(column).map_err(unreadable)).transpose()
    }

    /// All rows as domain values, in order.
    pub(super) fn all<R, T>(self) -> Result<Vec<T>, StoreError>
    where
        R: for<'r> FromRow<'r, PgRow>,
        T: TryFrom<R, Error = StoreError>,
    {
        self.rows.iter().map(|row| R::from_row(row).map_err(unreadable)?.try_into()).collect()
    }

    /// The first row as a domain value.
    pub(super) fn maybe<R, T>(self) -> Result<Option<T>, StoreError>
    where
        R: for<'r> FromRow<'r, PgRow>,
        T: TryFrom<R, Error = StoreError>,
    {
        self.rows.first().map(|row| R::from_row(row).map_err(unreadable)?.try_into()).transpose()
    }
}

/// A row that has not the columns that were asked for.
pub(super) fn unreadable(error: sqlx::Error) -> StoreError {
    StoreError::Corrupt { table: "any", row: "as read".into(), reason: error.to_string() }
}
