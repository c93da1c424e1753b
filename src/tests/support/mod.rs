//! What the multi-process tests stand on: processes, memory that can be damaged, contents that prove themselves, a
//! runner.

pub mod content;
pub mod fork;
pub mod history;
pub mod memory;
pub mod runner;
