//! What a consumer writes against: codecs and the cache with types.

pub mod codec;
pub mod typed;
