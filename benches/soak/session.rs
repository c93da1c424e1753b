//! A session that comes back when its backend is gone, and knows which errors have to be.
//!
//! Statements are prepared once a connection. After an error the transaction is rolled back; who asked gives up what it
//! was doing and goes on with something else.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

use crate::tally::Kind;
use crate::world::World;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

/// Who it is; the server sees it as `application_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client whose backend may be terminated or killed.
    Client,
    /// The client whose memory is watched: it ends with the server alone.
    Steady,
    /// Watches, alters, terminates; ends with the server alone.
    Keeper,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "soak client",
            Role::Steady => "soak steady",
            Role::Keeper => "soak keeper",
        }
    }
}

/// The statement failed; that is noted already.
#[derive(Debug)]
pub struct Failed;

pub type Rows = Result<Vec<Row>, Failed>;

pub struct Session<'w> {
    pub world: &'w World,
    role: Role,
    open: Option<Open>,
}

struct Open {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
    /// Kills before it was opened.
    kills: u32,
}

impl<'w> Session<'w> {
    pub fn new(world: &'w World, role: Role) -> Self {
        Session { world, role, open: None }
    }

    /// Runs a statement and notes how long that took.
    ///
    /// # Errors
    /// It failed.
    pub fn ask(&mut self, kind: Kind, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Rows {
        self.ask_where(kind, sql, values, |_| false)
    }

    /// As [`Session::ask`]; errors with a state that `may_be` knows are none to be reported.
    ///
    /// # Errors
    /// It failed.
    pub fn ask_where(
        &mut self,
        kind: Kind,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
        may_be: impl Fn(&SqlState) -> bool,
    ) -> Rows {
        let open = self.opened()?;
        let done = open.statement(sql).and_then(|statement| {
            let asked = Instant::now();
            let rows = open.client.query(&statement, values)?;
            Ok((rows, asked.elapsed()))
        });
        match done {
            Ok((rows, time)) => {
                self.world.tally.waited(kind, time);
                Ok(rows)
            }
            Err(error) => Err(self.note(sql, &error, may_be)),
        }
    }

    /// Runs statements that return nothing.
    ///
    /// # Errors
    /// One of them failed.
    pub fn run(&mut self, sql: &str) -> Result<(), Failed> {
        let open = self.opened()?;
        match open.client.batch_execute(sql) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.note(sql, &error, |_| false)),
        }
    }

    fn note(&mut self, sql: &str, error: &postgres::Error, may_be: impl Fn(&SqlState) -> bool) -> Failed {
        let lost = is_lost(error);
        let kills_before = self.open.as_ref().map_or(0, |open| open.kills);
        let state = error.code().map_or("closed", SqlState::code);
        let was_to_be = match error.code() {
            _ if lost => self.role == Role::Client || self.world.kills() != kills_before,
            Some(code) => may_be(code),
            None => false,
        };
        if was_to_be {
            self.world.tally.expected(state);
        } else {
            let message = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            self.world.tally.unexpected(format!("{state} from {:?}: {sql}", self.role), message);
        }
        let open = self.open.as_mut().filter(|_| !lost);
        if open.is_none_or(|open| open.client.batch_execute("ROLLBACK").is_err()) {
            self.open = None;
        }
        Failed
    }

    /// The connection, a new one if there is none.
    fn opened(&mut self) -> Result<&mut Open, Failed> {
        if self.open.is_none() {
            self.open = Some(self.connect()?);
        }
        self.open.as_mut().ok_or(Failed)
    }

    fn connect(&self) -> Result<Open, Failed> {
        let begun = Instant::now();
        loop {
            let kills = self.world.kills();
            let why = match self.world.cluster.connect("postgres") {
                Ok(mut client) => match self.introduce(&mut client) {
                    Ok(()) => return Ok(Open { client, prepared: HashMap::new(), kills }),
                    Err(error) => error.to_string(),
                },
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() > CONNECT_TIMEOUT {
                self.world.tally.unexpected(format!("{:?} cannot connect", self.role), why);
                return Err(Failed);
            }
            if self.world.is_stopped() {
                return Err(Failed);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn introduce(&self, client: &mut Client) -> Result<(), postgres::Error> {
        client.batch_execute(&format!("SET application_name = '{}'", self.role.name()))?;
        if self.role == Role::Steady {
            let backend = client.query_one("SELECT pg_backend_pid()", &[])?;
            self.world.set_steady_backend(backend.get(0));
        }
        Ok(())
    }
}

impl Open {
    fn statement(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// Whether the connection is gone: the server ended it, or nobody answers any more.
fn is_lost(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            [&SqlState::ADMIN_SHUTDOWN, &SqlState::CRASH_SHUTDOWN, &SqlState::CANNOT_CONNECT_NOW].contains(&code)
        }
        None => {
            error.is_closed() || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
        }
    }
}
