//! What the demo prints.

use anyhow::Result;
use postgres::Client;

use crate::worker::Account;

/// The cache's memory at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    live_kib: f64,
    evictions: i64,
}

/// Looks at the cache's memory.
pub fn sample(client: &mut Client) -> Result<Sample> {
    let row = client.query_one("SELECT live_bytes, evictions FROM shared_lru.stats", &[])?;
    Ok(Sample { live_kib: row.get::<_, i64>(0) as f64 / 1024.0, evictions: row.get(1) })
}

/// The replay's figures and the plot.
pub fn print_replay(account: &Account, samples: &[Sample], seconds: f64) {
    let reads = account.hits + account.misses;
    println!(
        "\n{} reads, {} writes in {seconds:.1} s\nhit ratio  {:.2} % ({} hits, {} misses, each followed by a fill)",
        reads,
        account.puts,
        100.0 * account.hits as f64 / reads as f64,
        account.hits,
        account.misses
    );
    if let Some(last) = samples.last() {
        println!("evictions  {}", last.evictions);
    }
    println!("\nKeys and values in the cache over time (KiB):");
    let live = samples.iter().map(|sample| sample.live_kib).collect();
    println!("{}", rasciigraph::plot(live, rasciigraph::Config::default().with_height(8)));
}

/// What the views say.
pub fn print_views(client: &mut Client) -> Result<()> {
    let row = client.query_one(
        "SELECT s.compactions, s.slabs_moved, s.entries_moved, m.utilisation, m.payload_ratio, s.entries, m.slabs_total
           FROM shared_lru.stats s JOIN shared_lru.memory m USING (cache)",
        &[],
    )?;
    println!(
        "\ncompactions  {}, which freed {} slabs by moving {} entries",
        row.get::<_, i64>(0),
        row.get::<_, i64>(1),
        row.get::<_, i64>(2)
    );
    println!(
        "memory       {:.1} % in use (keys and values {:.1} %): {} entries in {} slabs",
        100.0 * row.get::<_, f64>(3),
        100.0 * row.get::<_, f64>(4),
        row.get::<_, i64>(5),
        row.get::<_, i64>(6)
    );
    println!("\nshared_lru.slab_classes, the five largest:");
    println!("{:>6} {:>11} {:>6} {:>6} {:>6} {:>10}", "class", "slot bytes", "slabs", "slots", "used", "occupancy");
    let rows = client.query(
        "SELECT class, slot_bytes, slabs, slots, used, occupancy FROM shared_lru.slab_classes
          ORDER BY slabs DESC, class LIMIT 5",
        &[],
    )?;
    for row in rows {
        println!(
            "{:>6} {:>11} {:>6} {:>6} {:>6} {:>9.1}%",
            row.get::<_, i32>(0),
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
            row.get::<_, i64>(3),
            row.get::<_, i64>(4),
            100.0 * row.get::<_, f64>(5)
        );
    }
    Ok(())
}
