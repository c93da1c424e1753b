//! The eviction policies by name. What each does is in `evict`, one file a policy.

/// Which entry is evicted when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Exact least recently used: a hit moves the entry to the front, so it needs the partition's exclusive lock.
    Lru,
    /// CLOCK, also called second chance (Corbató 1968): a hit sets a bit, under the shared lock; an entry whose bit is
    /// set is passed over once.
    Clock,
    /// S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023): new entries wait in a small
    /// queue, and those used there more than once go on to the main one; keys that did not get that far are remembered
    /// for a while. Entries that are used once do not push out the others. A hit counts uses up to three, under the
    /// shared lock.
    S3Fifo,
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use \"lru\", \"clock\" or \"s3-fifo\"")]
pub struct UnknownPolicy(pub String);

impl Policy {
    /// Every policy; the position is the number by which a region's header names it.
    pub const ALL: [Policy; 3] = [Policy::Lru, Policy::Clock, Policy::S3Fifo];

    /// The name used in settings, SQL and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Lru => "lru",
            Policy::Clock => "clock",
            Policy::S3Fifo => "s3-fifo",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let known = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}
