//! One client: operations by chance, with pauses, until the run is over.

use std::thread;
use std::time::Duration;

use bench::skew::Skew;
use bench::sourced::Source;
use postgres::error::SqlState;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::content;

use crate::session::{Failed, Role, Rows, Session};
use crate::tally::Kind;
use crate::world::{GROUPS, KEYS, KEYS_PER_PREFIX, SESSIONS_TTL_MS, World};

const SKEW: Skew = Skew::Zipf(0.99);
const DRAWS: usize = 4096;
const KEYS_PER_BATCH: usize = 10;

const GET_OR_LEASE: &str = "SELECT value, lease FROM shared_lru.get_or_lease('documents', $1, $2::text::interval, $3)";
const PUT_LEASED: &str = "SELECT shared_lru.put_leased('documents', $1, $2, $3, $4::text::interval)";
const SOURCE: &str = "SELECT i.version, g.version FROM items AS i, groups AS g WHERE i.key = $1 AND g.id = $2";
const GET_MANY: &str = "SELECT key, value FROM shared_lru.get_many('documents', $1)";
const GET_DOCUMENT: &str = "SELECT shared_lru.get('documents', $1)";
const PUT: &str = "SELECT shared_lru.put($1, $2, $3, $4::text::interval, $5)";

/// Works until the run is over. The first client is the steady one, and the only one that invalidates by prefix: such a
/// transaction changes many rows, and two of them could wait for each other.
pub fn work(world: &World, number: u32) {
    let role = if number == 0 { Role::Steady } else { Role::Client };
    let mut client = Worker {
        session: Session::new(world, role),
        role,
        random: SmallRng::seed_from_u64(world.args.seed << 8 | u64::from(number)),
        ranks: Vec::new(),
    };
    while !world.is_stopped() {
        // What failed is noted; the next operation is another.
        let _ = client.something();
        thread::sleep(world.args.think);
    }
}

struct Worker<'w> {
    session: Session<'w>,
    role: Role,
    random: SmallRng,
    /// Keys by how often they are used, drawn in advance.
    ranks: Vec<u32>,
}

/// Whether several statements are one transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    One,
    Each,
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Rollback,
}

