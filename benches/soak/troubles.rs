//! What happens to the caches and to the sessions while they are used.
//!
//! One thread does it all, one thing after another: each comes again after its time, at its place in a sample.

use std::time::Duration;

use bench::sourced::Source;
use postgres::error::SqlState;
use testkit::content;

use crate::session::{Failed, Role, Session};
use crate::tally::Kind;
use crate::world::{DOCUMENTS_BYTES, DOCUMENTS_MORE_BYTES, World};

const ALTER: &str = "SELECT shared_lru.alter_cache('documents', bytes => $1)";
const VICTIM: &str =
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'soak client' ORDER BY random() LIMIT 1";

type Trouble = fn(&mut Session<'_>) -> Result<(), Failed>;

/// What comes every `every`, for the first time after `first`.
struct Event {
    every: Duration,
    next: Duration,
    trouble: Trouble,
}

/// Makes trouble until the run is over.
pub fn make(world: &World) {
    let sample = world.args.sample;
    let once_a_sample = |part: f64, trouble: Trouble| Event { every: sample, next: sample.mul_f64(part), trouble };
    let mut events = [
        once_a_sample(0.25, |session| alter(session, DOCUMENTS_MORE_BYTES)),
        once_a_sample(0.35, walk),
        // Once for the larger memory and once for the smaller, or neither would leave a hole for the other.
        once_a_sample(0.45, defragment),
        once_a_sample(0.9, defragment),
        once_a_sample(0.55, rename),
        once_a_sample(0.65, drain),
        once_a_sample(0.75, |session| alter(session, DOCUMENTS_BYTES)),
        once_a_sample(0.85, |session| {
            validate(session);
            Ok(())
        }),
        Event { every: world.args.terminate, next: world.args.terminate, trouble: terminate },
        // Soon after a sample has begun, if the times fit: so that most of it is of the new life.
        Event { every: world.args.kill, next: world.args.kill + sample.mul_f64(0.1), trouble: kill },
    ];
    let mut session = Session::new(world, Role::Keeper);
    loop {
        let event = events.iter_mut().min_by_key(|event| event.next).expect("there are events");
        if !world.sleep_until(event.next) {
            return;
        }
        event.next += event.every;
        // What failed is noted.
        let _ = (event.trouble)(&mut session);
    }
}

/// The first use after this makes the memory anew.
fn alter(session: &mut Session<'_>, bytes: i64) -> Result<(), Failed> {
    session.ask(Kind::Other, ALTER, &[&bytes]).map(drop)
}

fn defragment(session: &mut Session<'_>) -> Result<(), Failed> {
    session.ask(Kind::Other, "SELECT shared_lru.defragment()", &[]).map(drop)
}

fn rename(session: &mut Session<'_>) -> Result<(), Failed> {
    session.world.rename_sessions(|old, new| {
        session.ask(Kind::Other, "SELECT shared_lru.rename_cache($1, $2)", &[&old, &new]).is_ok()
    });
    Ok(())
}

/// Walks over all entries; a walk ends with an error if the cache is made anew meanwhile.
fn walk(session: &mut Session<'_>) -> Result<(), Failed> {
    let sql = "SELECT key FROM shared_lru.entries('documents')";
    let rows = session.ask_where(Kind::Other, sql, &[], |state| *state == SqlState::UNDEFINED_OBJECT)?;
    for row in rows {
        let key: &[u8] = row.get(0);
        if content::number_of(key).is_none() {
            session.world.tally.wrong("documents, a key that nobody stored".to_owned(), format!("{key:?}"));
        }
    }
    Ok(())
}

/// Takes out what would be evicted next.
fn drain(session: &mut Session<'_>) -> Result<(), Failed> {
    let (world, asked) = (session.world, session.world.elapsed());
    let sql = "SELECT key, value FROM shared_lru.drain($1, 100)";
    for row in session.ask(Kind::Other, sql, &[&world.sessions().1])? {
        match content::number_of(row.get(0)) {
            Some(key) => {
                world.check("sessions", key, row.get(1), Source { item: 0, group: 0, deadline_ms: 0 }, asked);
            }
            None => world.tally.wrong("sessions, a key that nobody stored".to_owned(), format!("{row:?}")),
        }
    }
    Ok(())
}

/// Checks every structure of both caches; what it finds is an error of the statement.
pub fn validate(session: &mut Session<'_>) {
    let sessions = session.world.sessions().1;
    for cache in ["documents", sessions] {
        // What failed is noted.
        let _ = session.ask(Kind::Other, "SELECT shared_lru.validate($1)", &[&cache]);
    }
}

fn terminate(session: &mut Session<'_>) -> Result<(), Failed> {
    let rows = session.ask(Kind::Other, VICTIM, &[])?;
    for row in rows {
        let backend: i32 = row.get(0);
        session.ask(Kind::Other, "SELECT pg_terminate_backend($1)", &[&backend])?;
        session.world.tally.terminated();
    }
    Ok(())
}

/// Kills a backend, and waits until the server has begun anew.
fn kill(session: &mut Session<'_>) -> Result<(), Failed> {
    let rows = session.ask(Kind::Other, VICTIM, &[])?;
    for row in rows {
        session.world.kill_comes();
        if let Err(error) = session.world.cluster.crash(row.get(0)) {
            session.world.tally.unexpected("killing a backend".to_owned(), format!("{error:#}"));
        }
        session.world.life_begins();
    }
    Ok(())
}
