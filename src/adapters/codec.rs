//! Codecs: how an item becomes bytes and back.
//!
//! A codec names itself and its type; the names go into the region's type tag (`stored`), so that a cache of one type, or
//! of one encoding of it, cannot be attached as one of another. Encoding happens before the partition's lock is taken,
//! decoding after it is released. Bytes of values are aligned to 8 in the region; decoding does not depend on it.
//!
//! A codec whose bytes are the item's own says so ([`Codec::as_bytes`], [`Codec::view`]): then nothing is copied to look
//! a key up, and a cache of one thread hands a value out where it lies.
//!
//! Not here: which type uses which codec (`stored`).

use std::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{bytes} bytes do not decode as {codec}: {reason}")]
pub struct DecodeError {
    /// The codec.
    pub codec: String,
    /// Length of the bytes.
    pub bytes: usize,
    /// What is wrong with them.
    pub reason: String,
}

impl DecodeError {
    /// So many bytes are not what `codec` writes, for this reason.
    pub fn new(codec: impl Into<String>, bytes: usize, reason: impl Into<String>) -> Self {
        DecodeError { codec: codec.into(), bytes, reason: reason.into() }
    }
}

/// Turns items into bytes and back, without loss.
///
/// # Examples
///
/// A type of one's own, in three bytes instead of the six that [`Postcard`] may take:
///
/// ```
/// use pg_shared_lru::{Codec, DecodeError, StoredAs};
///
/// #[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// struct Color(u8, u8, u8);
///
/// struct Rgb;
///
/// impl Codec for Rgb {
///     type Item = Color;
///
///     fn name() -> String {
///         "rgb".to_owned()
///     }
///
///     fn encode(color: &Color, out: &mut Vec<u8>) {
///         out.extend_from_slice(&[color.0, color.1, color.2]);
///     }
///
///     fn decode(bytes: &[u8]) -> Result<Color, DecodeError> {
///         match *bytes {
///             [red, green, blue] => Ok(Color(red, green, blue)),
///             _ => Err(DecodeError::new(Self::name(), bytes.len(), "a color has 3 bytes")),
///         }
///     }
/// }
///
/// impl StoredAs for Color {
///     type Codec = Rgb;
/// }
/// ```
pub trait Codec {
    /// What is encoded.
    type Item;

    /// Whether an item is plain data: its bytes are its own ([`Codec::as_bytes`] has them), and it owns nothing else. A
    /// cache of one thread keeps small ones as they are.
    const IS_PLAIN: bool = false;

    /// The codec's and the type's name, the same in every process. Another form of the bytes is another name.
    fn name() -> String;

    /// Appends the item's bytes to `out`.
    fn encode(item: &Self::Item, out: &mut Vec<u8>);

    /// The item that `bytes` stand for.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn decode(bytes: &[u8]) -> Result<Self::Item, DecodeError>;

    /// As [`Codec::decode`], in place of an older item, whose memory may be used again.
    ///
    /// # Errors
    ///
    /// As there; `item` is then any item.
    fn decode_into(item: &mut Self::Item, bytes: &[u8]) -> Result<(), DecodeError> {
        *item = Self::decode(bytes)?;
        Ok(())
    }

    /// The bytes that [`Codec::encode`] appends, where the item has them already; `None` if they have to be made.
    #[inline]
    fn as_bytes(_item: &Self::Item) -> Option<&[u8]> {
        None
    }

    /// The item that [`Codec::decode`] makes of `bytes`, where they are one already; `None` if it has to be made, or if
    /// these bytes are not aligned for it.
    #[inline]
    fn view(_bytes: &[u8]) -> Option<&Self::Item> {
        None
    }
}

/// Strings, as UTF-8.
#[derive(Debug)]
pub struct Text;

impl Codec for Text {
    type Item = String;

    fn name() -> String {
        "text".to_owned()
    }

