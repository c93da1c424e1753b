//! What pgvectorscale has in `access_method`, as far as the guide changes it.

pub mod build;
pub mod graph;
pub mod labels;
#[cfg(feature = "postgres")]
pub mod parallel;
pub mod storage;