impl Worker<'_> {
    fn something(&mut self) -> Result<(), Failed> {
        match self.random.random_range(0..1000) {
            0..400 => self.read_through(Transaction::Each, None),
            400..480 => self.read_through(Transaction::One, None),
            480..500 => self.read_through(Transaction::Each, Some("20 ms")),
            500..570 => self.get_document(),
            570..600 => self.get_many(),
            600..780 => self.get_session(),
            780..880 => self.put_session(),
            880..900 => self.replace_session(),
            900..910 => self.put_if_absent(),
            910..920 => self.remove(),
            920..940 => self.invalidate_item(End::Commit),
            940..945 => self.invalidate_item(End::Rollback),
            945..949 => self.invalidate_group(End::Commit),
            949..950 => self.invalidate_group(End::Rollback),
            950..952 if self.role == Role::Steady => self.invalidate_prefix(),
            952..954 => self.invalidate_sessions_tag(),
            _ => self.session.ask(Kind::Nothing, "SELECT 1", &[]).map(drop),
        }
    }

    fn key(&mut self) -> u32 {
        if self.ranks.is_empty() {
            self.ranks = SKEW.draw(KEYS, DRAWS, &mut self.random);
        }
        let rank = self.ranks.pop().expect("just drawn");
        // Neighbours in rank are no neighbours in key.
        rank.wrapping_mul(40_503) % KEYS
    }

    fn value(&mut self, key: u32, source: Source) -> Vec<u8> {
        let len = self.session.world.sizes_now().sample(&mut self.random);
        source.value(key, len)
    }

    fn now_ms(&self) -> u64 {
        self.session.world.elapsed().as_millis() as u64
    }

    /// A value by a lease, made of rows on a miss.
    fn read_through(&mut self, transaction: Transaction, wait: Option<&str>) -> Result<(), Failed> {
        let (key, world) = (self.key(), self.session.world);
        let (bytes, tags) = (content::key(key), vec![group_tag(key % GROUPS)]);
        if transaction == Transaction::One {
            self.session.run("BEGIN")?;
        }
        let (committed, asked) = (world.committed(key), world.elapsed());
        // What waits on purpose is no measure of waiting.
        let kind = if wait.is_some() { Kind::Other } else { Kind::Get };
        let rows = self.session.ask(kind, GET_OR_LEASE, &[&bytes, &wait, &tags])?;
        let (value, lease): (Option<Vec<u8>>, Option<Vec<u8>>) = (rows[0].get(0), rows[0].get(1));
        if let Some(value) = value {
            world.check("documents", key, &value, committed, asked);
        } else {
            let rows = self.session.ask(Kind::Other, SOURCE, &[&(key as i32), &((key % GROUPS) as i32)])?;
            let [item, group] = [0, 1].map(|column| rows[0].get::<_, i32>(column) as u32);
            let ttl_ms = (self.random.random_range(0..10) == 0).then(|| self.random.random_range(1..=60) * 1000);
            let deadline_ms = ttl_ms.map_or(0, |ttl: u64| self.now_ms() + ttl);
            if let Some(lease) = lease {
                let value = self.value(key, Source { item, group, deadline_ms });
                let ttl = ttl_ms.map(milliseconds);
                self.session.ask(Kind::Put, PUT_LEASED, &[&bytes, &value, &lease, &ttl])?;
            }
        }
        if transaction == Transaction::One { self.session.run("COMMIT") } else { Ok(()) }
    }

    fn get_document(&mut self) -> Result<(), Failed> {
        let (key, world) = (self.key(), self.session.world);
        let (committed, asked) = (world.committed(key), world.elapsed());
        let rows = self.session.ask(Kind::Get, GET_DOCUMENT, &[&content::key(key)])?;
        if let Some(value) = rows[0].get::<_, Option<Vec<u8>>>(0) {
            world.check("documents", key, &value, committed, asked);
        }
        Ok(())
    }

    fn get_many(&mut self) -> Result<(), Failed> {
        let world = self.session.world;
        let keys: Vec<u32> = (0..KEYS_PER_BATCH).map(|_| self.key()).collect();
        let committed: Vec<Source> = keys.iter().map(|key| world.committed(*key)).collect();
        let asked = world.elapsed();
        let bytes: Vec<Vec<u8>> = keys.iter().map(|key| content::key(*key)).collect();
        for row in self.session.ask(Kind::Get, GET_MANY, &[&bytes])? {
            let found = bytes.iter().position(|bytes| *bytes == row.get::<_, Vec<u8>>(0));
            match found {
                Some(at) => world.check("documents", keys[at], row.get(1), committed[at], asked),
                None => world.tally.wrong("documents, a key that was not asked for".to_owned(), format!("{row:?}")),
            }
        }
        Ok(())
    }

    fn get_session(&mut self) -> Result<(), Failed> {
        let (key, world) = (self.key(), self.session.world);
        let asked = world.elapsed();
        let bytes = content::key(key);
        let rows =
            self.on_sessions(Kind::Get, "SELECT shared_lru.get($1, $2)", |session, kind, sql, name, may_be| {
                session.ask_where(kind, sql, &[&name, &bytes], may_be)
            })?;
        match rows[0].get::<_, Option<Vec<u8>>>(0) {
            Some(value) => world.check("sessions", key, &value, NOTHING_COMMITTED, asked),
            None if self.random.random_bool(0.5) => return self.put_at(key),
            None => {}
        }
        Ok(())
    }

    fn put_session(&mut self) -> Result<(), Failed> {
        let key = self.key();
        self.put_at(key)
    }

    /// With the cache's time to live, another, or none; with tags or without.
    fn put_at(&mut self, key: u32) -> Result<(), Failed> {
        let ttl_ms = match self.random.random_range(0..10) {
            0..3 => Some(self.random.random_range(1_000..40_000)),
            3 => Some(0),
            _ => None,
        };
        let tags = (self.random.random_range(0..3) == 0).then(|| vec![group_tag(key % GROUPS), "all".to_owned()]);
        let ttl = ttl_ms.map(milliseconds);
        let deadline_ms = match ttl_ms.unwrap_or(SESSIONS_TTL_MS) {
            0 => 0,
            ttl => self.now_ms() + ttl,
        };
        let value = self.value(key, Source { deadline_ms, ..NOTHING_COMMITTED });
        let bytes = content::key(key);
        self.on_sessions(Kind::Put, PUT, |session, kind, sql, name, may_be| {
            session.ask_where(kind, sql, &[&name, &bytes, &value, &ttl, &tags], may_be)
        })?;
        Ok(())
    }

    /// Reads a value and replaces it if it is still that.
    fn replace_session(&mut self) -> Result<(), Failed> {
        let (key, world) = (self.key(), self.session.world);
        let asked = world.elapsed();
        let bytes = content::key(key);
        let sql = "SELECT value, version FROM shared_lru.get_versioned($1, $2)";
        let rows = self.on_sessions(Kind::Get, sql, |session, kind, sql, name, may_be| {
            session.ask_where(kind, sql, &[&name, &bytes], may_be)
        })?;
        let found = rows.first().and_then(|row| Some((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, Vec<u8>>(1))));
        let Some((value, version)) = found else { return Ok(()) };
        world.check("sessions", key, &value, NOTHING_COMMITTED, asked);
        let deadline_ms = self.now_ms() + SESSIONS_TTL_MS;
        let value = self.value(key, Source { deadline_ms, ..NOTHING_COMMITTED });
        let sql = "SELECT shared_lru.put_if_version($1, $2, $3, $4)";
        self.on_sessions(Kind::Put, sql, |session, kind, sql, name, may_be| {
            session.ask_where(kind, sql, &[&name, &bytes, &value, &version], may_be)
        })?;
        Ok(())
    }

    fn put_if_absent(&mut self) -> Result<(), Failed> {
        let key = self.key();
        let deadline_ms = self.now_ms() + SESSIONS_TTL_MS;
        let value = self.value(key, Source { deadline_ms, ..NOTHING_COMMITTED });
        let bytes = content::key(key);
        let sql = "SELECT shared_lru.put_if_absent($1, $2, $3)";
        self.on_sessions(Kind::Put, sql, |session, kind, sql, name, may_be| {
            session.ask_where(kind, sql, &[&name, &bytes, &value], may_be)
        })?;
        Ok(())
    }

    fn remove(&mut self) -> Result<(), Failed> {
        let bytes = content::key(self.key());
        self.on_sessions(Kind::Put, "SELECT shared_lru.remove($1, $2)", |session, kind, sql, name, may_be| {
            session.ask_where(kind, sql, &[&name, &bytes], may_be)
        })?;
        Ok(())
    }

    fn invalidate_sessions_tag(&mut self) -> Result<(), Failed> {
        let tag = group_tag(self.random.random_range(0..GROUPS));
        self.on_sessions(
            Kind::Change,
            "SELECT shared_lru.invalidate_tag($1, $2)",
            |session, kind, sql, name, may_be| session.ask_where(kind, sql, &[&name, &tag], may_be),
        )?;
        Ok(())
    }

    fn invalidate_item(&mut self, end: End) -> Result<(), Failed> {
        let key = self.key();
        let update = "UPDATE items SET version = version + 1 WHERE key = $1 RETURNING key, version";
        let rows = self.change(end, |session| {
            let rows = session.ask(Kind::Other, update, &[&(key as i32)])?;
            session.ask(Kind::Other, "SELECT shared_lru.invalidate('documents', $1)", &[&content::key(key)])?;
            Ok(rows)
        })?;
        self.items_are_committed(end, &rows);
        Ok(())
    }

    fn invalidate_prefix(&mut self) -> Result<(), Failed> {
        let first = self.random.random_range(0..KEYS / KEYS_PER_PREFIX) * KEYS_PER_PREFIX;
        let last = first + KEYS_PER_PREFIX - 1;
        let update = "UPDATE items SET version = version + 1 WHERE key BETWEEN $1 AND $2 RETURNING key, version";
        let prefix = first.to_be_bytes()[..3].to_vec();
        let rows = self.change(End::Commit, |session| {
            let rows = session.ask(Kind::Other, update, &[&(first as i32), &(last as i32)])?;
            session.ask(Kind::Other, "SELECT shared_lru.invalidate_prefix('documents', $1)", &[&prefix])?;
            Ok(rows)
        })?;
        self.items_are_committed(End::Commit, &rows);
        Ok(())
    }

    fn invalidate_group(&mut self, end: End) -> Result<(), Failed> {
        let group = self.random.random_range(0..GROUPS);
        let update = "UPDATE groups SET version = version + 1 WHERE id = $1 RETURNING version";
        let rows = self.change(end, |session| {
            let rows = session.ask(Kind::Other, update, &[&(group as i32)])?;
            session.ask(Kind::Other, "SELECT shared_lru.invalidate_tag('documents', $1)", &[&group_tag(group)])?;
            Ok(rows)
        })?;
        if end == End::Commit {
            self.session.world.commit_group(group, rows[0].get::<_, i32>(0) as u32);
        }
        Ok(())
    }

    /// A transaction that changes rows and invalidates, and what it has changed.
    fn change(&mut self, end: End, what: impl FnOnce(&mut Session<'_>) -> Rows) -> Rows {
        let begun = self.session.world.elapsed();
        self.session.run("BEGIN")?;
        let rows = what(&mut self.session)?;
        self.session.run(if end == End::Commit { "COMMIT" } else { "ROLLBACK" })?;
        self.session.world.tally.waited(Kind::Change, self.session.world.elapsed().saturating_sub(begun));
        Ok(rows)
    }

    fn items_are_committed(&self, end: End, rows: &[postgres::Row]) {
        for row in rows.iter().filter(|_| end == End::Commit) {
            let [key, version] = [0, 1].map(|column| row.get::<_, i32>(column) as u32);
            self.session.world.commit_item(key, version);
        }
    }

    /// A statement with the name that `sessions` has now. While that changes there may be no cache of the name.
    fn on_sessions(
        &mut self,
        kind: Kind,
        sql: &'static str,
        ask: impl FnOnce(&mut Session<'_>, Kind, &'static str, &str, &dyn Fn(&SqlState) -> bool) -> Rows,
    ) -> Rows {
        let world = self.session.world;
        let (renames, name) = world.sessions();
        let is_renamed = |state: &SqlState| {
            *state == SqlState::UNDEFINED_OBJECT && (renames % 2 == 1 || world.sessions().0 != renames)
        };
        ask(&mut self.session, kind, sql, name, &is_renamed)
    }
}

const NOTHING_COMMITTED: Source = Source { item: 0, group: 0, deadline_ms: 0 };

fn group_tag(group: u32) -> String {
    format!("group:{group}")
}

/// A time as SQL's interval.
fn milliseconds(number: u64) -> String {
    format!("{} ms", Duration::from_millis(number).as_millis())
}