    fn encode(item: &String, out: &mut Vec<u8>) {
        out.extend_from_slice(item.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<String, DecodeError> {
        Self::check(bytes).map(str::to_owned)
    }

    fn decode_into(item: &mut String, bytes: &[u8]) -> Result<(), DecodeError> {
        let text = Self::check(bytes)?;
        item.clear();
        item.push_str(text);
        Ok(())
    }

    #[inline]
    fn as_bytes(item: &String) -> Option<&[u8]> {
        Some(item.as_bytes())
    }
}

impl Text {
    fn check(bytes: &[u8]) -> Result<&str, DecodeError> {
        std::str::from_utf8(bytes).map_err(|error| DecodeError::new(Self::name(), bytes.len(), error.to_string()))
    }
}

/// Plain old data: the bytes of the value itself, in the machine's byte order.
#[derive(Debug)]
pub struct Pod<T>(PhantomData<T>);

impl<T: NoUninit + AnyBitPattern> Codec for Pod<T> {
    type Item = T;

    const IS_PLAIN: bool = true;

    fn name() -> String {
        format!("pod {} {}", std::any::type_name::<T>(), size_of::<T>())
    }

    fn encode(item: &T, out: &mut Vec<u8>) {
        out.extend_from_slice(bytemuck::bytes_of(item));
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        bytemuck::try_pod_read_unaligned(bytes)
            .map_err(|error| DecodeError::new(Self::name(), bytes.len(), error.to_string()))
    }

    #[inline]
    fn as_bytes(item: &T) -> Option<&[u8]> {
        Some(bytemuck::bytes_of(item))
    }

    #[inline]
    fn view(bytes: &[u8]) -> Option<&T> {
        bytemuck::try_from_bytes(bytes).ok()
    }
}

/// Vectors of plain old data: the bytes of their elements, one after the other, in the machine's byte order.
#[derive(Debug)]
pub struct PodVec<T>(PhantomData<T>);

impl<T: NoUninit + AnyBitPattern> Codec for PodVec<T> {
    type Item = Vec<T>;

    fn name() -> String {
        format!("pod vector {} {}", std::any::type_name::<T>(), size_of::<T>())
    }

    fn encode(items: &Vec<T>, out: &mut Vec<u8>) {
        out.extend_from_slice(Self::bytes_of(items));
    }

    fn decode(bytes: &[u8]) -> Result<Vec<T>, DecodeError> {
        let mut items = Vec::new();
        Self::decode_into(&mut items, bytes)?;
        Ok(items)
    }

    fn decode_into(items: &mut Vec<T>, bytes: &[u8]) -> Result<(), DecodeError> {
        let rest = bytes.len() % size_of::<T>();
        if rest != 0 {
            let reason = format!("{rest} bytes are left over from elements of {} bytes", size_of::<T>());
            return Err(DecodeError::new(Self::name(), bytes.len(), reason));
        }
        items.resize(bytes.len() / size_of::<T>(), T::zeroed());
        bytemuck::cast_slice_mut(items).copy_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn as_bytes(items: &Vec<T>) -> Option<&[u8]> {
        Some(Self::bytes_of(items))
    }
}

impl<T: NoUninit> PodVec<T> {
    fn bytes_of(items: &[T]) -> &[u8] {
        const { assert!(size_of::<T>() > 0, "elements without bytes cannot be counted by their bytes") };
        bytemuck::cast_slice(items)
    }
}

/// A value or none: no bytes for none, else a byte 1 and the value's own.
#[derive(Debug)]
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
        Self::rest(bytes)?.map(C::decode).transpose()
    }

    fn decode_into(item: &mut Option<C::Item>, bytes: &[u8]) -> Result<(), DecodeError> {
        match (item.as_mut(), Self::rest(bytes)?) {
            (Some(item), Some(rest)) => C::decode_into(item, rest)?,
            (_, rest) => *item = rest.map(C::decode).transpose()?,
        }
        Ok(())
    }
}

impl<C: Codec> Optional<C> {
    /// The bytes of the value, if there is one.
    fn rest(bytes: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
        match bytes {
            [] => Ok(None),
            [1, rest @ ..] => Ok(Some(rest)),
            [other, ..] => {
                let reason = format!("the first byte is {other}, not 1");
                Err(DecodeError::new(Self::name(), bytes.len(), reason))
            }
        }
    }
}

/// Anything that serde knows, in postcard's compact format.
#[derive(Debug)]
pub struct Postcard<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned> Codec for Postcard<T> {
    type Item = T;

    fn name() -> String {
        format!("postcard {}", std::any::type_name::<T>())
    }

