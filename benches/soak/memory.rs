//! What processes have in memory, as the kernel tells it.

use std::fs;

/// Of one process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Its own: a leak shows here.
    pub private_bytes: u64,
    /// With what it has touched of shared memory and of files.
    pub resident_bytes: u64,
}

/// A process's memory; `None` if it is gone.
pub fn of_process(process: i32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(Resident { private_bytes: field(&status, "RssAnon:")?, resident_bytes: field(&status, "VmRSS:")? })
}

/// Shared memory that the server of this backend has in memory: each page divided among the processes that have it
/// mapped, over all of them. `None` if they cannot be looked at.
pub fn shared_by_server_of(backend: i32) -> Option<u64> {
    let postmaster = parent(backend)?;
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let server = processes.filter(|process| *process == postmaster || parent(*process) == Some(postmaster));
    let bytes = server.filter_map(|process: i32| {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        field(&rollup, "Pss_Shmem:")
    });
    Some(bytes.sum()).filter(|bytes| *bytes > 0)
}

fn parent(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything: the state, then the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A number of kB in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
