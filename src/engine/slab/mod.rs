//! Slabs: fixed-size pieces of a partition, cut into slots of one size each.
//!
//! ```text
//! bitmap     free bitmaps as views over words
//! class      slab classes: which slot sizes exist
//! sizing     sizes of slabs and classes by the size of a partition
//! area       where slabs and slots lie
//! slab_use   what a slab serves
//! allocator  slots by class, slabs from a pool
//! ```

pub mod allocator;
pub mod area;
pub mod bitmap;
pub mod class;
pub mod sizing;
pub mod slab_use;
