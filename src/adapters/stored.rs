//! How a type is stored: said once, and used by every cache with types.
//!
//! ```text
//! StoredAs       a type names its codec: integers, arrays, strings, vectors, tuples do; a consumer's own type in one line
//!     │          impl StoredAs for MyType { type Codec = Postcard<MyType>; }
//!     │ such types are
//!     ├─► CacheKey        what entries are found by, if the type has an equality
//!     └─► CacheValue<K>   what is stored under a key of type K; implemented by hand it need not store again what the key says
//!
//! Coded<C>       any codec's item as a type of its own: for types of other crates, and for another codec than the type's
//! ```
//!
//! Two keys are one if their bytes are. So a codec for keys must give equal keys equal bytes, as those of this crate do.
//! A float is no key, for it has no `Eq` (`0.0` and `-0.0` are equal and have different bytes).
//!
//! Not here: where the bytes go (`typed`, `drop_in`, `builder`), the codecs themselves (`codec`).

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;

use bytemuck::{AnyBitPattern, NoUninit};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Codec, DecodeError, Optional, Pod, PodVec, Postcard, Text};

/// A type with a codec of its own: a key, or a value that does not depend on its key.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Postcard, StoredAs, TypedCache};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Debug, PartialEq)]
/// struct Page {
///     title: String,
///     links: Vec<u32>,
/// }
///
/// impl StoredAs for Page {
///     type Codec = Postcard<Page>;
/// }
///
/// let cache = TypedCache::<u64, Page>::private(&Config::bytes(1 << 20))?;
/// cache.put(&1, &Page { title: "One".to_owned(), links: vec![2, 3] })?;
/// assert_eq!(cache.get(&1)?.unwrap().links, [2, 3]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub trait StoredAs: Sized {
    /// How it is stored.
    type Codec: Codec<Item = Self>;
}

/// What an entry is found by: every [`StoredAs`] type whose values can be told apart.
///
/// Equal keys must have equal bytes; all codecs of this crate see to that.
pub trait CacheKey: StoredAs + Eq {}

impl<K: StoredAs + Eq> CacheKey for K {}

/// A value that is stored under a key of type `K`.
///
/// Every [`StoredAs`] type is one. Implement it directly for a value that repeats its key, to store the key once.
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
///     fn format_name() -> String {
///         "edge".to_owned()
///     }
///
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
    /// Whether a value is plain data that a cache of one thread may keep as it is; see [`Codec::IS_PLAIN`].
    const IS_PLAIN: bool = false;

    /// Names the form of the bytes, the same in every process; another form is another name. Part of the type tag.
    fn format_name() -> String;

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

    /// The bytes that [`CacheValue::encode`] appends, where the value has them already.
    #[inline]
    fn as_bytes(&self, _key: &K) -> Option<&[u8]> {
        None
    }

    /// The value that [`CacheValue::decode`] makes of `bytes`, where they are one already.
    #[inline]
    fn view<'b>(_key: &K, _bytes: &'b [u8]) -> Option<&'b Self> {
        None
    }
}

impl<K, T: StoredAs> CacheValue<K> for T {
    const IS_PLAIN: bool = T::Codec::IS_PLAIN;

    fn format_name() -> String {
        T::Codec::name()
    }

    fn encode(&self, _key: &K, out: &mut Vec<u8>) {
        T::Codec::encode(self, out);
    }

    fn decode(_key: &K, bytes: &[u8]) -> Result<T, DecodeError> {
        T::Codec::decode(bytes)
    }

    fn decode_into(&mut self, _key: &K, bytes: &[u8]) -> Result<(), DecodeError> {
        T::Codec::decode_into(self, bytes)
    }

    #[inline]
    fn as_bytes(&self, _key: &K) -> Option<&[u8]> {
        T::Codec::as_bytes(self)
    }

    #[inline]
    fn view<'b>(_key: &K, bytes: &'b [u8]) -> Option<&'b T> {
        T::Codec::view(bytes)
    }
}

