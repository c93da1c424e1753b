//! Want of memory is an error of the statement, never the end of the server.
//!
//! The backend's address space is limited from outside, as a container or `vm.overcommit_memory` would.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::world::{Backend, World};

const VALUE_BYTES: usize = 120_000_000;

/// Allows a backend this many bytes more than it has; none: as many as it likes.
fn limit_memory(backend: &mut Backend, more_bytes: Option<u64>) {
    let pid = backend.pid();
    let limit = match more_bytes {
        Some(more_bytes) => {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend runs");
            let size = status.lines().find(|line| line.starts_with("VmSize:")).expect("Linux tells the size");
            let kilobytes: u64 = size.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
            (kilobytes * 1024 + more_bytes).to_string()
        }
        None => "unlimited".to_owned(),
    };
    // Only the limit that counts, so that it can be lifted again; as the backend's user, who may do it.
    let owner = fs::metadata(format!("/proc/{pid}")).expect("the backend runs");
    let mut prlimit = Command::new("prlimit");
    prlimit.args([format!("--pid={pid}"), format!("--as={limit}:")]);
    if owner.uid() != fs::metadata("/proc/self").expect("this process runs").uid() {
        prlimit.uid(owner.uid()).gid(owner.gid());
    }
    assert!(prlimit.status().expect("prlimit (util-linux) runs").success());
}

fn world_with_large_value(policy: &str) -> (World, Backend) {
    let world = World::with(&[("pg_shared_lru.memory", "500MB")]);
    let mut writer = world.backend();
    writer.run(&format!(
        "SELECT shared_lru.create_cache('c', pg_size_bytes('499MB'), policy => '{policy}', partitions => 1)"
    ));
    writer.run(&format!("SELECT shared_lru.put('c', 'large', convert_to(repeat('x', {VALUE_BYTES}), 'UTF8'))"));
    writer.put(b"small", b"v");
    (world, writer)
}

#[test]
fn a_value_that_there_is_no_memory_for_is_an_error_and_stays() {
    for policy in ["clock", "lru"] {
        let (world, mut judge) = world_with_large_value(policy);
        let mut poor = world.backend();
        assert_eq!(poor.get(b"small").as_deref(), Some(&b"v"[..]));
        limit_memory(&mut poor, Some(60 << 20));
        for call in [
            "SELECT length(shared_lru.get('c', 'large'))",
            "SELECT length(value) FROM shared_lru.get_many('c', '{none,large}')",
            "SELECT length((shared_lru.get_array('c', '{none,large}'))[2])",
            "SELECT length(shared_lru.get_text('c', 'large'))",
            "SELECT shared_lru.contains('c', 'large')",
            // The small one is taken out, if its turn comes first.
            "SELECT length(value) FROM shared_lru.drain('c')",
        ] {
            poor.refused(call).is("53200", &["out of memory"]);
            assert!(judge.one::<bool>("SELECT shared_lru.contains('c', 'large')"), "{policy}, {call}");
            judge.validate();
        }
        // Needs no memory.
        assert!(poor.one::<bool>("SELECT shared_lru.remove('c', 'large')"), "{policy}");
        limit_memory(&mut poor, None);
        judge.run(&format!("SELECT shared_lru.put('c', 'large', convert_to(repeat('x', {VALUE_BYTES}), 'UTF8'))"));
        let length: i32 = poor.one("SELECT length(shared_lru.get('c', 'large'))");
        assert_eq!(length, VALUE_BYTES as i32, "the session is none the worse for it");
        let log = world.cluster.log();
        assert!(!log.contains("terminated by signal"), "{log}");
    }
}
