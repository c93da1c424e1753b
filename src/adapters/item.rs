//! What the drop-in cache can hold: types that know their own bytes.
//!
//! `LruCacheWithStats<K, V>` has no parameter for codecs, so that a consumer of the cache it replaces changes one `use`
//! line and keeps every type as it is written. The types say how they are stored instead:
//!
//! ```text
//! CacheItem      a type names its codec: integers, arrays, strings, vectors, tuples do; a consumer's own type in one line
//!     │          impl CacheItem for MyType { type Codec = Postcard<MyType>; }
//!     ▼ all of them are
//! CacheValue<K>  a type that is stored under a key of type K, and need not store again what the key says
//! ```
//!
//! A key is a [`CacheItem`]; two keys are one if their bytes are. So a codec for keys must give equal keys equal bytes,
//! as those of this crate do (a float is no key: `0.0` and `-0.0` have different bytes).
//!
//! Not here: where the bytes go (`lru_store`), the codecs themselves (`codec`).

use std::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Codec, DecodeError, Pod, Postcard, Text};

/// A type with a codec of its own: a key, or a value that does not depend on its key.
///
/// # Examples
///
/// ```
/// use std::num::NonZero;
///
/// use pg_shared_lru::{CacheItem, LruCacheWithStats, Postcard};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// struct Page {
///     title: String,
///     links: Vec<u32>,
/// }
///
/// impl CacheItem for Page {
///     type Codec = Postcard<Page>;
/// }
///
/// let mut cache = LruCacheWithStats::<u64, Page>::new(NonZero::new(10).unwrap(), "Pages");
/// cache.push(1, Page { title: "One".to_owned(), links: vec![2, 3] });
/// assert_eq!(cache.get(&1).unwrap().links, [2, 3]);
/// ```
pub trait CacheItem: Sized {
    /// How it is stored.
    type Codec: Codec<Item = Self>;
}

/// A value that is stored under a key of type `K`.
///
/// Every [`CacheItem`] is one. Implement it directly for a value that repeats its key, to store the key once.
///
/// # Examples
///
/// ```
/// use std::num::NonZero;
///
/// use pg_shared_lru::{CacheValue, DecodeError, LruCacheWithStats};
///
/// #[derive(Debug, PartialEq)]
/// struct Edge {
///     from: u64,
///     to: u64,
/// }
///
/// impl CacheValue<u64> for Edge {
///     fn encode(&self, _from: &u64, out: &mut Vec<u8>) {
///         out.extend_from_slice(&self.to.to_le_bytes());
///     }
///
///     fn decode(from: &u64, bytes: &[u8]) -> Result<Edge, DecodeError> {
///         let to = u64::decode(from, bytes)?;
///         Ok(Edge { from: *from, to })
///     }
/// }
///
/// let mut cache = LruCacheWithStats::<u64, Edge>::new(NonZero::new(10).unwrap(), "Edges");
/// cache.push(7, Edge { from: 7, to: 9 });
/// assert_eq!(cache.pop_lru(), Some((7, Edge { from: 7, to: 9 })));
/// ```
pub trait CacheValue<K>: Sized {
    /// Appends the value's bytes to `out`. They may leave out what `key` says.
    fn encode(&self, key: &K, out: &mut Vec<u8>);

    /// The value that was stored under `key` as `bytes`.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn decode(key: &K, bytes: &[u8]) -> Result<Self, DecodeError>;

    /// As [`CacheValue::decode`], in place of an older value, whose memory may be used again.
    ///
    /// # Errors
    ///
    /// As there; `self` is then any value.
    fn decode_into(&mut self, key: &K, bytes: &[u8]) -> Result<(), DecodeError> {
        *self = Self::decode(key, bytes)?;
        Ok(())
    }
}

impl<K, T: CacheItem> CacheValue<K> for T {
    fn encode(&self, _key: &K, out: &mut Vec<u8>) {
        T::Codec::encode(self, out);
    }

    fn decode(_key: &K, bytes: &[u8]) -> Result<T, DecodeError> {
        T::Codec::decode(bytes)
    }
}

macro_rules! plain_items {
    ($($type:ty)*) => {
        $(impl CacheItem for $type {
            type Codec = Pod<$type>;
        })*
    };
}
plain_items!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

impl<T, const N: usize> CacheItem for [T; N]
where
    [T; N]: NoUninit + AnyBitPattern,
{
    type Codec = Pod<[T; N]>;
}