/// The tag that a region of these keys and values carries: their codecs' names, hashed. Never 0, which is the tag of a
/// cache of plain bytes.
pub fn type_tag<K: CacheKey, V: CacheValue<K>>() -> u64 {
    let names = format!("{} -> {}", K::Codec::name(), V::format_name());
    xxhash_rust::xxh3::xxh3_64(names.as_bytes()).max(1)
}

/// A key's bytes, made only if the key does not have them.
#[inline]
pub(super) fn encoded_key<K: CacheKey>(key: &K) -> Cow<'_, [u8]> {
    match K::Codec::as_bytes(key) {
        Some(bytes) => Cow::Borrowed(bytes),
        None => {
            let mut bytes = Vec::new();
            K::Codec::encode(key, &mut bytes);
            Cow::Owned(bytes)
        }
    }
}

/// A value's bytes, made only if the value does not have them.
#[inline]
pub(super) fn encoded_value<'v, K, V: CacheValue<K>>(key: &K, value: &'v V) -> Cow<'v, [u8]> {
    match value.as_bytes(key) {
        Some(bytes) => Cow::Borrowed(bytes),
        None => {
            let mut bytes = Vec::new();
            value.encode(key, &mut bytes);
            Cow::Owned(bytes)
        }
    }
}

/// A key's bytes: its own, or made in `buffer`.
#[inline]
pub(super) fn key_bytes<'b, K: CacheKey>(key: &'b K, buffer: &'b mut Vec<u8>) -> &'b [u8] {
    match K::Codec::as_bytes(key) {
        Some(bytes) => bytes,
        None => {
            buffer.clear();
            K::Codec::encode(key, buffer);
            buffer
        }
    }
}

/// A value's bytes: its own, or made in `buffer`.
#[inline]
pub(super) fn value_bytes<'b, K, V: CacheValue<K>>(key: &K, value: &'b V, buffer: &'b mut Vec<u8>) -> &'b [u8] {
    match value.as_bytes(key) {
        Some(bytes) => bytes,
        None => {
            buffer.clear();
            value.encode(key, buffer);
            buffer
        }
    }
}

/// The item of a codec that is chosen here, and not by the item's type.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use pg_shared_lru::{Coded, Config, Postcard, TypedCache};
///
/// type Counts = Coded<Postcard<BTreeMap<String, u32>>>; // a type of another crate
/// let cache = TypedCache::<u64, Counts>::private(&Config::bytes(1 << 20))?;
/// cache.put(&1, &Coded(BTreeMap::from([("a".to_owned(), 3)])))?;
/// assert_eq!(cache.get(&1)?.unwrap()["a"], 3);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct Coded<C: Codec>(pub C::Item);

impl<C: Codec> Deref for Coded<C> {
    type Target = C::Item;

    fn deref(&self) -> &C::Item {
        &self.0
    }
}

impl<C: Codec<Item: fmt::Debug>> fmt::Debug for Coded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Coded").field(&self.0).finish()
    }
}

impl<C: Codec<Item: Clone>> Clone for Coded<C> {
    fn clone(&self) -> Self {
        Coded(self.0.clone())
    }
}

impl<C: Codec<Item: PartialEq>> PartialEq for Coded<C> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<C: Codec<Item: Eq>> Eq for Coded<C> {}

impl<C: Codec<Item: PartialOrd>> PartialOrd for Coded<C> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

impl<C: Codec<Item: Ord>> Ord for Coded<C> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<C: Codec<Item: Hash>> Hash for Coded<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<C: Codec> StoredAs for Coded<C> {
    type Codec = CodedBy<C>;
}

/// A codec of [`Coded`] items: the bytes are those of `C`, and so is the name.
#[derive(Debug)]
pub struct CodedBy<C>(PhantomData<C>);

impl<C: Codec> Codec for CodedBy<C> {
    type Item = Coded<C>;

    const IS_PLAIN: bool = C::IS_PLAIN;

