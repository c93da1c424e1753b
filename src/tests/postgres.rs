//! The extension in real servers, with several real backends.
//!
//! What must hold, and which file holds it to that:
//!
//! - `registry`    Without a preload, from 17 on: the memory is made once, whole, and at its first use.
//! - `entries`     Values of every type come back as they were put; old versions and invalidated tags find nothing.
//! - `answers`     What a result follows from is in its key or among what it depends on.
//! - `queries`     Results of queries are what the queries would return.
//! - `trusted`     So they are where functions run queries that a cache's owner trusts.
//! - `unchecked`   Results go by their age alone where nothing tells more, and nowhere else.
//! - `query_entries` Kept results say what they save and what made them outdated; others are counted by the reason why not.
//! - `leases`      No reader that comes late stores what is no longer true.
//! - `writers`     A commit publishes what the transaction has written and redefined, and no more.
//! - `late_readers` So it is beside writers of every kind, a thousand times; without the guard it is not.
//! - `lifecycle`   Preloaded or not, restarted, dropped and made again: the extension works or says what to do.
//! - `releases`    Scripts and library of different releases, updates and dumps work, or say what to do.
//! - `definitions` A cache is what its definition says, for whom it says, while it is in use and after a restart.
//! - `settings`    Wrong settings are refused; right ones become the defaults of new caches.
//! - `privileges`  Nobody may do anything before the administrator says so; no search path changes what a view means.
//! - `operations`  What is put is what is got, whole, or is refused with SQLSTATE, value and limit.
//! - `sharing`     Backends of one database share a cache, those of two never; nothing is lost or made up between them.
//! - `encodings`   Texts that cross databases are converted or escaped; names are refused or found, each with its SQLSTATE.
//! - `databases`   A cache goes with its database, when that is gone and not before.
//! - `interrupts`  Whatever takes long can be cancelled, and leaves what it did until then.
//! - `shortage`    Want of memory is an error of the statement, never the end of the server.
//! - `guide`       What docs/sql.md tells a reader to type does what it says.
//! - `pages`       So does what README.md and docs/operations.md tell.
//! - `messages`    Each error has a remedy in docs/operations.md, and its SQLSTATE.
//! - `handles`     A drop that is refused is noticed by nobody; one that succeeds, by all.
//! - `expiry`      What has expired is nowhere to be seen; the background worker frees it.
//! - `persistence` What a cache holds is there after a clean restart, and after nothing else.
//! - `faults`      Whatever ends a backend in the middle of its work, the others work on and nothing leaks.
//! - `monitoring`  What views and reports say of a cache is what was done with it, and goes on as long as the cache.
//! - `memory`      Memory given is memory usable, again and again, and no more than that.
//! - `parallel`    Leader and workers of a parallel operation share a cache; no end of one leaves anything behind.
//!
//! Each test has a server of its own (see `testkit::cluster`) and speaks to it as any client does. The extension has to
//! be installed: `make test` does that.
#![deny(unsafe_code)]

use testkit::cluster;

#[path = "postgres/world.rs"]
mod world;

#[path = "postgres/answers.rs"]
mod answers;
#[path = "postgres/databases.rs"]
mod databases;
#[path = "postgres/definitions.rs"]
mod definitions;
#[path = "postgres/encodings.rs"]
mod encodings;
#[path = "postgres/entries.rs"]
mod entries;
#[path = "postgres/expiry.rs"]
mod expiry;
#[path = "postgres/faults.rs"]
mod faults;
#[path = "postgres/guide.rs"]
mod guide;
#[path = "postgres/handles.rs"]
mod handles;
#[path = "postgres/interrupts.rs"]
mod interrupts;
#[path = "postgres/late_readers.rs"]
mod late_readers;
#[path = "postgres/leases.rs"]
mod leases;
#[path = "postgres/lifecycle.rs"]
mod lifecycle;
#[path = "postgres/marked.rs"]
mod marked;
#[path = "postgres/memory.rs"]
mod memory;
#[path = "postgres/messages.rs"]
mod messages;
#[path = "postgres/monitoring.rs"]
mod monitoring;
#[path = "postgres/operations.rs"]
mod operations;
#[path = "postgres/pages.rs"]
mod pages;
#[path = "postgres/parallel.rs"]
mod parallel;
#[path = "postgres/persistence.rs"]
mod persistence;
#[path = "postgres/privileges.rs"]
mod privileges;
#[path = "postgres/queries.rs"]
mod queries;
#[path = "postgres/query_entries.rs"]
mod query_entries;
#[path = "postgres/query_options.rs"]
mod query_options;
#[path = "postgres/query_settings.rs"]
mod query_settings;
#[path = "postgres/registry.rs"]
mod registry;
#[path = "postgres/releases.rs"]
mod releases;
#[path = "postgres/settings.rs"]
mod settings;
#[path = "postgres/sharing.rs"]
mod sharing;
#[path = "postgres/shortage.rs"]
mod shortage;
#[path = "postgres/trusted.rs"]
mod trusted;
#[path = "postgres/unchecked.rs"]
mod unchecked;
#[path = "postgres/writers.rs"]
mod writers;