impl CacheItem for bool {
    type Codec = Postcard<bool>;
}

impl CacheItem for String {
    type Codec = Text;
}

impl<T: NoUninit + AnyBitPattern> CacheItem for Vec<T> {
    type Codec = PodVec<T>;
}

impl<T: CacheItem> CacheItem for Option<T> {
    type Codec = Optional<T::Codec>;
}

macro_rules! tuple_items {
    ($(($($name:ident)*))*) => {
        $(impl<$($name: Serialize + DeserializeOwned),*> CacheItem for ($($name,)*) {
            type Codec = Postcard<($($name,)*)>;
        })*
    };
}
tuple_items!((A) (A B) (A B C) (A B C D));

/// Vectors of plain old data: the bytes of their elements, one after the other, in the machine's byte order.
pub struct PodVec<T>(PhantomData<T>);

impl<T: NoUninit + AnyBitPattern> Codec for PodVec<T> {
    type Item = Vec<T>;

    fn name() -> String {
        format!("pod vector {} {}", std::any::type_name::<T>(), size_of::<T>())
    }

    fn encode(items: &Vec<T>, out: &mut Vec<u8>) {
        const { assert!(size_of::<T>() > 0, "elements without bytes cannot be counted by their bytes") };
        out.extend_from_slice(bytemuck::cast_slice(items));
    }

    fn decode(bytes: &[u8]) -> Result<Vec<T>, DecodeError> {
        let rest = bytes.len() % size_of::<T>();
        if rest != 0 {
            let reason = format!("{rest} bytes are left over from elements of {} bytes", size_of::<T>());
            return Err(DecodeError { codec: Self::name(), bytes: bytes.len(), reason });
        }
        Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }
}

/// A value or none: no bytes for none, else a byte 1 and the value's own.
pub struct Optional<C>(PhantomData<C>);

impl<C: Codec> Codec for Optional<C> {
    type Item = Option<C::Item>;

    fn name() -> String {
        format!("optional {}", C::name())
    }

    fn encode(item: &Option<C::Item>, out: &mut Vec<u8>) {
        if let Some(item) = item {
            out.push(1);
            C::encode(item, out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Option<C::Item>, DecodeError> {
        match bytes {
            [] => Ok(None),
            [1, bytes @ ..] => C::decode(bytes).map(Some),
            [other, ..] => {
                let reason = format!("the first byte is {other}, not 1");
                Err(DecodeError { codec: Self::name(), bytes: bytes.len(), reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: CacheItem>(item: T) -> T {
        let mut bytes = Vec::new();
        item.encode(&(), &mut bytes);
        T::decode(&(), &bytes).unwrap()
    }

    #[test]
    fn the_types_that_come_with_a_codec_come_back() {
        assert_eq!(round_trip(u128::MAX), u128::MAX);
        assert_eq!(round_trip(-1i16), -1);
        assert!(round_trip(true));
        assert_eq!(round_trip([1u32, 2, 3]), [1, 2, 3]);
        assert_eq!(round_trip("naïve".to_owned()), "naïve");
        assert_eq!(round_trip((7u32, 8u16, "x".to_owned())), (7, 8, "x".to_owned()));
        assert_eq!(round_trip(vec![1u8, 2]), [1, 2]);
        assert_eq!(round_trip(vec![[1u64, 2], [3, 4]]), [[1, 2], [3, 4]]);
    }

    #[test]
    fn none_an_empty_and_a_zero_value_are_three_values() {
        let mut lengths = Vec::new();
        for item in [None, Some(vec![]), Some(vec![0u32])] {
            let mut bytes = Vec::new();
            item.encode(&(), &mut bytes);
            assert_eq!(Option::<Vec<u32>>::decode(&(), &bytes).unwrap(), item);
            lengths.push(bytes.len());
        }
        assert_eq!(lengths, [0, 1, 5]);
    }

    #[test]
    fn wrong_bytes_are_an_error_that_says_why() {
        let error = <Vec<u32> as CacheValue<()>>::decode(&(), &[1, 2, 3, 4, 5]).unwrap_err();
        assert!(error.to_string().contains("1 bytes are left over from elements of 4 bytes"), "{error}");
        let error = <Option<u8> as CacheValue<()>>::decode(&(), &[2, 0]).unwrap_err();
        assert!(error.to_string().contains("the first byte is 2"), "{error}");
    }
}