    fn name() -> String {
        C::name()
    }

    fn encode(item: &Coded<C>, out: &mut Vec<u8>) {
        C::encode(&item.0, out);
    }

    fn decode(bytes: &[u8]) -> Result<Coded<C>, DecodeError> {
        C::decode(bytes).map(Coded)
    }

    fn decode_into(item: &mut Coded<C>, bytes: &[u8]) -> Result<(), DecodeError> {
        C::decode_into(&mut item.0, bytes)
    }

    #[inline]
    fn as_bytes(item: &Coded<C>) -> Option<&[u8]> {
        C::as_bytes(&item.0)
    }
}

macro_rules! plain_types {
    ($($type:ty)*) => {
        $(impl StoredAs for $type {
            type Codec = Pod<$type>;
        })*
    };
}
plain_types!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

impl<T, const N: usize> StoredAs for [T; N]
where
    [T; N]: NoUninit + AnyBitPattern,
{
    type Codec = Pod<[T; N]>;
}

impl StoredAs for bool {
    type Codec = Postcard<bool>;
}

impl StoredAs for String {
    type Codec = Text;
}

impl<T: NoUninit + AnyBitPattern> StoredAs for Vec<T> {
    type Codec = PodVec<T>;
}

impl<T: StoredAs> StoredAs for Option<T> {
    type Codec = Optional<T::Codec>;
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {
        $(impl<$($name: Serialize + DeserializeOwned),*> StoredAs for ($($name,)*) {
            type Codec = Postcard<($($name,)*)>;
        })*
    };
}
tuples!((A) (A B) (A B C) (A B C D));

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: StoredAs>(item: T) -> T {
        let mut bytes = Vec::new();
        item.encode(&(), &mut bytes);
        assert_eq!(encoded_value(&(), &item), bytes);
        T::decode(&(), &bytes).unwrap()
    }

    #[test]
    fn the_types_that_come_with_a_codec_come_back() {
        assert_eq!(round_trip(u128::MAX), u128::MAX);
        assert_eq!(round_trip(-1i16), -1);
        assert!(round_trip(true));
        assert_eq!(round_trip([1u32, 2, 3]), [1, 2, 3]);
        assert_eq!(round_trip([1.5f64; 769]), [1.5; 769]);
        assert_eq!(round_trip("naïve".to_owned()), "naïve");
        assert_eq!(round_trip((7u32, 8u16, "x".to_owned())), (7, 8, "x".to_owned()));
        assert_eq!(round_trip(vec![1u8, 2]), [1, 2]);
        assert_eq!(round_trip(Some(vec![1u8, 2])), Some(vec![1, 2]));
        assert_eq!(round_trip(Coded::<Postcard<char>>('ï')).0, 'ï');
    }

    #[test]
    fn bytes_that_a_key_has_are_not_copied() {
        let mut buffer = Vec::new();
        assert_eq!(key_bytes(&7u32, &mut buffer), 7u32.to_ne_bytes());
        assert_eq!(value_bytes(&(), &"text".to_owned(), &mut buffer), b"text");
        assert_eq!(buffer.capacity(), 0);
        assert!(matches!(encoded_key(&vec![1u16]), Cow::Borrowed(_)));
        assert_eq!(key_bytes(&(7u32, true), &mut buffer), [7, 1]);
    }

    #[test]
    fn tags_tell_types_and_encodings_apart() {
        assert_ne!(type_tag::<u64, Vec<u8>>(), type_tag::<i64, Vec<u8>>());
        assert_ne!(type_tag::<Vec<u8>, String>(), type_tag::<String, Vec<u8>>());
        type Elsewhere = Coded<Postcard<u64>>;
        assert_ne!(type_tag::<u32, Elsewhere>(), type_tag::<u32, u64>(), "the same type in another form");
        assert_eq!(type_tag::<u32, Coded<Pod<u64>>>(), type_tag::<u32, u64>(), "the same form");
    }
}
