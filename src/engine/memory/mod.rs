//! Words, regions of words, and lists through words.
//!
//! ```text
//! words   the atomics that a region is made of
//! copy    words copied and compared beside others
//! region  offsets to references
//! list    doubly linked lists through words
//! ```

pub mod copy;
pub mod list;
pub mod region;
pub mod words;
