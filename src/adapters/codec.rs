//! Codecs: how keys and values become bytes and back.
//!
//! A codec names itself and its type; the name goes into the region's type tag, so that a cache of one type cannot be
//! attached as one of another. Encoding happens before the partition's lock is taken, decoding after it is released.
//! Bytes of values are aligned to 8 in the region; decoding does not depend on it.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes do not decode as {codec}: {reason}")]
pub struct DecodeError {
    /// The codec.
    pub codec: String,
    /// Length of the bytes.
    pub bytes: usize,
    /// What is wrong with them.
    pub reason: String,
}

/// Turns items into bytes and back, without loss.
pub trait Codec {
    /// What is encoded.
    type Item;

    /// The codec's and the type's name, the same in every process.
    fn name() -> String;

    /// Appends the item's bytes to `out`.
    fn encode(item: &Self::Item, out: &mut Vec<u8>);

    /// The item that `bytes` stand for.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn decode(bytes: &[u8]) -> Result<Self::Item, DecodeError>;
}

/// Byte strings, as they are.
pub struct Bytes;

impl Codec for Bytes {
    type Item = Vec<u8>;

    fn name() -> String {
        "bytes".to_owned()
    }

    fn encode(item: &Vec<u8>, out: &mut Vec<u8>) {
        out.extend_from_slice(item);
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(bytes.to_vec())
    }
}

/// Strings, as UTF-8.
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
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(DecodeError { codec: Self::name(), bytes: bytes.len(), reason: error.to_string() }),
        }
    }
}

/// Plain old data: the bytes of the value itself, in the machine's byte order.
pub struct Pod<T>(PhantomData<T>);

impl<T: bytemuck::NoUninit + bytemuck::AnyBitPattern> Codec for Pod<T> {
    type Item = T;

    fn name() -> String {
        format!("pod {} {}", std::any::type_name::<T>(), size_of::<T>())
    }

    fn encode(item: &T, out: &mut Vec<u8>) {
        out.extend_from_slice(bytemuck::bytes_of(item));
    }

    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        bytemuck::try_pod_read_unaligned(bytes).map_err(|error| DecodeError {
            codec: Self::name(),
            bytes: bytes.len(),
            reason: error.to_string(),
        })
    }
}

/// Anything that serde knows, in postcard's compact format.
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
        postcard::from_bytes(bytes).map_err(|error| DecodeError {
            codec: Self::name(),
            bytes: bytes.len(),
            reason: error.to_string(),
        })
    }
}

/// The tag that a region of these keys and values carries.
pub fn type_tag<K: Codec, V: Codec>() -> u64 {
    let names = format!("{} -> {}", K::name(), V::name());
    xxhash_rust::xxh3::xxh3_64(names.as_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<C: Codec>(item: C::Item) -> C::Item {
        let mut bytes = Vec::new();
        C::encode(&item, &mut bytes);
        C::decode(&bytes).unwrap()
    }

    #[test]
    fn values_come_back_bit_for_bit() {
        assert_eq!(round_trip::<Bytes>(vec![0, 255, 0]), [0, 255, 0]);
        assert_eq!(round_trip::<Text>("naïve".to_owned()), "naïve");
        assert_eq!(round_trip::<Pod<u128>>(u128::MAX - 7), u128::MAX - 7);
        let nan = f32::from_bits(0x7fc0_1234);
        assert_eq!(round_trip::<Pod<f32>>(nan).to_bits(), nan.to_bits());
        let optional: (Option<Vec<u32>>, Option<Vec<u32>>) = (None, Some(vec![]));
        assert_eq!(round_trip::<Postcard<(Option<Vec<u32>>, Option<Vec<u32>>)>>(optional.clone()), optional);
    }

    #[test]
    fn unaligned_plain_data_decodes() {
        let mut bytes = vec![0];
        Pod::<u128>::encode(&42, &mut bytes);
        assert_eq!(Pod::<u128>::decode(&bytes[1..]), Ok(42));
    }

    #[test]
    fn wrong_bytes_are_an_error_that_says_why() {
        assert!(Pod::<u64>::decode(&[1, 2, 3]).unwrap_err().to_string().contains("3 bytes do not decode as pod u64"));
        assert!(Text::decode(&[0xff]).is_err());
        assert!(Postcard::<String>::decode(&[9]).is_err());
    }

    #[test]
    fn tags_tell_types_apart() {
        assert_ne!(type_tag::<Pod<u64>, Bytes>(), type_tag::<Pod<i64>, Bytes>());
        assert_ne!(type_tag::<Bytes, Text>(), type_tag::<Text, Bytes>());
    }
}