    /// # Panics
    ///
    /// If the type's own `Serialize` fails, or gives a sequence without a length, which postcard cannot write.
    fn encode(item: &T, out: &mut Vec<u8>) {
        postcard::to_io(item, &mut *out).expect("a Vec takes every byte");
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        postcard::from_bytes(bytes).map_err(|error| DecodeError::new(Self::name(), bytes.len(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back, by every way that the codec has.
    fn round_trip<C: Codec<Item: PartialEq + std::fmt::Debug>>(item: C::Item, other: C::Item) -> C::Item {
        let mut bytes = Vec::new();
        C::encode(&item, &mut bytes);
        if let Some(own) = C::as_bytes(&item) {
            assert_eq!(own, bytes);
        }
        let decoded = C::decode(&bytes).unwrap();
        if let Some(viewed) = C::view(&bytes) {
            assert_eq!(viewed, &decoded);
        }
        let mut reused = other;
        C::decode_into(&mut reused, &bytes).unwrap();
        assert_eq!(reused, decoded);
        decoded
    }

    #[test]
    fn values_come_back_bit_for_bit() {
        assert_eq!(round_trip::<PodVec<u8>>(vec![0, 255, 0], vec![7; 9]), [0, 255, 0]);
        assert_eq!(round_trip::<PodVec<u8>>(vec![0, 255, 0], vec![]), [0, 255, 0]);
        assert_eq!(round_trip::<PodVec<[u64; 2]>>(vec![[1, 2], [3, 4]], vec![[5; 2]]), [[1, 2], [3, 4]]);
        assert_eq!(round_trip::<Text>("naïve".to_owned(), "before".to_owned()), "naïve");
        assert_eq!(round_trip::<Pod<u128>>(u128::MAX - 7, 1), u128::MAX - 7);
        let nan = f32::from_bits(0x7fc0_1234);
        let mut bytes = Vec::new();
        Pod::<f32>::encode(&nan, &mut bytes);
        assert_eq!(Pod::<f32>::decode(&bytes).unwrap().to_bits(), nan.to_bits());
        let optional: (Option<Vec<u32>>, Option<Vec<u32>>) = (None, Some(vec![]));
        assert_eq!(round_trip::<Postcard<(Option<Vec<u32>>, _)>>(optional.clone(), (None, None)), optional);
    }

    #[test]
    fn none_an_empty_and_a_zero_value_are_three_values() {
        let values = [None, Some(vec![]), Some(vec![0u32])];
        let mut lengths = Vec::new();
        for item in &values {
            for before in &values {
                assert_eq!(round_trip::<Optional<PodVec<u32>>>(item.clone(), before.clone()), *item);
            }
            let mut bytes = Vec::new();
            Optional::<PodVec<u32>>::encode(item, &mut bytes);
            lengths.push(bytes.len());
        }
        assert_eq!(lengths, [0, 1, 5]);
    }

    #[test]
    fn unaligned_plain_data_decodes() {
        let mut bytes = vec![0];
        Pod::<u128>::encode(&42, &mut bytes);
        assert_eq!(Pod::<u128>::decode(&bytes[1..]), Ok(42));
        let mut bytes = vec![0];
        PodVec::<u32>::encode(&vec![1, 2], &mut bytes);
        assert_eq!(PodVec::<u32>::decode(&bytes[1..]), Ok(vec![1, 2]));
    }

    #[test]
    fn wrong_bytes_are_an_error_that_says_why() {
        assert!(Pod::<u64>::decode(&[1, 2, 3]).unwrap_err().to_string().contains("3 bytes do not decode as pod u64"));
        assert_eq!(Pod::<u64>::view(&[1, 2, 3]), None);
        assert!(Text::decode(&[0xff]).is_err());
        assert!(Postcard::<String>::decode(&[9]).is_err());
        let error = PodVec::<u32>::decode(&[1, 2, 3, 4, 5]).unwrap_err().to_string();
        assert!(error.contains("1 bytes are left over from elements of 4 bytes"), "{error}");
        let error = Optional::<Pod<u8>>::decode(&[2, 0]).unwrap_err().to_string();
        assert!(error.contains("the first byte is 2"), "{error}");
    }
}
