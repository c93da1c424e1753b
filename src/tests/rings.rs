//! The commit rings: that no two snapshots get the same answer and see different rows.
//!
//! - `model`          one line beside a simulated array of running transactions, at random; and what each rule is for.
//! - `interleavings`  small cases, in every order of their accesses to shared words that the memory model allows.
//!
//! Both run the library's own code, over words of their own.

#[path = "rings/interleavings.rs"]
mod interleavings;
#[path = "rings/model.rs"]
mod model;
#[path = "rings/words.rs"]
mod words;
